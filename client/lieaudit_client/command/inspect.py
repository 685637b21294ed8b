"""``lieaudit inspect``."""

from __future__ import annotations

import json
from typing import Any

import click
from google.protobuf import json_format

from lieaudit_client.command import exits, service, tables
from lieaudit_client.command.display import Display
from lieaudit_client.command.options import check_writable, server_options, spec_from, spec_options
from lieaudit_client.command.printing import show


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option("--data", type=click.Path(exists=True), help="Run the model on these images; with labels give top-1.")
@click.option("--layers", is_flag=True, help="Also give the module tree with its layouts.")
@server_options
@spec_options
@click.option("--json", "json_file", metavar="FILE", help="Write what was found; - for standard output.")
def inspect(model: str, data: str | None, json_file: str | None, *, layers: bool, **options: Any) -> int:
    """Read MODEL without auditing it: input, output, head, precision, and how its ops are differentiated."""
    check_writable(json_file)
    spec = spec_from(options)
    with service.connect(options) as client, Display() as display:
        uploaded = client.upload_model(model, progress=display.show)
        images = client.upload_dataset(data, progress=display.show).sha256 if data is not None else ""
        found = client.inspect(uploaded.sha256, images, spec, layers=layers)
    values = json_format.MessageToDict(
        found,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        unquote_int64_if_possible=True,
    )
    service.save(json_file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    show(tables.inspection_view(found, layers=layers), to_stderr=json_file == "-")
    return exits.OK

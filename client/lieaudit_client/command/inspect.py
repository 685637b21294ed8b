"""``lieaudit inspect``."""

from __future__ import annotations

import json
from typing import Any

import click
from google.protobuf import json_format

from lieaudit_client.command import exits, service, tables
from lieaudit_client.command.display import Display
from lieaudit_client.command.grouping import IMAGES, OUTPUT, GroupedCommand, hiding, option
from lieaudit_client.command.options import NO_MEASUREMENT, check_writable, server_options, spec_from, spec_options
from lieaudit_client.command.printing import show
from lieaudit_client.sources import refuse_swapped


@click.command(cls=GroupedCommand)
@click.argument("model", type=click.Path(exists=True))
@option(IMAGES, "--data", type=click.Path(exists=True), help="Run the model on these images; with labels give top-1.")
@option(OUTPUT, "--layers", is_flag=True, help="Also give the module tree with its layouts.")
@server_options
@hiding(NO_MEASUREMENT)
@spec_options
@option(OUTPUT, "--json", "json_file", metavar="FILE", help="Write what was found; - for standard output.")
def inspect(model: str, data: str | None, json_file: str | None, *, layers: bool, **options: Any) -> int:
    """Read MODEL without auditing it: input, output, head, precision, and how its ops are differentiated."""
    check_writable(json_file)
    spec = spec_from(options)
    refuse_swapped(model, data or "")
    with Display() as display, service.connect(options, display) as client:
        uploaded = client.upload_model(model, progress=display.show)
        images = client.upload_dataset(data, progress=display.show).sha256 if data is not None else ""
        with display.working("reading the model"):
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

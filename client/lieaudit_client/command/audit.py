"""``lieaudit audit``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from lieaudit_client import registries
from lieaudit_client.command import exits, parsing, results, service, streams
from lieaudit_client.command.display import Display
from lieaudit_client.command.grouping import COMPUTING, IMAGES, SERVICE, GroupedCommand, option
from lieaudit_client.command.options import (
    check_writable,
    layer_options,
    output_files,
    output_options,
    server_options,
    spec_from,
    spec_options,
)


@click.command(cls=GroupedCommand)
@click.argument("model", type=parsing.ModelName())
@option(
    IMAGES, "--data", required=True, type=click.Path(exists=True), help="An .npz, .tar or .zip, or a folder of images."
)
@spec_options
@option(
    COMPUTING,
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up after so long.",
    unset="the service's limit",
)
@output_options
@layer_options
@server_options
@option(
    SERVICE, "--detach", is_flag=True, help="Print the audit's id and leave it to the service; see `lieaudit watch`."
)
@option(SERVICE, "--again", is_flag=True, help="Measure anew what the service has measured before.")
def audit(model: str, data: str, *, detach: bool, **options: Any) -> int:
    """Measure how far MODEL is from equivariant under each symmetry, on the images of DATA.

    MODEL is a file, or a registered model: mlflow:models:/NAME/VERSION, mlflow:models:/NAME@ALIAS, mlflow:models:/m-ID,
    mlflow:runs:/RUN/PATH or hf:OWNER/REPO@REVISION/PATH.
    Without --server the service is started embedded, for this one audit. A service that has measured the same before,
    for you and with the same versions, answers with that report.
    """
    check_writable(*output_files(options))
    spec = spec_from(options)
    if detach and not options["server"]:
        raise click.UsageError("--detach needs --server: an embedded service ends with this command")
    with tempfile.TemporaryDirectory(prefix="lieaudit-audit-") as folder, Display() as display:
        file, label = _fetched(model, Path(folder), display)
        with service.connect(options, display) as client:
            if detach:
                streams.out(service.start(client, file, data, spec, options, display) + "\n")
                return exits.OK
            report = service.audit(client, file, data, spec, options, display)
        report.model.name = label or report.model.name
    return results.deliver(report, options)


def _fetched(model: str, folder: Path, display: Display) -> tuple[str, str]:
    """Return a model's file here, and what its registry calls it: empty where it is a file."""
    if not registries.is_named(model):
        return model, ""
    with display.working(f"fetching {model}"):
        found = registries.fetch(model, folder)
    return str(found.path), found.label

"""``lieaudit audit``."""

from __future__ import annotations

from typing import Any

import click

from lieaudit_client.command import exits, service, tables
from lieaudit_client.command.display import Display
from lieaudit_client.command.options import check_writable, layer_options, server_options, spec_from, spec_options
from lieaudit_client.command.printing import show
from lieaudit_client.formats import html as page
from lieaudit_client.report_json import dump_report


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--data", required=True, type=click.Path(exists=True), help="An .npz, .tar or .zip, or a folder of images."
)
@server_options
@spec_options
@click.option(
    "--deadline", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Give up after so long."
)
@layer_options
@click.option("--json", "json_file", metavar="FILE", help="Write the report; - for standard output.")
@click.option("--html", "html_file", metavar="FILE", help="Write a page.")
def audit(
    model: str, data: str, json_file: str | None, html_file: str | None, *, top: int, trees: bool, **options: Any
) -> int:
    """Measure how far MODEL is from equivariant under each symmetry, on the images of DATA.

    Without --server the service is started embedded, for this one audit.
    """
    check_writable(json_file, html_file)
    spec = spec_from(options)
    with service.connect(options) as client, Display() as display:
        report = service.audit(client, model, data, spec, options, display)
    service.save(json_file, dump_report(report))
    if html_file is not None:
        service.save(html_file, page.render(report))
    show(tables.report_view(report, top=top, trees=trees), to_stderr="-" in {json_file, html_file})
    return exits.OK if report.status == "ok" else exits.INCOMPLETE

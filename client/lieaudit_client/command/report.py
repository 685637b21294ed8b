"""``lieaudit report``."""

from __future__ import annotations

import click

from lieaudit_client.command import exits, service, tables
from lieaudit_client.command.grouping import GroupedCommand
from lieaudit_client.command.options import check_writable, layer_options
from lieaudit_client.command.printing import show
from lieaudit_client.formats import html as page
from lieaudit_client.report_json import read_report


@click.command(cls=GroupedCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--html", "html_file", metavar="FILE", help="Write a page instead of showing tables; - for standard output."
)
@layer_options
def report(file: str, html_file: str | None, *, top: int, trees: bool) -> int:
    """Show the report in FILE, as `lieaudit audit --json` wrote it."""
    check_writable(html_file)
    found = read_report(file)
    if html_file is None:
        show(tables.report_view(found, top=top, trees=trees), to_stderr=False)
    else:
        service.save(html_file, page.render(found))
    return exits.OK if found.status == "ok" else exits.INCOMPLETE

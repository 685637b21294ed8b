"""``lieaudit report``."""

from __future__ import annotations

import click

from lieaudit_client.command import exits, parsing, service, tables
from lieaudit_client.command.grouping import GroupedCommand
from lieaudit_client.command.options import check_writable, layer_options
from lieaudit_client.command.printing import show
from lieaudit_client.formats import files
from lieaudit_client.report_json import read_report


@click.command(cls=GroupedCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--html", "html_file", metavar="FILE", help="Write a page instead of showing tables; - for standard output."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME=FILE",
    callback=parsing.report_formats,
    help=f"Write it in another format instead (repeatable): {', '.join(files.names())}; - for standard output.",
)
@layer_options
def report(file: str, html_file: str | None, formats: tuple[tuple[str, str], ...], *, top: int, trees: bool) -> int:
    """Show the report in FILE, as `lieaudit audit --json` wrote it."""
    written = (*formats, *([("html", html_file)] if html_file is not None else ()))
    check_writable(*(name for _, name in written))
    found = read_report(file)
    if not written:
        show(tables.report_view(found, top=top, trees=trees), to_stderr=False)
    for name, target in written:
        service.save(target, files.render(name, found))
    return exits.OK if found.status == "ok" else exits.INCOMPLETE

"""What is done with a report that has arrived: files, the table, the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lieaudit_api.v1 import report_pb2

from lieaudit_client.command import exits, service, tables
from lieaudit_client.command.options import output_files
from lieaudit_client.command.printing import show
from lieaudit_client.formats import files
from lieaudit_client.formats import html as page
from lieaudit_client.report_json import dump_report


def deliver(report: report_pb2.Report, options: Mapping[str, Any]) -> int:
    """Write what the options of `output_options` ask for, show the table, and return the exit code."""
    json_file, html_file = options["json_file"], options["html_file"]
    service.save(json_file, dump_report(report))
    if html_file is not None:
        service.save(html_file, page.render(report))
    for name, file in options["formats"]:
        service.save(file, files.render(name, report))
    view = tables.report_view(report, top=options["top"], trees=options["trees"])
    show(view, to_stderr="-" in output_files(options))
    return exits.OK if report.status == "ok" else exits.INCOMPLETE

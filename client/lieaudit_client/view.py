"""A report of the service in a notebook."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lieaudit_api.v1 import report_pb2

from lieaudit_client.notebook import Notebook
from lieaudit_client.report_json import read_report, report_to_json


class ReportView(Notebook):
    """Shows a report: ``_repr_html_``, a short repr, `to_pandas`, `plot` and `save` (``.html``: the whole page).

    Parameters
    ----------
    report
        ``lieaudit.v1.Report``, as a client returns it, or the path of a report file. Raises `ReportError` where that is
        none.

    Examples
    --------
    >>> ReportView(client.audit("model.onnx", "images.npz")).plot()  # doctest: +SKIP
    """

    __slots__ = ("report",)

    def __init__(self, report: report_pb2.Report | str | Path) -> None:
        self.report = read_report(report) if isinstance(report, str | Path) else report

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, ``lieaudit.report/1``."""
        return dict(report_to_json(self.report))

    def _page(self) -> str:
        from lieaudit_client.formats import html

        return html.render(self.report)


def show_in_notebooks() -> None:
    """Let IPython, where it runs, show a report that stands last in a cell as its table."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    formatters = getattr(getattr(shell, "display_formatter", None), "formatters", {})
    if "text/html" in formatters:
        formatters["text/html"].for_type(report_pb2.Report, lambda report: ReportView(report)._repr_html_())

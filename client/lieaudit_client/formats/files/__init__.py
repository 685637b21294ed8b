"""The formats that a report is written to a file in, for ``--format NAME=FILE``.

One module each: its name is the format's, its docstring the help, and its ``render`` returns the text of a
``lieaudit.v1.Report``. A module that is put here is an option of every command that writes reports.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from lieaudit_api.v1 import report_pb2


def names() -> tuple[str, ...]:
    """Return the formats by name."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def render(name: str, report: report_pb2.Report) -> str:
    """Return a report as the text of a file in this format, one of `names`."""
    text: str = import_module(f"{__name__}.{name}").render(report)
    return text

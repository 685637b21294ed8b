"""The formats that a report is written to a file in, for ``--format NAME=FILE``.

One module each: its name is the format's, its docstring the help, and its ``render`` returns the text of a
``lieaudit.v1.Report``. A module that is put here is an option of every command that writes reports. Other distributions
bring theirs by entry points of the group ``lieaudit.report_formats``, functions of a ``lieaudit.v1.Report``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

from lieaudit_api.v1 import report_pb2

from lieaudit_client.formats import brought

GROUP = "lieaudit.report_formats"


def names() -> tuple[str, ...]:
    """Return the formats by name, the client's own first."""
    own = _own()
    return (*own, *(name for name in brought.names(GROUP) if name not in own))


def find(name: str) -> Callable[[report_pb2.Report], str]:
    """Return the function of a format, one of `names`; that of another distribution is loaded now.

    Raises `InvalidInputError` FORMAT_NOT_LOADED where that fails.
    """
    if name in _own():
        own: Callable[[report_pb2.Report], str] = import_module(f"{__name__}.{name}").render
        return own
    return brought.function(GROUP, name)


def render(name: str, report: report_pb2.Report) -> str:
    """Return a report as the text of a file in this format, one of `names`."""
    return find(name)(report)


def _own() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))

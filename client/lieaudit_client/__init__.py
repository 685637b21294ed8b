"""Client of the lieaudit service, which measures how equivariant an image model is.

`Client` and `AsyncClient` do the same; the exceptions are drawn as a tree in `lieaudit_client.exceptions`. Nothing here
imports numpy, onnx, onnxruntime or torch.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lieaudit_client.exceptions import (
    AuditCancelledError,
    AuditFailedError,
    BusyError,
    CallTimeoutError,
    ClientError,
    IncompatibleVersionError,
    InvalidInputError,
    NotFoundError,
    OutputError,
    PermissionDeniedError,
    RefusedError,
    ReportError,
    ServerError,
    UnauthenticatedError,
    UnreachableError,
)
from lieaudit_client.progress import Progress

if TYPE_CHECKING:
    from lieaudit_client._steps import Retry
    from lieaudit_client.aio import AsyncClient
    from lieaudit_client.client import Client
    from lieaudit_client.preprocessing import PRESETS, parse_preprocessing
    from lieaudit_client.report_json import dump_report, read_report, report_from_json, report_to_json
    from lieaudit_client.view import ReportView, show_in_notebooks

__all__ = [
    "PRESETS",
    "AsyncClient",
    "AuditCancelledError",
    "AuditFailedError",
    "BusyError",
    "CallTimeoutError",
    "Client",
    "ClientError",
    "IncompatibleVersionError",
    "InvalidInputError",
    "NotFoundError",
    "OutputError",
    "PermissionDeniedError",
    "Progress",
    "RefusedError",
    "ReportError",
    "ReportView",
    "Retry",
    "ServerError",
    "UnauthenticatedError",
    "UnreachableError",
    "dump_report",
    "parse_preprocessing",
    "read_report",
    "report_from_json",
    "report_to_json",
    "show_in_notebooks",
]

# These bring grpc and the messages with them; the command's --version and --help do not wait for those.
_HOMES = {
    "PRESETS": "preprocessing",
    "AsyncClient": "aio",
    "Client": "client",
    "ReportView": "view",
    "Retry": "_steps",
    "dump_report": "report_json",
    "parse_preprocessing": "preprocessing",
    "read_report": "report_json",
    "report_from_json": "report_json",
    "report_to_json": "report_json",
    "show_in_notebooks": "view",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lieaudit_client' has no attribute {name!r}")
    return getattr(import_module(f"lieaudit_client.{_HOMES[name]}"), name)


if "IPython" in sys.modules:  # where it runs, a report that stands last in a cell is shown as its table
    import_module("lieaudit_client.view").show_in_notebooks()

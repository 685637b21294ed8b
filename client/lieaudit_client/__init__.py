"""Client of the lieaudit service, which measures how equivariant an image model is.

`Client` and `AsyncClient` do the same; the exceptions are drawn as a tree in `lieaudit_client.exceptions`. Nothing here
imports numpy, onnx, onnxruntime or torch.
"""

from lieaudit_client._steps import Retry
from lieaudit_client.aio import AsyncClient
from lieaudit_client.client import Client
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
from lieaudit_client.preprocessing import PRESETS, parse_preprocessing
from lieaudit_client.progress import Progress
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

show_in_notebooks()

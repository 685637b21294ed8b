"""An audit that was asked for before is answered from its report, where it would come out the same again."""

from __future__ import annotations

import platform

from google.protobuf.message import DecodeError
from lieaudit_api.v1 import report_pb2

from lieaudit.environment import version_of
from lieaudit.report import METRIC_VERSION
from lieaudit_server.errors import ServiceError
from lieaudit_server.services.context import Context
from lieaudit_server.store import audits, reports
from lieaudit_server.store.audits import Audit

_BYTES = 64 * 2**20  # a larger report is not looked into: all callers share the server's memory


async def alike(context: Context, asked: Audit) -> Audit | None:
    """Return the owner's latest audit of the same request that succeeded with the versions installed here, if any.

    The request's digest covers model, images and specification; names decide too, for the report holds them.
    """
    found = await context.database.run(lambda db: audits.find_alike(db, asked.owner, asked.request_sha256))
    if found is None or found.blobs != asked.blobs or found.threads != asked.threads or found.device != asked.device:
        return None
    if found.report is None or found.report.size > _BYTES:
        return None
    return found if await context.convert(lambda: _is_current(context, found), at_once=False) else None


def _is_current(context: Context, audit: Audit) -> bool:
    report = report_pb2.Report()
    try:
        report.ParseFromString(b"".join(reports.chunks(context.folder, audit)))
    except (ServiceError, DecodeError):  # a damaged report is measured again
        return False
    there = report.environment
    here = {
        "lieaudit": version_of("lieaudit"),
        "onnxruntime": version_of("onnxruntime") or version_of("onnxruntime-gpu"),
        "onnx": version_of("onnx"),
        "numpy": version_of("numpy"),
        "python": platform.python_version(),
        "torch": version_of("torch") if there.torch else "",
    }
    same = all(getattr(there, name) == version for name, version in here.items())
    return same and report.metric_version == METRIC_VERSION

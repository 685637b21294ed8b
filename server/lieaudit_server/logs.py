"""Structured logs on standard error: one JSON object a line, with the request id and the audit id."""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import time

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""Id of the call being served; the client sees the same in ErrorInfo."""

_EXTRA = ("audit_id", "owner", "method", "code", "seconds", "reason", "worker_log")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            values["request_id"] = request_id.get()
        values.update({name: getattr(record, name) for name in _EXTRA if hasattr(record, name)})
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        extra = {name: getattr(record, name) for name in _EXTRA if hasattr(record, name) and name != "worker_log"}
        if request_id.get():
            extra["request_id"] = request_id.get()
        record.msg = record.getMessage() + "".join(f" {name}={value}" for name, value in extra.items())
        record.args = None
        return super().format(record)


def configure(level: str, format_: str) -> None:
    """Send all logs of this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    text = _Text("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_Json() if format_ == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

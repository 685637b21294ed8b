"""OpenTelemetry traces of calls, where the operator asks for them (extra ``otel``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lieaudit_server.errors import ConfigError


class Tracer:
    """Starts and ends one span per call; without `enabled` it does nothing.

    Raises `ConfigError` where traces are asked for and the packages are missing.
    """

    def __init__(self, *, enabled: bool, version: str) -> None:
        self._tracer: Any = None
        if not enabled:
            return
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as problem:
            raise ConfigError("otel: pip install 'lieaudit-server[otel]' for OpenTelemetry traces") from problem
        resource = Resource.create({"service.name": "lieaudit-server", "service.version": version})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("lieaudit_server", version)
        self._extract = propagate.extract
        self._server_kind = trace.SpanKind.SERVER
        self._error = trace.StatusCode.ERROR

    def start(self, method: str, request_id: str, metadata: Mapping[str, Any]) -> Any:
        """Start the span of a call, as a child of the trace in its headers."""
        if self._tracer is None:
            return None
        service, _, name = method.strip("/").partition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": name,
            "lieaudit.request_id": request_id,
        }
        carrier = {key: value for key, value in metadata.items() if isinstance(value, str)}
        return self._tracer.start_span(
            method.strip("/"), context=self._extract(carrier), kind=self._server_kind, attributes=attributes
        )

    def end(self, span: Any, code: str) -> None:
        """End the span of a call."""
        if span is not None:
            span.set_attribute("rpc.grpc.status_code", code)
            if code != "OK":
                span.set_status(self._error, code)
            span.end()

    def close(self) -> None:
        """Send what is left."""
        if self._tracer is not None:
            self._provider.shutdown()

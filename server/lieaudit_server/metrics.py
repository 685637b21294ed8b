"""Prometheus metrics: what runs, how long it took, what died, how many bytes came in."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from lieaudit_server.errors import ConfigError

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
_AUDIT_SECONDS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
_ROWS = (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0, 100000.0)


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.queued = Gauge("lieaudit_queued_audits", "Audits waiting", registry=registry)
        self.running = Gauge("lieaudit_running_audits", "Audits running", registry=registry)
        self.audits = Counter("lieaudit_audits", "Audits that ended", ["state"], registry=registry)
        self.audit_seconds = Histogram(
            "lieaudit_audit_seconds", "Wall-clock time of audits", buckets=_AUDIT_SECONDS, registry=registry
        )
        self.rows_per_second = Histogram(
            "lieaudit_rows_per_second", "Session rows per second of an audit", buckets=_ROWS, registry=registry
        )
        self.worker_failures = Counter(
            "lieaudit_worker_failures", "Workers that ended without a report", ["reason"], registry=registry
        )
        self.uploaded = Counter("lieaudit_uploaded_bytes", "Bytes received", ["kind"], registry=registry)
        self.stored = Gauge("lieaudit_stored_bytes", "Bytes of stored models and data sets", registry=registry)
        self.free = Gauge("lieaudit_disk_free_bytes", "Bytes free on the data volume", registry=registry)
        self.rpcs = Counter("lieaudit_rpcs", "Calls served", ["method", "code"], registry=registry)
        self.rpc_seconds = Histogram(
            "lieaudit_rpc_seconds", "Time to serve a call", ["method"], buckets=_SECONDS, registry=registry
        )
        self.loop_lag = Histogram(
            "lieaudit_event_loop_lag_seconds",
            "How late the event loop was, twenty times a second",
            buckets=_SECONDS,
            registry=registry,
        )

    def serve(self, listen: str) -> None:
        """Serve ``/metrics`` over HTTP at ``HOST:PORT``. Raises `ConfigError` where that cannot be done."""
        host, _, port = listen.rpartition(":")
        try:
            start_http_server(int(port), addr=host.strip("[]") or "0.0.0.0", registry=self.registry)  # noqa: S104
        except (OSError, ValueError) as problem:
            raise ConfigError(f"metrics_listen: cannot serve on {listen}: {problem}") from problem

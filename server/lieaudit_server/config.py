"""Everything an operator can set: one dataclass, from which flags, environment variables and their table are made."""

from __future__ import annotations

import argparse
import dataclasses
import ipaddress
import os
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from lieaudit_server.errors import ConfigError

_ENVIRONMENT_PREFIX = "LIEAUDIT_"
WORKER_MIB = 256
"""MiB that a worker needs for itself (libraries, threads, a small graph) before activations and rows."""
_LEAST_BUDGET_MIB = 16
_LAST_PORT = 65535
_LONGEST_SOCKET = 107  # of sun_path, without its end


@dataclass(frozen=True, slots=True)
class Config:
    """The server's settings; sizes in bytes or MiB and times in seconds, as their names say.

    Raises `ConfigError` where a value is out of range or two contradict each other.
    """

    data_dir: Annotated[Path, "folder for the state and all blobs; one server at a time"] = Path("lieaudit-data")
    listen: Annotated[str, "HOST:PORT or unix:/path; port 0 takes a free one"] = "127.0.0.1:50151"
    insecure: Annotated[bool, "allow a non-loopback address without TLS and tokens"] = False
    tls_cert: Annotated[Path | None, "certificate chain (PEM); re-read when it changes"] = None
    tls_key: Annotated[Path | None, "private key (PEM)"] = None
    tls_client_ca: Annotated[Path | None, "authority whose client certificates are required (mutual TLS)"] = None
    tokens_file: Annotated[
        Path | None, "hashed bearer tokens (`lieaudit-server token add`); re-read when it changes"
    ] = None
    metrics_listen: Annotated[str, "HOST:PORT of the Prometheus metrics; empty: none"] = ""
    otel: Annotated[bool, "send OpenTelemetry traces (extra `otel`; OTEL_* variables apply)"] = False
    log_level: Annotated[str, "debug, info, warning or error"] = "info"
    log_format: Annotated[str, "json or text, on standard error"] = "json"
    cpu_threads: Annotated[int, "threads that all audits share; 0: the cores this process may use"] = 0
    threads_per_audit: Annotated[int, "threads of an audit that asks for none; 0: up to four"] = 0
    gpus: Annotated[tuple[int, ...], "CUDA device ids to give to audits, one audit each (comma-separated)"] = ()
    owner_share: Annotated[
        float,
        "largest part of the CPU threads, and of the GPUs, that one owner's audits hold, where owners are told apart",
    ] = 0.75
    memory_mib: Annotated[int, "memory limit of one worker on the CPU (RLIMIT_DATA)"] = 8192
    gpu_memory_mib: Annotated[int, "host memory limit of one worker on a GPU (RLIMIT_DATA)"] = 65536
    deadline_seconds: Annotated[float, "longest wall-clock time of one audit; what a client asks for is cut to it"] = (
        86400.0
    )
    max_attempts: Annotated[
        int, "starts of an audit before it fails because its worker or server keeps being killed"
    ] = 10
    max_memory_attempts: Annotated[
        int, "starts of an audit before it fails because the kernel had no memory left each time"
    ] = 2
    require_sandbox: Annotated[
        bool, "do not start where the kernel lacks something that confines workers (docs/security.md)"
    ] = False
    worker_user: Annotated[int, "id of the user and group that workers take where the server is root; 0: root"] = 65534
    max_log_bytes: Annotated[int, "output of one worker before it is stopped for flooding the log"] = 16 * 2**20
    max_report_bytes: Annotated[int, "largest report"] = 256 * 2**20
    max_queued: Annotated[int, "audits waiting, of all owners together"] = 1000
    max_queued_per_owner: Annotated[int, "audits waiting, of one owner"] = 200
    probes: Annotated[int, "uploads and models checked at the same time, each in a process of its own"] = 2
    probe_seconds: Annotated[float, "longest time of one such check"] = 120.0
    probe_memory_mib: Annotated[int, "memory limit of one such check"] = 8192
    max_model_bytes: Annotated[int, "largest uploaded model"] = 2 * 2**30
    max_dataset_bytes: Annotated[int, "largest uploaded data set"] = 8 * 2**30
    max_images: Annotated[int, "most images in a data set"] = 1_000_000
    max_image_pixels: Annotated[int, "most pixels of one image, before it is decoded"] = 64 * 2**20
    max_unpacked_bytes: Annotated[int, "largest content of an archive"] = 16 * 2**30
    max_archive_members: Annotated[int, "most members of an archive"] = 1_000_000
    max_graph_nodes: Annotated[int, "most nodes of a graph, subgraphs included"] = 200_000
    max_initializer_bytes: Annotated[int, "most bytes of a graph's weights"] = 4 * 2**30
    max_graph_nesting: Annotated[int, "deepest nesting of subgraphs"] = 16
    upload_idle_seconds: Annotated[
        float, "an upload stream that sends nothing for so long is ended (and can be resumed)"
    ] = 60.0
    upload_bytes_per_second: Annotated[
        int, "an upload stream slower than this over half a minute is ended (and can be resumed)"
    ] = 512
    max_uploads_per_owner: Annotated[int, "half-done uploads of one owner"] = 100
    quota_bytes_per_owner: Annotated[int, "bytes of one owner's models, data sets and reports; 0: no quota"] = 0
    min_free_bytes: Annotated[int, "uploads and audits are refused where the disk would have less left"] = 256 * 2**20
    retention_days: Annotated[
        float, "finished audits, and models and data sets unused for so long, are deleted; 0: never"
    ] = 0.0
    partial_retention_hours: Annotated[float, "half-done uploads untouched for so long are deleted"] = 72.0
    quarantine_hours: Annotated[
        float, "hours of running for which what is old by the clock is kept, and then kept again in quarantine"
    ] = 24.0
    max_rpcs: Annotated[int, "calls of identified callers served at the same time"] = 1000
    max_rpcs_per_owner: Annotated[int, "of them calls of one owner"] = 250
    max_rpcs_per_peer: Annotated[
        int,
        "streams of one address without identity (health watches, reflection); behind a proxy all are one address",
    ] = 64
    max_rate_per_owner: Annotated[
        float, "calls of one owner a second, in the long run; those beyond wait. 0: no bound"
    ] = 200.0
    max_connections: Annotated[int, "connections at the same time"] = 4096
    max_connections_per_peer: Annotated[
        int, "of them those of one address, or of one /64 network of IPv6; behind a proxy all are one. 0: no bound"
    ] = 512
    no_reflection: Annotated[bool, "do not offer server reflection"] = False
    drain_seconds: Annotated[
        float, "time for running calls and audits after SIGTERM; interrupted audits resume at the next start"
    ] = 20.0
    torch_factories: Annotated[
        tuple[str, ...], "NAME=module:function, comma-separated: functions that build torch modules for `torch_factory`"
    ] = ()
    generators: Annotated[
        tuple[str, ...],
        "entry points `lieaudit.generators` of installed distributions whose fields audits may name, comma-separated",
    ] = ()
    measures: Annotated[
        tuple[str, ...],
        "entry points `lieaudit.measures` of installed distributions that policies may bound, comma-separated",
    ] = ()
    exit_with_parent: Annotated[bool, "stop when standard input is closed (the embedded service)"] = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value < 2**62:
                raise ConfigError(f"{field.name}: {value} is not a number from 0 up")
        if self.log_level not in {"debug", "info", "warning", "error"}:
            raise ConfigError(f"log_level: {self.log_level!r} is not debug, info, warning or error")
        if self.log_format not in {"json", "text"}:
            raise ConfigError(f"log_format: {self.log_format!r} is neither json nor text")
        for name in ("memory_mib", "gpu_memory_mib", "probe_memory_mib"):
            least = WORKER_MIB + _LEAST_BUDGET_MIB
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: {getattr(self, name)} MiB are too few; a worker needs at least {least}")
        check_address("listen", self.listen)
        if self.metrics_listen:
            check_address("metrics_listen", self.metrics_listen)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key belong together: give both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ConfigError("tls_client_ca: mutual TLS needs tls_cert and tls_key too")
        factories(self.torch_factories)
        self._check_exposure()

    def _check_exposure(self) -> None:
        identified = self.tokens_file is not None or self.tls_client_ca is not None
        if self.insecure or is_loopback(self.listen) or (self.tls_cert is not None and identified):
            return
        raise ConfigError(
            f"listen: {self.listen} can be reached from other machines; that needs tls_cert and tls_key together with "
            "tokens_file or tls_client_ca. --insecure overrides this"
        )

    @property
    def total_threads(self) -> int:
        """Number of CPU threads that all audits share."""
        available = len(os.sched_getaffinity(0))
        return min(self.cpu_threads, available) if self.cpu_threads else available

    @property
    def default_threads(self) -> int:
        """Threads of an audit whose spec asks for none."""
        return min(self.threads_per_audit or 4, self.total_threads)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach the address ``HOST:PORT`` or ``unix:PATH``."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(name: str, listen: str) -> None:
    """Raise `ConfigError` where the setting ``name`` is neither ``HOST:PORT`` nor, for ``listen``, ``unix:PATH``."""
    if name == "listen" and listen.startswith("unix:") and listen != "unix:":
        if len(os.fsencode(listen.removeprefix("unix:"))) > _LONGEST_SOCKET:
            raise ConfigError(f"listen: the path of a unix socket has at most {_LONGEST_SOCKET} bytes: {listen!r:.200}")
        return
    host, colon, port = listen.rpartition(":")
    if not colon or listen == "unix:" or (":" in host and not (host.startswith("[") and host.endswith("]"))):
        form = "HOST:PORT or unix:/path" if name == "listen" else "HOST:PORT"
        raise ConfigError(f"{name}: {listen!r} is not of the form {form}")
    if not (port.isascii() and port.isdigit() and int(port) <= _LAST_PORT):
        raise ConfigError(f"{name}: the port of {listen!r} is not a number from 0 to {_LAST_PORT}")


def factories(entries: Sequence[str]) -> dict[str, str]:
    """Read ``NAME=module:function`` entries. Raises `ConfigError` on any other form."""
    table = {}
    for entry in entries:
        name, equals, target = entry.partition("=")
        module, colon, function = target.partition(":")
        if not (name and equals and module and colon and function):
            raise ConfigError(f"torch_factories: {entry!r} is not of the form NAME=module:function")
        table[name] = target
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; a flag that is not given leaves the environment variable or the default."""
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        text = _help(field.name).replace("%", "%%")
        if field.default is False:
            parser.add_argument(flag, action="store_const", const="true", help=text)
        else:
            parser.add_argument(flag, metavar="VALUE", help=text)


def read(arguments: Mapping[str, str | None], environment: Mapping[str, str]) -> Config:
    """Build the settings from parsed flags, then environment variables (``LIEAUDIT_<NAME>``), then defaults."""
    hints = typing.get_type_hints(Config)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        text = arguments.get(field.name)
        if text is None:
            text = environment.get(_ENVIRONMENT_PREFIX + field.name.upper())
        if text is not None:
            values[field.name] = _parse(field.name, hints[field.name], text)
    return Config(**values)


def _help(name: str) -> str:
    return str(typing.get_type_hints(Config, include_extras=True)[name].__metadata__[0])


def _parse(name: str, kind: Any, text: str) -> Any:
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False, "": False}[text.lower()]
        if typing.get_origin(kind) is tuple:
            element = typing.get_args(kind)[0]
            return tuple(element(item) for item in text.split(",") if item)
        if kind == (Path | None):
            return Path(text) if text else None
        return kind(text)
    except (KeyError, ValueError) as problem:
        expected = "true or false" if kind is bool else getattr(kind, "__name__", str(kind))
        raise ConfigError(f"{name}: {text!r} cannot be read as {expected}") from problem


def markdown_table() -> str:
    """Make the table of docs/operations.md: flag, environment variable, default, meaning."""
    lines = ["| flag | environment variable | default | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(Config):
        flag = "--" + field.name.replace("_", "-")
        default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        shown = "" if default in {None, "", False} else f"`{default}`"
        lines.append(f"| `{flag}` | `{_ENVIRONMENT_PREFIX}{field.name.upper()}` | {shown} | {_help(field.name)} |")
    return "\n".join(lines) + "\n"

"""What subcommands do with a service: connect (or start it embedded), audit, save."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from lieaudit_api.v1 import report_pb2, spec_pb2

from lieaudit_client.client import Client
from lieaudit_client.command import streams
from lieaudit_client.command.display import Display
from lieaudit_client.exceptions import ClientError, InvalidInputError, UnreachableError
from lieaudit_client.printable import printable
from lieaudit_client.progress import Progress
from lieaudit_client.sources import refuse_swapped

# What the environment says is about another service than the one started here.
_NONE: dict[str, Any] = {
    "token": "",
    "ca_file": "",
    "cert_file": "",
    "key_file": "",
    "tls_name": "",
    "insecure": False,
}


@contextlib.contextmanager
def connect(options: Mapping[str, Any], display: Display | None = None) -> Iterator[Client]:
    """Return a client of the service that the options of `server_options` name, or of one started for this call.

    ``display`` shows that it is being started: that takes seconds.
    """
    if options["server"]:
        with Client(options["server"], **credentials(options)) as client:
            yield client
        return
    for name in ("token_file", "ca_file", "cert_file", "key_file", "tls_name", "insecure"):
        if options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --server")
    with contextlib.ExitStack() as stack:
        with display.working("starting the service") if display is not None else contextlib.nullcontext():
            target = stack.enter_context(_embedded())
        yield stack.enter_context(Client(target, **_NONE))


def credentials(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Client` from the options of `server_options`."""
    names = ("ca_file", "cert_file", "key_file", "tls_name", "insecure")
    found = {name: options[name] for name in names}
    if options["token_file"]:
        try:
            found["token"] = Path(options["token_file"]).read_bytes().decode("ascii", "replace").strip()
        except OSError as problem:
            raise InvalidInputError(
                f"cannot read {options['token_file']}: {problem.strerror}",
                reason="UNREADABLE_FILE",
                subject=options["token_file"],
            ) from problem
    return found


def audit(
    client: Client, model: str, data: str, spec: spec_pb2.AuditSpec, options: Mapping[str, Any], display: Display
) -> report_pb2.Report:
    """Run one audit, shown on ``display``; an interrupted command cancels its audit.

    What the service has measured before is not measured again, unless ``--again`` asks for it.
    """
    audit_id = ""

    def progress(step: Progress) -> None:
        nonlocal audit_id
        audit_id = step.audit_id or audit_id
        display.show(step)

    spec = _with_torch(client, spec, options, display)
    deadline, reuse = options.get("deadline"), not options.get("again")
    try:
        return client.audit(model, data, spec, deadline=deadline, reuse=reuse, progress=progress)
    except (KeyboardInterrupt, SystemExit):
        if audit_id:
            with contextlib.suppress(ClientError):
                client.cancel(audit_id, timeout=5.0)
                streams.say(printable(f"audit {audit_id} is cancelled"))
        raise


def start(
    client: Client, model: str, data: str, spec: spec_pb2.AuditSpec, options: Mapping[str, Any], display: Display
) -> str:
    """Upload what the service has not, queue an audit, and give its id."""
    refuse_swapped(model, data)
    spec = _with_torch(client, spec, options, display)
    uploaded = client.upload_model(model, progress=display.show)
    dataset = client.upload_dataset(data, progress=display.show)
    reuse = not options.get("again")
    made = client.create_audit(uploaded.sha256, dataset.sha256, spec, deadline=options.get("deadline"), reuse=reuse)
    return made.id


def save(path: str | None, text: str) -> None:
    """Write a text to a file, or to standard output for ``-``.

    Raises
    ------
    InvalidInputError
        ``UNWRITABLE_FILE``: the path names no place where this user can write.
    OutputError
        The place takes no more: a full disk, a closed pipe.
    """
    if path == "-":
        streams.out(text)
    elif path is not None:
        try:
            Path(path).write_text(text, encoding="utf-8")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as problem:
            raise InvalidInputError(
                f"cannot write {path}: {problem.strerror}", reason="UNWRITABLE_FILE", subject=path
            ) from problem
        except OSError as problem:
            raise streams.output_error(path, problem) from problem


def _with_torch(
    client: Client, spec: spec_pb2.AuditSpec, options: Mapping[str, Any], display: Display
) -> spec_pb2.AuditSpec:
    for option, field in (("torch_source", "torch_source"), ("weights", "torch_weights")):
        if options.get(option):
            setattr(spec, field, client.upload_model(options[option], progress=display.show).sha256)
    return spec


@contextlib.contextmanager
def _embedded() -> Iterator[str]:
    try:
        from lieaudit_server.embedded import EmbeddedServer
        from lieaudit_server.errors import ConfigError
    except ModuleNotFoundError as problem:
        raise UnreachableError(
            f"no --server is given, and the service cannot be started here: {problem.name} is not installed",
            reason="SERVER_NOT_INSTALLED",
            subject=str(problem.name),
            hint="pip install 'lieaudit-server[cpu]', or give --server HOST:PORT",
        ) from problem
    with contextlib.ExitStack() as stack:
        try:
            target = stack.enter_context(EmbeddedServer())
        except (ConfigError, OSError) as problem:
            raise UnreachableError(
                f"the service cannot be started here: {problem}",
                reason="SERVER_NOT_STARTED",
                subject="lieaudit-server",
                hint="do LIEAUDIT_… environment variables set something it refuses?",
            ) from problem
        yield target

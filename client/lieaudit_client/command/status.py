"""``lieaudit status``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import click
from lieaudit_api.v1 import audit_pb2
from rich.console import RenderableType
from rich.text import Text

from lieaudit_client.client import Client
from lieaudit_client.command import exits, service
from lieaudit_client.command.grouping import GroupedCommand
from lieaudit_client.command.health import DEFAULT_SERVER
from lieaudit_client.command.options import server_options
from lieaudit_client.command.printing import show
from lieaudit_client.formats.columns import Column, Fitted
from lieaudit_client.printable import printable_copy

_COLUMNS = (
    Column("audit"),
    Column("state"),
    Column("stage", 1, wraps=True, bare=True),
    Column("created", 2),
    Column("model", 4),
    Column("images", 5),
    Column("owner", 3, wraps=True),
)


@click.command(cls=GroupedCommand)
@server_options
@click.option("--last", default=10, type=click.IntRange(0), show_default=True, help="How many audits to list.")
def status(last: int, **options: Any) -> int:
    """Show what the service is doing: version, providers, queue, and the latest audits you may see."""
    server = options["server"] or DEFAULT_SERVER
    with Client(server, **service.credentials(options)) as client:
        info = client.server_info()
        audits = list(itertools.islice(client.audits(), last))
    show(_view(server, info, audits), to_stderr=False)
    return exits.OK


def _view(server: str, info: audit_pb2.ServerInfo, audits: list[audit_pb2.Audit]) -> Iterable[RenderableType]:
    info = printable_copy(info)
    yield Text(f"lieaudit {info.version} at {server}, interface {info.api_version}")
    yield Text(f"providers {', '.join(info.providers) or 'none'}")
    yield Text(f"{info.running} running, {info.queued} queued, {info.slots} slots")
    if audits:
        yield Text("")
        yield Fitted(_COLUMNS, [_cells(audit) for audit in map(printable_copy, audits)])


def _cells(audit: audit_pb2.Audit) -> list[str]:
    step = audit.progress
    amount = f"{step.stage} {step.done}/{step.total}" if step.total else step.stage
    said = f"{audit.failure.reason}: {audit.failure.message}" if audit.state == "failed" else amount
    return [
        audit.id,
        audit.state,
        said,
        audit.created.ToDatetime().isoformat(" ", "seconds"),
        audit.model_sha256[:12],
        audit.dataset_sha256[:12],
        audit.owner,
    ]

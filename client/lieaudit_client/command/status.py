"""``lieaudit status``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import click
from lieaudit_api.v1 import audit_pb2
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lieaudit_client.client import Client
from lieaudit_client.command import exits, service
from lieaudit_client.command.health import DEFAULT_SERVER
from lieaudit_client.command.options import server_options
from lieaudit_client.command.printing import show
from lieaudit_client.printable import printable_copy


@click.command()
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
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("audit", "state", "stage", "model", "images", "created", "owner"):
        table.add_column(name)
    for audit in map(printable_copy, audits):
        step = audit.progress
        amount = f"{step.stage} {step.done}/{step.total}" if step.total else step.stage
        said = f"{audit.failure.reason}: {audit.failure.message}" if audit.state == "failed" else amount
        table.add_row(
            Text(audit.id),
            Text(audit.state),
            Text(said),
            Text(audit.model_sha256[:12]),
            Text(audit.dataset_sha256[:12]),
            audit.created.ToDatetime().isoformat(" ", "seconds"),
            Text(audit.owner),
        )
    if audits:
        yield table

"""``lieaudit watch``, ``fetch`` and ``cancel``: audits that a service goes on with by itself."""

from __future__ import annotations

from typing import Any

import click

from lieaudit_client.client import Client
from lieaudit_client.command import exits, results, service, streams
from lieaudit_client.command.display import Display
from lieaudit_client.command.grouping import GroupedCommand
from lieaudit_client.command.health import DEFAULT_SERVER
from lieaudit_client.command.options import check_writable, layer_options, output_files, output_options, server_options
from lieaudit_client.printable import printable


def _connect(options: dict[str, Any]) -> Client:
    return Client(options["server"] or DEFAULT_SERVER, **service.credentials(options))


@click.command(cls=GroupedCommand)
@click.argument("audit_id", metavar="ID")
@output_options
@layer_options
@server_options
def watch(audit_id: str, **options: Any) -> int:
    """Follow the audit ID to its end and show its report, as `lieaudit audit` does.

    Breaking it off (Ctrl-C) ends the watching, not the audit; `lieaudit cancel` ends the audit.
    """
    check_writable(*output_files(options))
    with Display() as display, _connect(options) as client:
        report = client.wait(audit_id, progress=display.show)
    return results.deliver(report, options)


@click.command(cls=GroupedCommand)
@click.argument("audit_id", metavar="ID")
@output_options
@layer_options
@server_options
def fetch(audit_id: str, **options: Any) -> int:
    """Show the report of the finished audit ID; one that still runs is said to, with exit code 3."""
    check_writable(*output_files(options))
    with _connect(options) as client:
        audit = client.get_audit(audit_id)
        if audit.state in {"queued", "running"}:
            step = audit.progress
            amount = f", {step.stage} {step.done}/{step.total}" if step.total else ""
            streams.say(printable(f"audit {audit.id} is {audit.state}{amount}; `lieaudit watch {audit.id}` follows it"))
            return exits.INCOMPLETE
        report = client.wait(audit_id)  # of one that failed it raises what went wrong
    return results.deliver(report, options)


@click.command(cls=GroupedCommand)
@click.argument("audit_id", metavar="ID")
@server_options
def cancel(audit_id: str, **options: Any) -> int:
    """End the audit ID; of one that has ended say how."""
    with _connect(options) as client:
        audit = client.cancel(audit_id)
    streams.out(printable(f"audit {audit.id} is {audit.state}\n"))
    return exits.OK if audit.state == "cancelled" else exits.INCOMPLETE

"""``lieaudit health``."""

from __future__ import annotations

from typing import Any

import click

from lieaudit_client.client import Client
from lieaudit_client.command import exits, service, streams
from lieaudit_client.command.grouping import GroupedCommand
from lieaudit_client.command.options import server_options

DEFAULT_SERVER = "127.0.0.1:50151"


@click.command(cls=GroupedCommand)
@server_options
@click.option(
    "--service", "name", default="", metavar="NAME", help="E.g. lieaudit.v1.AuditService [default: the whole]."
)
@click.option("--timeout", default=5.0, type=click.FloatRange(min=0, min_open=True), help="Seconds.", show_default=True)
def health(name: str, timeout: float, **options: Any) -> int:
    """Ask whether the service serves: exit code 0 if it does, else 4. Made for Docker's HEALTHCHECK.

    Without --server it asks 127.0.0.1:50151, where `lieaudit serve` listens by default.
    """
    server = options["server"] or DEFAULT_SERVER
    with Client(server, **service.credentials(options)) as client:
        serves = client.healthy(name, timeout=timeout)
    if serves:
        streams.out("serving\n")
    else:
        streams.say(f"{name or server}: not serving")
    return exits.OK if serves else exits.REFUSED

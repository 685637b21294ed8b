"""Connections of one address, bounded: gRPC knows a bound for those of all addresses together only.

The connections are this process's own sockets: those beyond the bound are shut down, and gRPC sees their peers leave.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)
_SECONDS = 0.5
_DESCRIPTORS = Path("/proc/self/fd")


class Connections:
    """Looks twice a second and shuts down what an address has beyond its bound, the newest first.

    Parameters
    ----------
    port
        The server's own.
    each
        Most connections of one address (of IPv6: of one /64 network).
    """

    def __init__(self, port: int, each: int) -> None:
        self._port = port
        self._each = each
        self._seen: dict[tuple[str, int], int] = {}
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on, where this system tells a process its own descriptors."""
        if self._each and _DESCRIPTORS.exists():
            self._task = asyncio.create_task(self._watch(), name="connections")

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            for network, count in (await asyncio.to_thread(self.close_more)).items():
                _log.warning("%s has more than %d connections; %d are closed", network, self._each, count)

    def close_more(self) -> dict[str, int]:
        """Shut down the connections beyond the bound; give how many of each network there were."""
        numbers = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - the names alone: there may be thousands
        if len(numbers) <= self._each:
            return {}
        peers: dict[str, list[tuple[str, int]]] = defaultdict(list)
        descriptors = {}
        for number in map(int, numbers):
            with _socket(number) as connection:
                peer = None if connection is None else self._peer(connection)
            if peer is not None:
                descriptors[peer] = number
        self._seen = {peer: self._seen.get(peer) or next(self._numbers) for peer in descriptors}
        for peer in sorted(descriptors, key=self._seen.__getitem__):
            peers[network(peer[0])].append(peer)
        closed: dict[str, int] = {}
        for name, known in peers.items():
            for peer in known[self._each :]:
                with _socket(descriptors[peer]) as connection:
                    if connection is not None and self._peer(connection) == peer:  # not somebody else's by now
                        connection.shutdown(socket.SHUT_RDWR)
                        closed[name] = closed.get(name, 0) + 1
        return closed

    def _peer(self, connection: socket.socket) -> tuple[str, int] | None:
        """Return the address and port of the other end of a connection to our port."""
        try:
            if connection.family not in {socket.AF_INET, socket.AF_INET6} or connection.type != socket.SOCK_STREAM:
                return None
            if connection.getsockname()[1] != self._port:
                return None
            address, port = connection.getpeername()[:2]
        except OSError:  # it listens, or has just gone
            return None
        return str(address), int(port)


@contextmanager
def _socket(number: int) -> Iterator[socket.socket | None]:
    """Return the socket behind a descriptor, through one of our own; None where it is none."""
    try:
        descriptor = os.dup(number)
    except OSError:
        yield None
        return
    try:
        connection = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        yield None
        return
    with connection:
        yield connection


def network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 network of an IPv6 one, which one host has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)

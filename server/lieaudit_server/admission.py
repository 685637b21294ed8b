"""How much of the server one caller may hold at once: calls, and the memory of requests that are being read.

Callers are owners once they are identified, and peers (addresses) before. Nobody holds so much that nothing is left for
others: a caller at its bound is refused or waits, alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import unquote

from lieaudit_server.config import Config
from lieaudit_server.connections import network
from lieaudit_server.errors import ServiceError
from lieaudit_server.identity import LOCAL
from lieaudit_server.rates import Rates

MAX_MESSAGE = 32 * 2**20
"""Largest message of gRPC in bytes, either way; it is held whole while it is read."""
_READ_AT_ONCE, _READ_EACH = 4, 2
_UNKNOWN_AT_ONCE, _UNKNOWN_EACH = 2, 1
_UPLOADS_AT_ONCE, _UPLOADS_EACH = 16, 4
_TALKS_AT_ONCE, _TALKS_EACH = 4, 2
_STREAMS_SHARE = 0.8
_BURST_SECONDS = 2
_PUBLIC_RATE, _PUBLIC_BURST = 50.0, 100
_REFUSALS_RATE, _REFUSALS_BURST, _REFUSALS_WAITING = 20.0, 100, 500
_RETRY_SECONDS = 1.0


class Places:
    """A number of places, of which one caller holds at most ``each``; who waits gets one in turn with other callers.

    Parameters
    ----------
    total
        Places.
    each
        Most places of one caller.
    """

    def __init__(self, total: int, each: int) -> None:
        self._free = total
        self._each = each
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def hold(self, caller: str) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        await self.take(caller)
        try:
            yield
        finally:
            self._give(caller)

    def give(self, caller: str, after: float = 0.0) -> None:
        """Return a place back, after so many seconds: what it was taken for has cost others as much."""
        if after > 0.0:
            asyncio.get_running_loop().call_later(after, self._give, caller)
        else:
            self._give(caller)

    async def take(self, caller: str) -> None:
        """Wait for a place; the caller gives it back."""
        if self._free and self._held[caller] < self._each:
            self._free -= 1
            self._held[caller] += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(caller)  # it was given in the same moment
            raise
        finally:
            queue = self._waiting.get(caller)
            if queue is not None and turn in queue:
                queue.remove(turn)

    def _give(self, caller: str) -> None:
        self._free += 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        while self._free:
            able = [name for name, queue in self._waiting.items() if queue and self._held[name] < self._each]
            if not able:
                break
            chosen = min(able, key=lambda name: self._held[name])  # the first of those with the fewest: in turn
            queue = self._waiting.pop(chosen)
            turn = queue.popleft()
            if queue:
                self._waiting[chosen] = queue  # behind the others
            if not turn.done():
                self._free -= 1
                self._held[chosen] += 1
                turn.set_result(None)


class Admission:
    """Admits calls."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._calls: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self.reading = Places(_READ_AT_ONCE, _READ_EACH)
        self.reading_unknown = Places(_UNKNOWN_AT_ONCE, _UNKNOWN_EACH)
        self.uploads = Places(_UPLOADS_AT_ONCE, _UPLOADS_EACH)
        rate = config.max_rate_per_owner
        self._calls_of_owners = Rates(rate, int(_BURST_SECONDS * rate)) if rate else None
        self._public_calls = Rates(_PUBLIC_RATE, _PUBLIC_BURST, _REFUSALS_WAITING)
        self._refusals = Rates(_REFUSALS_RATE, _REFUSALS_BURST, _REFUSALS_WAITING)
        self.talks = Places(_TALKS_AT_ONCE, _TALKS_EACH)  # streams of requests by callers without identity

    @contextmanager
    def call(self, caller: str, *, stream: bool) -> Iterator[None]:
        """Count a call of an owner. Raises `ServiceError` RESOURCE_EXHAUSTED where it holds, or all hold, too many.

        Streams (watches, uploads) take at most a share of either bound, so that there is always room to cancel.
        """
        shared = caller == LOCAL.owner  # nobody is told apart from anybody else
        most = self._config.max_rpcs
        of_one = most if shared else min(self._config.max_rpcs_per_owner, most)
        self._check(self._calls[caller] >= of_one, f"you have {of_one} calls running", "TOO_MANY_CALLS")
        self._check(self._calls.total() >= most, f"the server serves {most} calls", "SERVER_BUSY")
        if stream:
            streams = int(_STREAMS_SHARE * of_one)
            self._check(self._streams[caller] >= streams, f"you have {streams} streams running", "TOO_MANY_CALLS")
            all_streams = int(_STREAMS_SHARE * most)
            self._check(self._streams.total() >= all_streams, f"the server serves {all_streams} streams", "SERVER_BUSY")
        with _counted(self._calls, caller), _counted(self._streams, caller if stream else ""):
            yield

    @contextmanager
    def unknown(self, peer: str) -> Iterator[None]:
        """Count a call of somebody who need not say who they are. Raises `ServiceError` RESOURCE_EXHAUSTED."""
        most = self._config.max_rpcs_per_peer
        self._check(self._calls[peer] >= most, f"your address has {most} calls running", "TOO_MANY_CALLS")
        with _counted(self._calls, peer):
            yield

    async def turn(self, owner: str) -> None:
        """Let an owner who calls too often wait."""
        if self._calls_of_owners is not None and owner != LOCAL.owner:
            await self._calls_of_owners.turn(owner)

    async def public_turn(self, peer: str) -> None:
        """Let an address that calls too often, without saying who it is, wait."""
        await self._public_calls.turn(peer)

    async def refusal(self, peer: str) -> None:
        """Let an address whose calls are not admitted too often wait for its answer: it would call again at once."""
        await self._refusals.turn(peer)

    def _check(self, refused: object, message: str, reason: str) -> None:
        if refused:
            raise ServiceError(
                "RESOURCE_EXHAUSTED",
                message,
                reason=reason,
                hint="end some of them, or try again after the delay",
                retry_seconds=_RETRY_SECONDS,
            )


@contextmanager
def _counted(counter: Counter[str], caller: str) -> Iterator[None]:
    counter[caller] += bool(caller)
    try:
        yield
    finally:
        counter[caller] -= bool(caller)
        if not counter[caller]:
            del counter[caller]


def address(peer: str) -> str:
    """Return what counts as the address of a gRPC peer: ``ipv4:10.0.0.1:4711`` is ``peer 10.0.0.1``; see `network`."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return f"peer {kind}"
    return f"peer {network(unquote(rest).rpartition(':')[0].strip('[]'))}"

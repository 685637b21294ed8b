"""What an operation of the client is made of, free of input and output.

An operation is a generator: it yields steps, and is resumed with the step's result or with its `ClientError`. The
synchronous and the asyncio client only differ in how they perform a step, so retries, resumption and every other
decision exist once (`_operations.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message

from lieaudit_client._status import is_final
from lieaudit_client.exceptions import BusyError, CallTimeoutError, ClientError, UnreachableError


@dataclass(frozen=True, slots=True)
class Call:
    """A unary call; the result is the response."""

    service: str
    method: str
    request: Message
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Send:
    """A client-streamed call of chunks; the result is the response.

    ``show`` makes the item to emit from the number of bytes sent, ``start`` included.
    """

    service: str
    method: str
    requests: Iterator[Any]
    start: int
    show: Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Open:
    """Start a server-streamed call; the result is its handle."""

    service: str
    method: str
    request: Message
    timeout: float | None


@dataclass(frozen=True, slots=True)
class Next:
    """Wait for the next message of a stream; the result is None after the last."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Run:
    """Do something that takes long or reads files; the result is what the function gives."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Emit:
    """Return the caller of a streaming method its next item."""

    item: Any


@dataclass(frozen=True, slots=True)
class Own:
    """From now on, where the caller breaks the operation off, ``abandon`` is performed; None: no more."""

    abandon: Callable[[], Operation[None]] | None


Step = Call | Send | Open | Next | Run | Sleep | Emit | Own
T = TypeVar("T")
Operation = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class Retry:
    """When a call that is safe to repeat is repeated.

    Attributes
    ----------
    attempts
        Tries without any progress before the error is the caller's.
    first, longest
        Bounds of the exponential delay between tries, in seconds; the actual one is drawn from its upper half, so that
        clients that failed together do not come back together.
    patience
        Seconds for which an upload or watch that broke off tries to go on: the time a server may take to restart.
    """

    attempts: int = 5
    first: float = 0.2
    longest: float = 5.0
    patience: float = 120.0
    draw: random.Random = field(default_factory=random.SystemRandom, compare=False, repr=False)

    def delay(self, failures: int, error: ClientError) -> float:
        """Return the seconds to wait after so many failures in a row."""
        backoff = min(self.longest, self.first * 2.0 ** min(failures - 1, 30)) * self.draw.uniform(0.5, 1.0)
        # Never earlier than the service asked for, and not all at that very moment.
        return backoff if error.retry_after is None else error.retry_after * self.draw.uniform(1.0, 1.2)


class Attempts:
    """Counts the failures of one call and decides about each."""

    def __init__(self, retry: Retry, *, until: float | None, patient: bool = False) -> None:
        self._retry = retry
        self._until = until
        self._patient = patient
        self._failures = 0
        self._since: float | None = None

    def progressed(self) -> None:
        """Forget the failures: something was achieved since."""
        self._failures = 0
        self._since = None

    def after(self, error: ClientError) -> Operation[None]:
        """Wait until the next try, or raise ``error`` where there is to be none."""
        now = time.monotonic()
        self._failures += 1
        self._since = now if self._since is None else self._since
        delay = self._retry.delay(self._failures, error)
        if not self._worth(error, now + delay):
            raise error
        yield Sleep(delay)

    def _worth(self, error: ClientError, then: float) -> bool:
        if self._until is not None and then >= self._until:
            return False
        busy = isinstance(error, BusyError) and error.retry_after is not None  # without a delay, waiting does not help
        broken = isinstance(error, UnreachableError) and not is_final(error)
        if not (busy or broken):
            return False
        if self._patient:
            return then - (self._since or 0.0) < self._retry.patience
        return busy or self._failures < self._retry.attempts


def until(timeout: float | None) -> float | None:
    """Return the moment at which a time limit ends, on the monotonic clock."""
    return None if timeout is None else time.monotonic() + timeout


def remaining(end: float | None, subject: str) -> float | None:
    """Return the seconds left until ``end``. Raises `CallTimeoutError` where there are none."""
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise CallTimeoutError(
            f"{subject} took longer than its time limit", reason="DEADLINE_EXCEEDED", subject=subject
        )
    return left

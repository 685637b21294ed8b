"""Wakes those who wait for an audit's next event. Events themselves are in the state, so a watcher may come back."""

from __future__ import annotations

import asyncio
import weakref


class Journal:
    """One latch per watched audit: taken before reading, it is set by the next event.

    It lives as long as a watcher holds it: who has seen the last event leaves nothing behind.
    """

    def __init__(self) -> None:
        self._latches: weakref.WeakValueDictionary[str, asyncio.Event] = weakref.WeakValueDictionary()
        self._closed = False

    def latch(self, audit_id: str) -> asyncio.Event:
        """Return the latch that the next event of this audit sets."""
        latch = self._latches.setdefault(audit_id, asyncio.Event())
        if self._closed:
            latch.set()
        return latch

    @property
    def closed(self) -> bool:
        """Whether the server is going away."""
        return self._closed

    def notify(self, audit_id: str) -> None:
        """Say that the audit has a new event."""
        latch = self._latches.pop(audit_id, None)
        if latch is not None:
            latch.set()

    def close(self) -> None:
        """Wake everybody: the server is going away."""
        self._closed = True
        for latch in tuple(self._latches.values()):
            latch.set()
        self._latches.clear()

"""How many calls a second one caller gets served: those beyond wait, so that a flood costs nobody but its caller."""

from __future__ import annotations

import asyncio
import math

_LONGEST = 5.0
_CALLERS = 1000


class Rates:
    """Hands out turns to callers.

    Parameters
    ----------
    rate
        Turns of one caller a second, in the long run.
    burst
        Turns that one who has been quiet gets at once.
    waiting
        Most turns waited for by all together; who comes then is not kept waiting.
    """

    def __init__(self, rate: float, burst: int, waiting: float = math.inf) -> None:
        self._seconds = 1.0 / rate
        self._burst = burst * self._seconds
        self._room = waiting
        self._next: dict[str, float] = {}  # when each caller's next turn would come, had there been no burst

    async def turn(self, caller: str) -> None:
        """Wait for the caller's turn, for at most five seconds."""
        now = asyncio.get_running_loop().time()
        if len(self._next) > _CALLERS:
            self._next = {name: time for name, time in self._next.items() if time > now - self._burst}
        due = min(max(self._next.get(caller, 0.0), now - self._burst), now + _LONGEST) + self._seconds
        self._next[caller] = due
        if due > now and self._room > 0:
            self._room -= 1
            try:
                await asyncio.sleep(due - now)
            finally:
                self._room += 1

"""Slots of an engine and the bounded line of requests in front of them."""

from __future__ import annotations

import asyncio
import math

from modelnode.engines.protocol import Overloaded

ASSUMED_HOLD_S = 2.0
"""How long a request keeps its slot, before any has ended."""
RECENT_SHARE = 0.05
"""Of the newest request in the mean of how long they keep their slots."""
MAX_RETRY_AFTER_S = 60


class Admission:
    """Counts who runs and who waits; belongs to one event loop."""

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self.capacity = capacity
        self.max_waiting = max_waiting
        self.running = 0
        self.waiting = 0
        self._slots = asyncio.Semaphore(capacity)
        self._held_s = 0.0
        self._ended = 0.0
        self._counted_s = 0.0

    @property
    def hold_ms(self) -> float | None:
        """How long requests lately kept their slots, None before one has ended: slots in use,
        integrated over time, by the requests that ended in it (Little's law)."""
        return 1000 * self._held_s / self._ended if self._ended else None

    def retry_after_s(self) -> int:
        """When a request that is refused now would find a place in the line."""
        hold_ms = self.hold_ms
        hold_s = ASSUMED_HOLD_S if hold_ms is None else hold_ms / 1000
        return min(
            max(1, math.ceil((self.waiting + 1) * hold_s / self.capacity)), MAX_RETRY_AFTER_S
        )

    async def enter(self) -> None:
        """Wait for a slot, first come first served. Raises `Overloaded` when the line is full.
        Every `enter` that returned needs one `leave`."""
        if self._slots.locked() and self.waiting >= self.max_waiting:
            raise Overloaded(self.waiting, self.retry_after_s())
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self._count()
        self.running += 1

    def leave(self) -> None:
        self._count()
        self._held_s *= 1 - RECENT_SHARE
        self._ended = (self._ended + 1) * (1 - RECENT_SHARE)
        self.running -= 1
        self._slots.release()

    def _count(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._held_s += self.running * (now_s - self._counted_s)
        self._counted_s = now_s

"""Slots of an engine and the bounded line of requests in front of them."""

from __future__ import annotations

import asyncio

from modelnode.engines.protocol import Overloaded

SECONDS_A_REQUEST = 2
"""What a waiting request is told to expect of each one before it, per slot."""


class Admission:
    """Counts who runs and who waits; belongs to one event loop."""

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self.capacity = capacity
        self.max_waiting = max_waiting
        self.running = 0
        self.waiting = 0
        self._slots = asyncio.Semaphore(capacity)

    async def enter(self) -> None:
        """Wait for a slot, first come first served. Raises `Overloaded` when the line is full.
        Every `enter` that returned needs one `leave`."""
        if self._slots.locked() and self.waiting >= self.max_waiting:
            retry_after_s = 1 + SECONDS_A_REQUEST * self.waiting // self.capacity
            raise Overloaded(self.waiting, retry_after_s)
        self.waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1

    def leave(self) -> None:
        self.running -= 1
        self._slots.release()

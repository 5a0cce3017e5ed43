"""Reading a stream as it comes: what is there at once is one batch, and nothing is held back.

An engine that is quick, or a network that bunches, gives many pieces between two turns of the
loop. To write each by itself costs more than all else that a node does with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Generic, TypeVar

Item = TypeVar("Item")

MOST_ITEMS = 64
"""How far a stream is read ahead of its reader."""


class Batches(Generic[Item]):
    """Lists of what `items` gave since the last, read ahead by a task between entering and leaving
    the block. Leaving it closes `items`, wherever that waits."""

    def __init__(self, items: AsyncGenerator[Item, None]) -> None:
        self._items = items
        self._ready: list[Item] = []
        self._stopped = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batches[Item]:
        self._task = asyncio.create_task(self._read(), name="read ahead")
        self._task.add_done_callback(lambda _: self._arrived.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def stop(self) -> None:
        """End the reading; `take` gives nothing any more."""
        self._stopped = True
        self._arrived.set()
        if self._task is not None:
            self._task.cancel()

    async def take(self) -> list[Item]:
        """What came, at least one item; empty when there will be no more. Raises what `items`
        raised, once all that it gave before was taken."""
        while not self._ready and not self._over:
            self._arrived.clear()
            await self._arrived.wait()
        if self._stopped:
            return []
        if not self._ready and self._task is not None:
            self._task.result()
        ready, self._ready = self._ready, []
        self._room.set()
        return ready

    @property
    def _over(self) -> bool:
        return self._stopped or self._task is None or self._task.done()

    async def _read(self) -> None:
        async with aclosing(self._items) as items:
            async for item in items:
                self._ready.append(item)
                self._arrived.set()
                if len(self._ready) >= MOST_ITEMS:
                    self._room.clear()
                    await self._room.wait()

"""A relay process: sockets, clock and metrics around `overlay.core.relay`."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable

from prometheus_client import Counter, Gauge

from overlay.core.effects import Count, Effect, Peer
from overlay.core.relay import Relay
from overlay.directory import Directory
from overlay.links import Links
from planetserve.keys import Identity

TICK_S = 1.0

EVENTS = Counter("planetserve_relay_events", "What a relay did or refused, by kind", ["event"])
PATHS = Gauge("planetserve_relay_paths", "Paths that are open at this relay")


class RelayNode:
    """Relays for others at `bind` (HOST:PORT) between `start` and `close`."""

    def __init__(self, identity: Identity, bind: str, directory: Directory) -> None:
        self._identity = identity
        self._bind = bind
        self._links = Links(directory.resolve, self._frame_arrived, self._peer_gone)
        self._core = Relay(
            identity.onion_secret,
            lambda node: directory.resolve(node) is not None,
            os.urandom,
            time.time(),
        )
        self._ticker: asyncio.Task[None] | None = None

    @property
    def paths(self) -> int:
        return len(self._core.paths)

    def start(self) -> int:
        """Returns the port. Raises `ConfigurationError` when the address cannot be bound."""
        port = self._links.bind(self._bind, self._identity)
        self._ticker = asyncio.create_task(self._tick(), name="relay tick")
        return port

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        self._links.close()

    def _frame_arrived(self, peer: Peer, frame: bytes) -> None:
        self._carry_out(self._core.frame_arrived(peer, frame, self._now_s()))

    def _peer_gone(self, peer: Peer) -> None:
        self._carry_out(self._core.peer_gone(peer))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """A send that fails is a neighbour gone, which has effects in turn."""
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            if isinstance(effect, Count):
                EVENTS.labels(effect.event).inc()
            elif not self._links.send(effect.peer, effect.frame):
                pending.extend(self._core.peer_gone(effect.peer))
        PATHS.set(len(self._core.paths))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._carry_out(self._core.tick(self._now_s()))

    @staticmethod
    def _now_s() -> float:
        return time.time()

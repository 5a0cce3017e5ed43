"""A relay process: sockets, clock, files and metrics around `overlay.core.relay`."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

from prometheus_client import Counter, Gauge

from overlay.core.effects import Count, Effect, Neighbour, Peer, Purge, Remember, Send, Tell
from overlay.core.relay import Relay, RelayLimits
from overlay.core.setup import OnionSecrets, period_of
from overlay.directory import Directory
from overlay.links import Links
from overlay.replay_log import ReplayLog
from overlay.ticking import tick
from planetserve.keys import Identity, NodeId
from planetserve.logs import get_logger

TICK_S = 1.0
COLLECT_AFTER = 50_000
"""Objects that came and did not go, until cycles among them are looked for."""

EVENTS = Counter("planetserve_relay_events", "What a relay did or refused, by kind", ["event"])
CELLS = Counter("planetserve_relay_cells", "Cells that a relay passed on")
PATHS = Gauge("planetserve_relay_paths", "Paths that are open at this relay")

log = get_logger()


def collect_seldom() -> None:
    """For a process that only relays. What a cell takes is freed with its last reference; to look
    for cycles after every few hundred objects took a twentieth of a relay's time."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


class Beside(Protocol):
    """A client that uses the relay's links for paths of its own (`overlay.client`): to the next
    relay its frames look like those that are passed on, and come over the same connection."""

    def knows(self, peer: Peer, frame: bytes) -> bool:
        """Whether `frame` is of a path of the client."""

    def frame_arrived(self, peer: Peer, frame: bytes) -> None: ...

    def peer_gone(self, peer: Peer) -> None: ...

    def shed(self, peer: Peer, link_id: bytes) -> None: ...


class RelayNode:
    """Relays for others at `bind` (HOST:PORT) between `start` and `close`; `replay_folder` is where
    it keeps which set-ups it took."""

    def __init__(
        self,
        identity: Identity,
        bind: str,
        directory: Directory,
        replay_folder: Path,
        limits: RelayLimits | None = None,
    ) -> None:
        self._identity = identity
        self._bind = bind
        self._directory = directory
        self._beside: Beside | None = None
        self.links = Links(
            directory.resolve,
            self._frame_arrived,
            self._peer_gone,
            self._shed,
            self._stream_sent,
            identity=identity,
            node_of_key=directory.node_of_transport_key,
        )
        self._replay = ReplayLog(replay_folder, self.period())
        self._core = Relay(
            identity.id,
            OnionSecrets.from_bytes(identity.onion_secret),
            self,
            self._replay.filter,
            os.urandom,
            limits,
        )
        self._cells_counted = 0
        self._disk_failed = False
        self._ticker: asyncio.Task[None] | None = None

    @property
    def id(self) -> NodeId:
        return self._identity.id

    @property
    def paths(self) -> int:
        return self._core.paths

    def share(self, client: Beside) -> None:
        """Give `client` what comes for it over `links`, which it sends by."""
        self._beside = client

    def start(self) -> int:
        """Returns the port. Raises `ConfigurationError` when the address cannot be bound."""
        port = self.links.bind(self._bind, self._identity)
        self._ticker = asyncio.create_task(tick("relay", TICK_S, self._tick), name="relay tick")
        return port

    async def close(self) -> None:
        """Tell the owners of all paths, and end."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._carry_out(self._core.shut_down())
            await asyncio.sleep(0)  # lets the last cells reach the sockets' threads
        self.links.close()
        self._kept(self._replay.close)

    # What the core asks about the world (`overlay.core.relay.Surroundings`).

    def knows(self, node: bytes) -> bool:
        return self._directory.resolve(node) is not None

    def neighbour(self, peer: Peer) -> Neighbour:
        return self.links.neighbour(peer)

    def route_set(self) -> tuple[int, bytes]:
        routes = self._directory.current
        return (routes.height, routes.hash) if routes is not None else (0, bytes(32))

    def period(self) -> int:
        return period_of(time.time())

    def _frame_arrived(self, peer: Peer, frame: bytes) -> None:
        if self._beside is not None and self._beside.knows(peer, frame):
            self._beside.frame_arrived(peer, frame)
            return
        outcome = self._core.arrived(peer, frame, time.monotonic())
        if not isinstance(outcome, tuple):
            self._carry_out(outcome)
        elif not self.links.send(*outcome):
            self._carry_out(self._core.peer_gone(outcome[0]))

    def _stream_sent(self, peer: Peer, link_id: bytes, frames: int) -> None:
        effects = self._core.sent(peer, link_id, frames)
        if effects:
            self._carry_out(effects)

    def _peer_gone(self, peer: Peer) -> None:
        if self._beside is not None:
            self._beside.peer_gone(peer)
        self._carry_out(self._core.peer_gone(peer))

    def _shed(self, peer: Peer, link_id: bytes) -> None:
        """Which of the two the path was of, each knows by itself."""
        if self._beside is not None:
            self._beside.shed(peer, link_id)
        self._carry_out(self._core.shed(peer, link_id))

    def _carry_out(self, effects: Iterable[Effect]) -> None:
        """A send that fails is a neighbour gone, which has effects in turn."""
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            match effect:
                case Tell():
                    self.links.tell(effect.peer, effect.frame)
                case Send():
                    if not self.links.send(effect.peer, effect.frame):
                        pending.extend(self._core.peer_gone(effect.peer))
                case Count():
                    EVENTS.labels(effect.event).inc()
                case Purge():
                    self.links.purge(effect.peer, effect.link_id)
                case Remember():
                    if self._kept(partial(self._replay.remember, effect)):
                        pending.extendleft(reversed(self._core.remembered()))
                    else:
                        self._core.not_remembered()

    def _kept(self, work: Callable[[], None]) -> bool:
        """A disk that takes no more costs new paths, not those that are there."""
        try:
            work()
        except OSError as error:
            EVENTS.labels("replay_log_failed").inc()
            if not self._disk_failed:
                log.error("replay_log_failed", reason=error.strerror)
            self._disk_failed = True
            return False
        self._disk_failed = False
        return True

    def _tick(self) -> None:
        self._carry_out(self._core.tick(time.monotonic()))
        self._kept(self._replay.forget_old)
        CELLS.inc(self._core.cells - self._cells_counted)
        self._cells_counted = self._core.cells
        PATHS.set(self._core.paths)

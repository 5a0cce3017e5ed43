"""The asking side of the overlay: keeps disjoint paths alive and sends requests over them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable
from dataclasses import dataclass, field

from pyhpke.exceptions import PyHPKEError

from overlay.core import client_path
from overlay.core.client_path import (
    BUILDING,
    OPEN,
    Broken,
    Chunk,
    ClientPath,
    PathEvent,
    StreamOver,
)
from overlay.core.effects import Peer, Send
from overlay.core.exchange import (
    ENDED,
    Done,
    EndStream,
    Exchange,
    ExchangeEffect,
    ExchangeLimits,
    Failed,
    OpenStream,
    Polluted,
    Silent,
)
from overlay.core.request import MAX_PAYLOAD_BYTES, prepare
from overlay.core.selection import choose_hops
from overlay.core.setup import PUZZLE_NONCE_BYTES, HopSpec, period_of
from overlay.core.wire import CellError, decode_frame
from overlay.directory import Directory
from overlay.links import Links
from planetserve.errors import (
    NodeUnreachable,
    NotEnoughRoutes,
    PathsUnavailable,
    PlanetServeError,
    UsageError,
)
from planetserve.logs import get_logger
from planetserve.records import NodeRecord

log = get_logger()

READ_BYTES = 64 << 10
TICK_S = 0.25


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Paper section 4: n paths of `hops` relays, any k of which carry a message."""

    n: int = 4
    k: int = 3
    hops: int = 3
    build_timeout_s: float = 3.0
    grace_s: float = 0.4
    """How long the missing paths are waited for once k are open."""
    path_life_s: float = 600.0
    avoid_s: float = 60.0
    accept_timeout_s: float = 6.0
    stall_timeout_s: float = 10.0
    empty_timeout_s: float = 120.0
    """How long a node may send empty frames before, or between, words of its answer."""
    repair_timeout_s: float = 10.0
    """How long an answer that has begun waits for new paths in place of lost ones."""
    build_rounds: int = 4


@dataclass(slots=True, eq=False)
class _Managed:
    """A path, what waits for it, and the streams that it carries."""

    path: ClientPath
    built_s: float
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    streams: dict[int, _Asking] = field(default_factory=dict)
    """By number: whose request it carries."""


@dataclass(slots=True, eq=False)
class _Asking:
    """A request that is under way; the slots of its exchange are those of the client."""

    exchange: Exchange
    target: NodeRecord
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    failure: PlanetServeError | None = None
    done: bool = False


class OverlayClient:
    """Use `start` once, then `request` as often as you like; `close` at the end."""

    def __init__(self, directory: Directory, settings: PathSettings | None = None) -> None:
        self.settings = settings or PathSettings()
        self._directory = directory
        self._links = Links(directory.resolve, self._frame_arrived, self._peer_gone)
        self._slots: list[_Managed | None] = [None] * self.settings.n
        self._by_name: dict[tuple[Peer, bytes], _Managed] = {}
        self._avoid: dict[bytes, float] = {}
        self._first_hops: list[bytes] = []
        self._rng = random.SystemRandom()
        self._building = asyncio.Lock()
        self._asking: set[_Asking] = set()
        self._ticking = False
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()

    def path_names(self) -> list[list[str]]:
        """The open paths as node names, nearest relay first."""
        return [[self._name(node) for node in managed.path.hops] for managed in self._open()]

    async def ensure_paths(self) -> None:
        """Have at least k paths open, n where the route set allows it.

        Raises `NotEnoughRoutes` when the ledger lists too few relays, `PathsUnavailable` when
        they do not answer.
        """
        self._expire()
        if len(self._open()) >= self.settings.k:
            self._rebuild_soon()
            return
        async with self._building:
            for _ in range(self.settings.build_rounds):
                self._expire()
                if len(self._open()) >= self.settings.n or not await self._build_round():
                    break
                if len(self._open()) >= self.settings.k:
                    break
        if len(self._open()) < self.settings.k:
            raise PathsUnavailable(
                f"only {len(self._open())} of the {self.settings.k} paths that are needed could be "
                "built; relays may be down. Try again in a minute, or see `ps-ledger nodes`"
            )

    async def request(self, target: NodeRecord, payload: bytes) -> AsyncGenerator[bytes, None]:
        """Send `payload` to the model node `target` and give its answer's bytes as they come.

        Closing the iterator cancels the request. Raises `NodeUnreachable` before the first byte,
        `PathsUnavailable` when too few paths remain before it, `AnswerCutShort` after it, and
        `RemoteProtocolError` when the node's answer does not authenticate.
        """
        await self.ensure_paths()
        asking = _Asking(self._prepare(target, payload), target)
        self._asking.add(asking)
        self._tick_while_asking()
        try:
            for slot, managed in enumerate(self._slots):
                if managed is not None and managed.path.phase == OPEN:
                    self._take(asking, asking.exchange.slot_open(slot, self._now_s()))
            while True:
                asking.progress.clear()
                while data := asking.exchange.read(READ_BYTES):
                    yield data
                if asking.failure is not None:
                    raise asking.failure
                if asking.done:
                    return
                await asking.progress.wait()
        finally:
            if not asking.done:
                self._take(asking, asking.exchange.cancel())
            self._rebuild_soon()

    def _prepare(self, target: NodeRecord, payload: bytes) -> Exchange:
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise UsageError("the request has more than a megabyte")
        s = self.settings
        try:
            request = prepare(
                payload, target.id, target.onion_key, s.n, s.k, period_of(time.time()), os.urandom
            )
        except (ValueError, PyHPKEError) as error:
            raise NodeUnreachable(f"{target.name} announced an unusable key") from error
        return Exchange(
            request,
            ExchangeLimits(
                accept_timeout_s=s.accept_timeout_s,
                stall_timeout_s=s.stall_timeout_s,
                empty_timeout_s=s.empty_timeout_s,
                repair_timeout_s=s.repair_timeout_s,
            ),
        )

    def _take(self, asking: _Asking, effects: Iterable[ExchangeEffect]) -> None:
        """Do what the exchange asks for."""
        for effect in effects:
            match effect:
                case OpenStream(slot, data):
                    managed = self._slots[slot]
                    if managed is not None and managed.path.phase == OPEN:
                        number, sends = managed.path.open_stream(asking.target.id, data)
                        managed.streams[number] = asking
                        self._carry_out(sends)
                case EndStream(slot):
                    self._end_stream(asking, slot)
                case Failed(error):
                    asking.failure = error
                case Done():
                    asking.done = True
                case Polluted(slot) | Silent(slot):
                    self._blame(asking, slot)
        asking.progress.set()
        if asking.exchange.state == ENDED:
            self._asking.discard(asking)

    def _end_stream(self, asking: _Asking, slot: int) -> None:
        managed = self._slots[slot]
        if managed is not None:
            for number in [n for n, owner in managed.streams.items() if owner is asking]:
                del managed.streams[number]
                self._carry_out(managed.path.end_stream(number))

    def _blame(self, asking: _Asking, slot: int) -> None:
        """Leave a path, but never one that carries another answer."""
        managed = self._slots[slot]
        if managed is not None and set(managed.streams.values()) <= {asking}:
            self._failed(managed, managed.path.hops[1:])

    def _tick_while_asking(self) -> None:
        """Padding is taken in after the answer too: to stop it would tell the answer's length."""

        async def tick() -> None:
            while self._asking:
                await asyncio.sleep(TICK_S)
                for asking in list(self._asking):
                    self._take(asking, asking.exchange.tick(self._now_s()))
            self._ticking = False

        if not self._ticking:
            self._ticking = True
            self._spawn(tick())

    async def close(self) -> None:
        self._closed = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for managed in [m for m in self._slots if m is not None]:
            self._give_up(managed)
        await asyncio.sleep(0)  # lets the CLOSE cells reach the sockets' threads
        self._links.close()

    def _open(self) -> list[_Managed]:
        return [m for m in self._slots if m is not None and m.path.phase == OPEN]

    async def _build_round(self) -> bool:
        """Fill the empty slots and wait; False when no path could even be tried."""
        routes = self._directory.current or await self._directory.refresh()
        relays = routes.relays()
        fresh = []
        for slot in range(self.settings.n):
            if self._slots[slot] is None:
                managed = self._begin(slot, relays)
                if managed is not None:
                    fresh.append(managed)
        possible = len(fresh) + len(self._open())
        if possible < self.settings.k:
            needed = self.settings.k * self.settings.hops
            if len(relays) < needed:
                raise NotEnoughRoutes(
                    f"the ledger lists {len(relays)} relays, {self.settings.k} disjoint paths of "
                    f"{self.settings.hops} need {needed}; wait until more have joined"
                )
            self._avoid.clear()  # better a relay that failed lately than none
        if not fresh:
            return possible < self.settings.k
        await self._wait_for(fresh)
        return True

    async def _wait_for(self, fresh: list[_Managed]) -> None:
        """Until all of `fresh` settled; only a grace time more once k paths are open."""
        loop = asyncio.get_running_loop()
        enough = len(self._open()) >= self.settings.k
        patience_s = self.settings.grace_s if enough else self.settings.build_timeout_s
        started_s = loop.time()
        deadline_s = started_s + patience_s
        waiting = {asyncio.create_task(m.settled.wait()) for m in fresh}
        try:
            while waiting and loop.time() < deadline_s:
                _, waiting = await asyncio.wait(
                    waiting,
                    timeout=deadline_s - loop.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if len(self._open()) >= self.settings.k:
                    deadline_s = min(deadline_s, loop.time() + self.settings.grace_s)
        finally:
            for task in waiting:
                task.cancel()
        left_s = started_s + self.settings.build_timeout_s - loop.time()
        if left_s <= 0:
            for managed in fresh:
                if managed.path.phase == BUILDING:
                    self._failed(managed, managed.path.hops)
            return
        for managed in fresh:
            if managed.path.phase == BUILDING:
                self._spawn(self._give_up_unless_built(managed, left_s))

    async def _give_up_unless_built(self, managed: _Managed, left_s: float) -> None:
        """A path that nobody waits for any more may still open in its time."""
        await asyncio.sleep(left_s)
        if managed.path.phase == BUILDING:
            self._failed(managed, managed.path.hops)

    def _begin(self, slot: int, relays: list[NodeRecord]) -> _Managed | None:
        now_s = asyncio.get_running_loop().time()
        self._avoid = {node: until for node, until in self._avoid.items() if until > now_s}
        used = {hop for m in self._slots if m is not None for hop in m.path.hops}
        free_firsts = [node for node in self._first_hops if node not in used]
        hops = choose_hops(
            relays, self.settings.hops, used | set(self._avoid), free_firsts, self._rng
        )
        if hops is None:
            return None
        try:
            specs = [HopSpec(hop.id, hop.onion_key, os.urandom(32)) for hop in hops]
            nonces = [os.urandom(PUZZLE_NONCE_BYTES) for _ in hops]
            path, sends = client_path.build(specs, period_of(time.time()), nonces, os.urandom)
        except ValueError:  # one of them announced an onion key that is none
            self._avoid.update({hop.id: now_s + self.settings.avoid_s for hop in hops})
            return None
        managed = _Managed(path, now_s)
        self._slots[slot] = managed
        self._by_name[(path.first, path.backward_id)] = managed
        self._carry_out(sends)
        return managed

    def _frame_arrived(self, peer: Peer, frame: bytes) -> None:
        try:
            arrived = decode_frame(frame)
        except CellError:
            return  # a first hop that sends garbage fails its path by not answering
        managed = self._by_name.get((peer, arrived.link_id))
        if managed is None:
            return
        sends, events = managed.path.frame_arrived(arrived)
        self._carry_out(sends)
        if managed.path.phase == OPEN and not managed.settled.is_set():
            if managed.path.first.name not in self._first_hops:
                self._first_hops.append(managed.path.first.name)
            managed.settled.set()
            slot = self._slots.index(managed)
            for asking in list(self._asking):
                self._take(asking, asking.exchange.slot_open(slot, self._now_s()))
        for event in events:
            self._take_event(managed, event)

    def _take_event(self, managed: _Managed, event: PathEvent) -> None:
        if isinstance(event, Broken):
            self._failed(managed, managed.path.hops[1:])
        elif isinstance(event, Chunk | StreamOver) and event.stream in managed.streams:
            slot, now_s = self._slots.index(managed), self._now_s()
            asking = managed.streams[event.stream]
            if isinstance(event, Chunk):
                self._take(asking, asking.exchange.chunk_arrived(slot, event.data, now_s))
            else:
                del managed.streams[event.stream]
                self._take(asking, asking.exchange.stream_ended(slot, event.reason, now_s))

    def _peer_gone(self, peer: Peer) -> None:
        for managed in [m for m in self._slots if m is not None and m.path.first == peer]:
            self._failed(managed, managed.path.hops[:1])

    def _failed(self, managed: _Managed, suspects: tuple[bytes, ...]) -> None:
        """Forget a path that broke and stay away for a while from those who may have broken it.

        A first hop that still answers reported that something behind it broke, and stays: were it
        dropped, whoever is behind it could choose our first hops by failing.
        """
        until_s = asyncio.get_running_loop().time() + self.settings.avoid_s
        for node in suspects:
            self._avoid[node] = until_s
            if node in self._first_hops and node == managed.path.hops[0]:
                self._first_hops.remove(node)
        self._give_up(managed)
        self._rebuild_soon()

    def _give_up(self, managed: _Managed) -> None:
        sends = managed.path.close()
        slot = self._slots.index(managed) if managed in self._slots else None
        if slot is not None:
            self._slots[slot] = None
        self._by_name.pop((managed.path.first, managed.path.backward_id), None)
        managed.settled.set()
        self._carry_out(sends)
        carried, managed.streams = set(managed.streams.values()), {}
        if slot is not None:
            for asking in carried:
                self._take(asking, asking.exchange.slot_lost(slot, self._now_s()))

    def _expire(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for managed in self._open():
            if now_s - managed.built_s > self.settings.path_life_s and not managed.streams:
                self._give_up(managed)

    def _rebuild_soon(self) -> None:
        """Replace lost paths in the background while k live, so that nobody waits for it."""
        if self._closed or len(self._open()) >= self.settings.n or self._building.locked():
            return

        async def rebuild() -> None:
            async with self._building:
                try:
                    await self._build_round()
                except NotEnoughRoutes:
                    log.warning("too_few_relays_for_spare_paths")

        self._spawn(rebuild())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _carry_out(self, sends: Iterable[Send]) -> None:
        for item in sends:
            if not self._links.send(item.peer, item.frame):
                self._links.hang_up(item.peer)
                asyncio.get_running_loop().call_soon(self._peer_gone, item.peer)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

    def _name(self, node: bytes) -> str:
        record = self._directory.find(node)
        return record.name if record is not None else node.hex()[:12]

"""The asking side of the overlay: keeps disjoint paths alive and sends requests over them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
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
from overlay.core.reply import ReplyAssembler
from overlay.core.request import prepare
from overlay.core.selection import choose_hops
from overlay.core.setup import PUZZLE_NONCE_BYTES, HopSpec, period_of
from overlay.core.wire import CellError, decode_frame
from overlay.directory import Directory
from overlay.links import Links
from planetserve.errors import (
    AnswerCutShort,
    NodeUnreachable,
    NotEnoughRoutes,
    PathsUnavailable,
    PlanetServeError,
    RemoteProtocolError,
)
from planetserve.logs import get_logger
from planetserve.records import NodeRecord

log = get_logger()

MAX_UNREAD_BYTES = 8 << 20


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
    build_rounds: int = 4


@dataclass(slots=True, eq=False)
class _Managed:
    """A path, what waits for it, and the exchanges that it carries."""

    path: ClientPath
    built_s: float
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    exchanges: dict[int, Callable[[bytes | None], None]] = field(default_factory=dict)
    """By stream: what takes its chunks, and None when it is over."""


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
        exchange = _Exchange(self.settings, self._open(), target)
        try:
            for managed, data in exchange.begin(payload):
                number, sends = managed.path.open_stream(target.id, data)
                managed.exchanges[number] = exchange.listener(managed)
                exchange.streams.append((managed, number))
                self._carry_out(sends)
            async for data in exchange.answer():
                yield data
        except (NodeUnreachable, AnswerCutShort):
            # A path that was silent while it should have carried something swallows cells.
            for managed in exchange.silent():
                self._failed(managed, managed.path.hops[1:])
            raise
        finally:
            for managed in exchange.polluted():
                self._failed(managed, managed.path.hops[1:])
            for managed, number in exchange.streams:
                if managed.exchanges.pop(number, None) is not None:
                    self._carry_out(managed.path.end_stream(number))
            self._rebuild_soon()

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
        for event in events:
            self._take_event(managed, event)

    def _take_event(self, managed: _Managed, event: PathEvent) -> None:
        if isinstance(event, Broken):
            self._failed(managed, managed.path.hops[1:])
        elif isinstance(event, Chunk):
            listener = managed.exchanges.get(event.stream)
            if listener is not None:
                listener(event.data)
        elif isinstance(event, StreamOver):
            listener = managed.exchanges.get(event.stream)
            if listener is not None:
                listener(None)

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
        if managed in self._slots:
            self._slots[self._slots.index(managed)] = None
        self._by_name.pop((managed.path.first, managed.path.backward_id), None)
        managed.settled.set()
        self._carry_out(sends)
        for listener in list(managed.exchanges.values()):
            listener(None)  # the path closed, so that this says nothing of the target
        managed.exchanges.clear()

    def _expire(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for managed in self._open():
            if now_s - managed.built_s > self.settings.path_life_s and not managed.exchanges:
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

    def _name(self, node: bytes) -> str:
        record = self._directory.find(node)
        return record.name if record is not None else node.hex()[:12]


class _Exchange:
    """One request and its answer over the paths that were open when it began.

    Cells are taken in as they come and only the answer's bytes wait for the reader, so a slow
    reader costs what it has not read and no more; beyond `MAX_UNREAD_BYTES` the answer is given up.
    """

    def __init__(self, settings: PathSettings, paths: list[_Managed], target: NodeRecord) -> None:
        self.paths = paths
        self.streams: list[tuple[_Managed, int]] = []
        self._settings = settings
        self._target = target
        self._alive = set(range(len(paths)))
        self._unreachable = 0
        self._heard: set[int] = set()
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._failure: PlanetServeError | None = None
        self._progress = asyncio.Event()
        self._assembler: ReplyAssembler | None = None

    def begin(self, payload: bytes) -> list[tuple[_Managed, bytes]]:
        """Seal and disperse; pairs of a path and the bytes that it carries."""
        try:
            request = prepare(
                payload,
                self._target.id,
                self._target.onion_key,
                self._settings.n,
                self._settings.k,
                os.urandom,
            )
        except (ValueError, PyHPKEError) as error:
            raise NodeUnreachable(f"{self._target.name} announced an unusable key") from error
        self._assembler = ReplyAssembler(request.reply_key, request.path_keys, request.k)
        return list(zip(self.paths, request.streams, strict=False))

    def listener(self, managed: _Managed) -> Callable[[bytes | None], None]:
        """What the path calls with each chunk of this exchange, and with None at its end."""
        index = self.paths.index(managed)

        def listen(chunk: bytes | None) -> None:
            if index not in self._alive:
                return
            self._progress.set()
            self._heard.add(index)
            if chunk is None:
                self._unreachable += managed.path.phase == OPEN
                self._alive.discard(index)
                return
            self._take_in(index, chunk)

        return listen

    def silent(self) -> list[_Managed]:
        """Open paths that brought nothing back, not even that the target is gone."""
        return self._unshared(set(range(len(self.paths))) - self._heard)

    def polluted(self) -> list[_Managed]:
        """Open paths that brought back what does not authenticate."""
        return self._unshared(set(self._assembler.polluted) if self._assembler else set())

    def _unshared(self, indices: set[int]) -> list[_Managed]:
        return [
            managed
            for index, managed in enumerate(self.paths)
            if index in indices
            and managed.path.phase == OPEN
            and len(managed.exchanges) == 1  # never one that carries another answer
        ]

    async def answer(self) -> AsyncGenerator[bytes, None]:
        """The answer's bytes in order, until its last frame."""
        assembler = self._assembler
        assert assembler is not None
        loop = asyncio.get_running_loop()
        data_s = loop.time()
        while True:
            self._progress.clear()
            if self._unread:
                data_s = loop.time()
            while self._unread:
                data = self._unread.popleft()
                self._unread_bytes -= len(data)
                yield data
            if assembler.ended:
                return
            if self._failure is not None:
                raise self._failure
            begun = assembler.next_number > 0
            if len(self._alive) < self._settings.k:
                raise self._lost(begun, "cannot be reached any more")
            patience_s = (
                self._settings.stall_timeout_s if begun else self._settings.accept_timeout_s
            )
            if loop.time() - data_s > self._settings.empty_timeout_s:
                raise self._lost(begun, "did not answer in time")
            try:
                async with asyncio.timeout(patience_s):
                    await self._progress.wait()
            except TimeoutError:
                raise self._lost(begun, "did not answer in time") from None

    def _take_in(self, index: int, chunk: bytes) -> None:
        assert self._assembler is not None
        if self._failure is not None:
            return
        try:
            pieces = self._assembler.feed(index, chunk)
        except RemoteProtocolError as error:
            self._failure = error
            return
        if self._assembler.polluted.get(index):
            self._alive.discard(index)  # the others carry the answer, or nobody does
        self._unread.extend(pieces)
        self._unread_bytes += sum(len(piece) for piece in pieces)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self._failure = AnswerCutShort("the answer was not read as fast as it came")

    def _lost(self, begun: bool, what: str) -> PlanetServeError:
        name = self._target.name
        if begun:
            return AnswerCutShort(f"the answer stopped in the middle: {name} {what}")
        if self._unreachable or what.startswith("did not"):
            return NodeUnreachable(f"the model node {name} {what}; another may be up")
        return PathsUnavailable("too many paths broke before the answer began; try again")

"""The asking side of the overlay: links, clock and threads around `overlay.core.asking`."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Coroutine, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from pyhpke.exceptions import PyHPKEError

from overlay.core.asking import Asking, AskingEffect, Lost, Progress, Whole
from overlay.core.choice import Hops, Rules
from overlay.core.cover import REMEMBERED, CoverSettings, Dummy, likely_targets
from overlay.core.effects import Peer, Purge, Send
from overlay.core.exchange import ExchangeLimits
from overlay.core.guards import GuardRules
from overlay.core.path_driver import PathDriver
from overlay.core.path_driver_effects import Moment, Solve
from overlay.core.path_pool import PathPool
from overlay.core.puzzle import solve_puzzle
from overlay.core.relay_memory import RelayMemory
from overlay.core.request import DUMMY, MAX_PAYLOAD_BYTES, QUESTION, prepare
from overlay.core.setup import PUZZLE_NONCE_BYTES, period_of
from overlay.covering import CoverTraffic
from overlay.directory import Directory
from overlay.guard_file import GuardFile, Kept
from overlay.links import Links
from planetserve.errors import (
    NodeUnreachable,
    NotEnoughRoutes,
    PathsUnavailable,
    PlanetServeError,
    UsageError,
)
from planetserve.logs import get_logger
from planetserve.records import NodeRecord, RouteSet

log = get_logger()

TICK_S = 1.0
LEAST_TICK_S = 0.02
SAVE_S = 60.0
READ_BYTES = 1 << 16
PUZZLE_SLICE = 20_000
"""Nonces that are tried before asking whether the path is still wanted; some 20 ms."""


@dataclass(frozen=True, slots=True)
class PathSettings:
    """Paper section 4: n paths of `hops` relays, any k of which carry a message."""

    n: int = 4
    k: int = 3
    hops: int = 3
    grace_s: float = 0.4
    """How long `ensure_paths` waits for the missing paths once k are open."""
    keep_ahead: bool = True
    """Whether paths are made ready for the next question when one is asked."""
    limits: ExchangeLimits = field(default_factory=ExchangeLimits)

    @property
    def rules(self) -> Rules:
        return Rules(self.n, self.k, self.hops)


class OverlayClient:
    """Asks over paths of its own. Make it in a running loop, and `close` it at the end.

    `guard_file` keeps guards and build times between runs; `cover` sends traffic that answers no
    question. A client that shares `links` with a relay is given its node id, `own`, and what comes
    over the links.
    """

    def __init__(
        self,
        directory: Directory,
        settings: PathSettings | None = None,
        guard_file: GuardFile | None = None,
        cover: CoverSettings | None = None,
        links: Links | None = None,
        own: bytes | None = None,
    ) -> None:
        self.settings = settings or PathSettings()
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        rules, draw = self.settings.rules, secrets.randbelow
        self._memory = RelayMemory(rules, GuardRules(rules.n), draw, own)
        pool = PathPool(rules, self.settings.keep_ahead)
        driver = PathDriver(pool, self._memory, os.urandom, draw, own)
        self._asking = Asking(driver, self.settings.limits, os.urandom, draw)
        self._own_links = links is None
        self._links = links or Links(
            directory.resolve, self.frame_arrived, self.peer_gone, self.shed
        )
        self._stack = ExitStack()
        self._guard_file = guard_file
        self._saved_s = self._loop.time()
        if guard_file is not None:
            kept = self._stack.enter_context(guard_file).load()
            self._memory.remember(kept.guards, kept.build_times, borrowed=not guard_file.writes)
        self._unsaved_told = False
        self._saved = self._kept
        self._cover = None if cover is None else CoverTraffic(cover, draw)
        self._asked: list[bytes] = []
        """The model nodes of the last questions."""
        self._requests: dict[int, Request] = {}
        self._solving = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timed_pool: PathPool | None = None
        self._changed = asyncio.Event()
        self._closed = False

    # What users of the overlay call.

    async def ensure_paths(self) -> None:
        """Have k paths open for the next question, n where that takes no longer than a grace.

        Raises `NotEnoughRoutes` when the ledger lists too few relays, `PathsUnavailable` when
        they cannot be built.
        """
        await self._routes()
        self._do(self._asking.prepare(self._now()))
        number = self._asking.paths.pool.ahead
        patience_s = self.settings.limits.repair_timeout_s
        deadline_s = self._loop.time() + patience_s
        graced = False
        while number is not None and (left_s := deadline_s - self._loop.time()) > 0:
            member = self._asking.paths.pool.members.get(number)
            if member is None or member.taken_s is not None or member.paths.full:
                return
            if member.paths.ready and not graced:
                graced = True
                deadline_s = min(deadline_s, self._loop.time() + self.settings.grace_s)
                continue
            changed = self._changed
            try:
                async with asyncio.timeout(left_s):
                    await changed.wait()
            except TimeoutError:
                continue
            self._check_open()
        if not graced and number is not None:
            raise PathsUnavailable(self._asking.paths.shortage(number, self._now()))

    def open_paths(self) -> list[Hops]:
        """The paths that are open now, of all sets."""
        paths = self._asking.paths
        found = [paths.hops_of(number, slot) for number, slot in paths.open_paths()]
        return [hops for hops in found if hops is not None]

    def end_session(self, session: int) -> None:
        """The conversation of that number is over."""
        if not self._closed:
            self._do(self._asking.end_session(session, self._now()))

    def request(self, target: NodeRecord, payload: bytes, session: int | None = None) -> Request:
        """Send `payload` to the model node `target`; see `Request` for the answer. `session` is a
        number of the caller's for the conversation that the question belongs to: its questions
        share paths, which no other question uses."""
        return Request(self, target, payload, session, QUESTION, 0)

    async def close(self, drain: bool = True) -> None:
        """Give up what is under way. `drain` waits for the padding that follows answers, since who
        hangs up at the end of an answer tells its length."""
        if self._closed:
            return
        self._closed = True
        for request in list(self._requests.values()):
            request._give_up(UsageError("this client is closed"))
        while drain and self._asking.under_way:  # the questions' own limits end it
            await self._changed.wait()
        self._do(self._asking.shut(self._now()))
        if self._timer is not None:
            self._timer.cancel()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self._tell_unsaved()
        if self._guard_file is not None:
            await asyncio.to_thread(self._guard_file.save, self._kept)
        self._stack.close()
        await asyncio.sleep(0)  # lets the CLOSE frames reach the sockets' threads
        if self._own_links:
            self._links.close()

    # What links call.

    def knows(self, peer: Peer, frame: bytes) -> bool:
        """Whether `frame` is of a path of this client."""
        return self._asking.paths.knows(peer, frame)

    def frame_arrived(self, peer: Peer, frame: bytes) -> None:
        self._do(self._asking.frame_arrived(peer, frame, self._now()))

    def peer_gone(self, peer: Peer) -> None:
        self._do(self._asking.peer_gone(peer, self._now()))

    def shed(self, peer: Peer, link_id: bytes) -> None:
        self._do(self._asking.shed(peer, link_id, self._now()))

    # What a `Request` calls.

    async def _ask(self, request: Request) -> int:
        await self._routes()
        target, at, rules = request.target, self._now(), self.settings.rules
        if len(request.payload) > MAX_PAYLOAD_BYTES:
            raise UsageError("the request has more than a megabyte")
        try:
            sealed = prepare(
                request.payload,
                target.id,
                target.onion_key,
                rules.n,
                rules.k,
                period_of(at.unix_s),
                os.urandom,
                request.kind,
                request.least_frames,
            )
        except (ValueError, PyHPKEError) as error:
            raise NodeUnreachable(f"{target.name} announced an unusable key") from error
        if request.kind == QUESTION:
            self._asked = [*self._asked, target.id][-REMEMBERED:]
        number, effects = self._asking.begin(request.session, target, sealed, at)
        self._requests[number] = request
        self._do(effects)
        return number

    def _read(self, number: int) -> bytes:
        return self._asking.read(number, READ_BYTES)

    def _hops(self, number: int) -> list[Hops]:
        return self._asking.hops(number)

    def _leave(self, number: int) -> None:
        if self._requests.pop(number, None) is not None:
            self._do(self._asking.leave(number, self._now()))

    # What the core asks for.

    def _do(self, effects: Iterable[AskingEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, frame):
                    if not self._links.send(peer, frame):
                        self._loop.call_soon(self.peer_gone, peer)
                case Purge(peer, link_id):
                    self._links.purge(peer, link_id)
                case Solve():
                    self._spawn(self._solve(effect))
                case Progress(number) | Whole(number):
                    if number in self._requests:
                        self._requests[number]._told(whole=isinstance(effect, Whole))
                case Lost(number, error):
                    if number in self._requests:
                        self._requests[number]._told(error)
        if self._asking.paths.pool is not self._timed_pool:
            self._timed_pool = self._asking.paths.pool
            self._changed.set()
            self._changed = asyncio.Event()
            self._schedule()

    def _schedule(self) -> None:
        """Tick again when a back-off or a time-out ends, a second from now at the latest."""
        if self._closed and not self._asking.under_way:
            return
        now_s = self._loop.time()
        due_s = min(
            self._asking.paths.next_s() or now_s + TICK_S,
            now_s + TICK_S if self._cover is None else self._cover.next_s,
            now_s + TICK_S,
        )
        at_s = max(due_s, now_s + LEAST_TICK_S)
        if self._timer is None or self._timer.cancelled() or at_s < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._know_routes()
        self._do(self._asking.tick(self._now()))
        if self._cover is not None and not self._closed:
            self._send_cover(self._cover)
        self._tell_unsaved()
        if self._guard_file is not None and self._save_is_due():
            self._saved, self._saved_s = self._kept, self._loop.time()
            self._spawn(asyncio.to_thread(self._guard_file.save, self._saved))
        self._schedule()

    def _send_cover(self, cover: CoverTraffic) -> None:
        paths = self._asking.paths
        routes = self._directory.current
        trusted = [] if routes is None else [node.id for node in routes.model_nodes()]
        targets = likely_targets(self._asked, trusted)
        loops, dummies = cover.due(self._loop.time(), paths.open_paths(), targets)
        for number, slot in loops:
            self._do(paths.ping(number, slot))
        for dummy in dummies:
            self._spawn(self._ask_for_nothing(dummy))

    async def _ask_for_nothing(self, dummy: Dummy) -> None:
        target = self._directory.find(dummy.target)
        if target is None:
            return
        payload = os.urandom(dummy.shape.payload_bytes)
        request = Request(self, target, payload, None, DUMMY, dummy.shape.frames)
        try:
            async for _ in request:
                pass
        except PlanetServeError as error:
            log.info("dummy_question_failed", reason=str(error))
        finally:
            await request.aclose()

    async def _solve(self, work: Solve) -> None:
        """On a thread, one path at a time: puzzles are to cost time, not every core we have."""
        nonces: dict[int, bytes] = {}
        async with self._solving:
            for puzzle in work.puzzles:
                start = int.from_bytes(os.urandom(PUZZLE_NONCE_BYTES - 1), "big")
                found = None
                while found is None:
                    if not self._asking.paths.wanted(work.path):
                        return
                    found = await asyncio.to_thread(
                        solve_puzzle,
                        puzzle.seed,
                        puzzle.ephemeral,
                        puzzle.difficulty,
                        start,
                        PUZZLE_SLICE,
                    )
                    start += PUZZLE_SLICE
                nonces[puzzle.hop] = found.to_bytes(PUZZLE_NONCE_BYTES, "big")
        self._do(self._asking.solved(work.path, nonces, self._now()))

    async def _routes(self) -> RouteSet:
        """The route set, known to the core. Raises `NotEnoughRoutes`."""
        self._check_open()
        if self._directory.current is None:
            await self._directory.refresh()
            self._check_open()
        routes = self._know_routes()
        assert routes is not None
        relays, rules = len(self._memory.relays), self.settings.rules
        if relays < rules.k * rules.hops:
            raise NotEnoughRoutes(
                f"the ledger lists {relays} relays, {rules.k} disjoint paths of {rules.hops} need "
                f"{rules.k * rules.hops}; wait until more have joined"
            )
        return routes

    def _know_routes(self) -> RouteSet | None:
        routes = self._directory.current
        if routes is not None:
            self._memory.routes_read(routes)
        return routes

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this client is closed")

    @property
    def _kept(self) -> Kept:
        return Kept(self._memory.guards, self._memory.build_times)

    def _save_is_due(self) -> bool:
        """At once when the guards are others, else now and then."""
        kept, saved = self._kept, self._saved
        if [guard.node for guard in kept.guards.guards] != [g.node for g in saved.guards.guards]:
            return True
        return kept != saved and self._loop.time() - self._saved_s >= SAVE_S

    def _tell_unsaved(self) -> None:
        if self._memory.unsaved and not self._unsaved_told:
            self._unsaved_told = True
            log.warning("first_hops_not_kept", reason="too few of the kept ones are usable")

    def _now(self) -> Moment:
        return Moment(self._loop.time(), time.time())

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class Request:
    """A question under way: iterate it for the bytes of its answer, and `aclose` it in the end.

    Closing it before its end cancels the question. The iteration raises `NotEnoughRoutes`,
    `PathsUnavailable` or `NodeUnreachable` before the first byte, `AnswerCutShort` after it, and
    `RemoteProtocolError` when the node's answer does not authenticate.
    """

    def __init__(
        self,
        client: OverlayClient,
        target: NodeRecord,
        payload: bytes,
        session: int | None,
        kind: int,
        least_frames: int,
    ) -> None:
        self.target = target
        self.payload = payload
        self.session = session
        self.kind = kind
        self.least_frames = least_frames
        self.paths: list[Hops] = []
        """The paths that carried it, complete once it is over."""
        self._client = client
        self._number: int | None = None
        self._over = False
        self._whole = False
        self._error: PlanetServeError | None = None
        self._news = asyncio.Event()

    def __aiter__(self) -> Request:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise self._error or StopAsyncIteration
        try:
            if self._number is None:
                self._number = await self._client._ask(self)
            while not self._over:
                self._news.clear()
                data = self._client._read(self._number)
                if data:
                    return data
                if self._error is not None:
                    raise self._error
                if self._whole:
                    raise StopAsyncIteration
                await self._news.wait()
            raise self._error or StopAsyncIteration
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        self._finish()

    def _give_up(self, error: PlanetServeError) -> None:
        unread = self._number is not None and self._client._read(self._number)
        if unread or not self._whole:
            self._error = self._error or error
        self._news.set()
        self._finish()

    def _finish(self) -> None:
        self._over = True
        if self._number is not None:
            self.paths = self._client._hops(self._number)
            self._client._leave(self._number)
            self._number = None

    def _told(self, error: PlanetServeError | None = None, whole: bool = False) -> None:
        if not self._whole:  # what is whole stays so
            self._error = self._error or error
        self._whole = self._whole or whole
        self._news.set()

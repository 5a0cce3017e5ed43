"""A model node's door to the overlay: requests in, paced answers out."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path

from prometheus_client import Counter, Gauge

from overlay.core.answering import AnswerSent, DummyReady, RequestGone, RequestReady, Room
from overlay.core.effects import Count, Peer, Purge, Remember, Send
from overlay.core.inbox import Inbox, InboxEffect, InboxLimits, Wake
from overlay.core.setup import period_of
from overlay.doorkeeper import NodeOfKey, no_node
from overlay.links import Links
from overlay.replay_log import ReplayLog
from overlay.ticking import tick
from planetserve.errors import PlanetServeError
from planetserve.keys import Identity
from planetserve.logs import get_logger

TICK_S = 1.0

EVENTS = Counter("planetserve_inbox_events", "What a model node's inbox did, by kind", ["event"])
RUNNING = Gauge("planetserve_inbox_running", "Requests that are being answered, dummies too")

log = get_logger()


class ReplyGone(PlanetServeError):
    """The client left, or too few of its paths are alive; nobody waits for the answer."""


class IncomingRequest:
    """One request: its decrypted `payload`, and where the answer goes.

    What is written leaves in frames of fixed size at a fixed beat; `overlay.core.pacing` says when.
    The first write says that the request was accepted, the second is the first token.
    """

    def __init__(
        self,
        payload: bytes,
        write: Callable[[bytes], bool],
        finish: Callable[[], None],
    ) -> None:
        """`write` says whether there is room for more."""
        self.payload = payload
        self._write = write
        self._finish = finish
        self._is_gone = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_sent = asyncio.Event()
        self._finished = False

    async def write(self, data: bytes) -> None:
        """Add `data` to the answer; waits while too much is unsent. Raises `ReplyGone`."""
        await self._has_room.wait()
        self._check()
        if not self._write(data):
            self._has_room.clear()

    async def finish(self) -> None:
        """End the answer and wait until its last byte is out. Raises `ReplyGone`."""
        self.end()
        await self._is_sent.wait()
        self._check()

    async def gone(self) -> None:
        """Returns when nobody waits for the answer any more."""
        await self._is_gone.wait()

    def end(self) -> None:
        """End the answer, if that has not happened."""
        if not self._finished:
            self._finished = True
            self._finish()

    def room_came(self) -> None:
        self._has_room.set()

    def sent(self) -> None:
        """The last byte is out."""
        self._is_sent.set()

    def abandon(self) -> None:
        """Whoever writes learns that nobody waits."""
        self._is_gone.set()
        self._has_room.set()
        self._is_sent.set()

    def _check(self) -> None:
        if self._is_gone.is_set():
            raise ReplyGone("nobody waits for this answer any more")


Handler = Callable[[IncomingRequest], Coroutine[None, None, None]]


async def _say_nothing(delay_s: float, request: IncomingRequest) -> None:
    """Answers a dummy: the same steps as a question's, with an engine that has no words."""
    await request.write(b"")
    await asyncio.sleep(delay_s)
    await request.write(b"")
    request.end()


class OverlayServer:
    """Serves requests that reach `bind` (HOST:PORT) with `handler`, each in a task of its own;
    `replay_folder` is where it keeps which requests it took."""

    def __init__(
        self,
        identity: Identity,
        bind: str,
        handler: Handler,
        replay_folder: Path,
        limits: InboxLimits | None = None,
        node_of_key: NodeOfKey = no_node,
    ) -> None:
        """`node_of_key` tells relays of the ledger by the transport key that they proved. Raises
        `ConfigurationError` when the folder cannot be used."""
        self._identity = identity
        self._bind = bind
        self._handler = handler
        # A model node only answers on connections that relays opened, so it dials nobody.
        self._links = Links(
            lambda node: None,
            self._frame_arrived,
            self._peer_gone,
            self._stream_shed,
            node_of_key=node_of_key,
        )
        period = period_of(time.time())
        self._replay = ReplayLog(replay_folder, period, cold_periods=-1)
        self._inbox = Inbox(
            identity.id,
            identity.onion_secret,
            os.urandom,
            self._replay.filter,
            period,
            self._links.neighbour,
            limits or InboxLimits(),
        )
        self._running: dict[bytes, IncomingRequest] = {}
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """Requests whose handler runs, dummies too."""
        return len(self._running)

    async def start(self) -> int:
        """Returns the port. Raises `ConfigurationError` when the address cannot be bound."""
        port = self._links.bind(self._bind, self._identity)
        self._spawn(tick("inbox", TICK_S, self._tick))
        return port

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._links.close()
        self._keep(self._replay.close)

    def _frame_arrived(self, peer: Peer, frame: bytes) -> None:
        self._carry_out(self._inbox.frame_arrived(peer, frame, self._now_s()))

    def _peer_gone(self, peer: Peer) -> None:
        self._carry_out(self._inbox.peer_gone(peer, self._now_s()))

    def _stream_shed(self, peer: Peer, link_id: bytes) -> None:
        self._carry_out(self._inbox.stream_shed(peer, link_id, self._now_s()))

    def _carry_out(self, effects: Iterable[InboxEffect]) -> None:
        """A send that fails is a link lost, which has effects in turn."""
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            match effect:
                case Send():
                    if not self._links.send(effect.peer, effect.frame):
                        pending.extend(self._inbox.peer_gone(effect.peer, self._now_s()))
                case Wake():
                    self._wake(effect.request_id, effect.at_s)
                case Count():
                    EVENTS.labels(effect.event).inc()
                case Purge():
                    self._links.purge(effect.peer, effect.link_id)
                case Remember():
                    self._keep(partial(self._replay.remember, effect))
                case RequestReady():
                    self._begin(effect.request_id, effect.payload, self._handler)
                case DummyReady():
                    self._begin(effect.request_id, b"", partial(_say_nothing, effect.delay_s))
                case _:
                    self._tell(effect)

    def _tell(self, effect: RequestGone | AnswerSent | Room) -> None:
        request = self._running.get(effect.request_id)
        if request is None:
            return
        match effect:
            case RequestGone():
                request.abandon()
            case AnswerSent():
                request.sent()
            case Room():
                request.room_came()

    def _keep(self, work: Callable[[], None]) -> None:
        """A disk that fails costs the protection after a restart, not the service."""
        try:
            work()
        except OSError as error:
            EVENTS.labels("replay_log_failed").inc()
            log.error("replay_log_failed", reason=error.strerror)

    def _wake(self, request_id: bytes, at_s: float | None) -> None:
        timer = self._timers.pop(request_id, None)
        if timer is not None:
            timer.cancel()
        if at_s is not None:
            loop = asyncio.get_running_loop()
            self._timers[request_id] = loop.call_at(at_s, self._beat, request_id)

    def _beat(self, request_id: bytes) -> None:
        self._timers.pop(request_id, None)
        self._carry_out(self._inbox.beat(request_id, self._now_s()))

    def _begin(self, request_id: bytes, payload: bytes, handler: Handler) -> None:
        def write(data: bytes) -> bool:
            self._carry_out(self._inbox.write(request_id, data, self._now_s()))
            return self._inbox.has_room(request_id)

        def finish() -> None:
            self._carry_out(self._inbox.finish(request_id, self._now_s()))

        request = self._running[request_id] = IncomingRequest(payload, write, finish)
        self._spawn(self._serve(request_id, request, handler))

    async def _serve(self, request_id: bytes, request: IncomingRequest, handles: Handler) -> None:
        handler = asyncio.create_task(handles(request))
        leaver = asyncio.create_task(request.gone())
        try:
            await asyncio.wait({handler, leaver}, return_when=asyncio.FIRST_COMPLETED)
            if not handler.done():
                handler.cancel()
            (result,) = await asyncio.gather(handler, return_exceptions=True)
            expected = (ReplyGone, asyncio.CancelledError)
            if isinstance(result, BaseException) and not isinstance(result, expected):
                EVENTS.labels("handler_failed").inc()
                log.error("request_handler_failed", exc_info=result)
            request.end()
        finally:
            for task in (leaver, handler):
                task.cancel()
            await asyncio.gather(leaver, handler, return_exceptions=True)
            del self._running[request_id]

    def _tick(self) -> None:
        self._carry_out(self._inbox.tick(self._now_s(), period_of(time.time())))
        self._keep(self._replay.forget_old)
        RUNNING.set(self._inbox.running)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()

"""A model node's door to the overlay: requests in, paced answers out."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable

from prometheus_client import Counter

from overlay.core import reply
from overlay.core.effects import Count, Peer
from overlay.core.inbox import Inbox, InboxEffect, RequestGone, RequestReady
from overlay.links import Links
from planetserve.errors import PlanetServeError
from planetserve.keys import Identity
from planetserve.logs import get_logger

TICK_S = 1.0
FRAME_INTERVAL_S = 0.05
WAITING_INTERVAL_S = 1.0
"""Between keep-alive frames while the engine has not begun to answer."""
MAX_UNSENT_BYTES = 256 << 10
MAX_RUNNING_REQUESTS = 1024

EVENTS = Counter("planetserve_inbox_events", "What a model node's inbox did, by kind", ["event"])

log = get_logger()


class ReplyGone(PlanetServeError):
    """The client left, or too few of its paths are alive; nobody waits for the answer."""


class IncomingRequest:
    """One request: its decrypted `payload`, and where the answer goes.

    What is written leaves in frames of fixed size. The first two writes (that the request was
    accepted, and the first token) leave at once; from then on one frame leaves at each fixed
    interval, empty when there is nothing to say, so that neither sizes nor timing of frames tell
    what the tokens are.
    """

    def __init__(self, payload: bytes, send: Callable[[int, bytes], None]) -> None:
        self.payload = payload
        self._send = send
        self._unsent = bytearray()
        self._writes = 0
        self._finished = False
        self._gone = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._wake = asyncio.Event()
        self._done = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Add `data` to the answer; waits while too much is unsent. Raises `ReplyGone`."""
        await self._room.wait()
        if self._gone.is_set():
            raise ReplyGone("nobody waits for this answer any more")
        self._unsent += data
        self._writes += 1
        if self._writes <= 2:
            self._wake.set()
        if len(self._unsent) >= MAX_UNSENT_BYTES:
            self._room.clear()

    async def finish(self) -> None:
        """End the answer and wait until its last frame is out. Raises `ReplyGone`."""
        self._finished = True
        self._wake.set()
        await self._done.wait()
        if self._gone.is_set():
            raise ReplyGone("nobody waits for this answer any more")

    def abandon(self) -> None:
        """The paths are gone: whoever writes learns of it."""
        self._gone.set()
        self._room.set()
        self._wake.set()
        self._done.set()

    def pump_ended(self, pump: asyncio.Task[None]) -> None:
        """A pump that broke must not leave the handler waiting."""
        if not pump.cancelled() and pump.exception() is not None:
            log.error("reply_pump_failed", exc_info=pump.exception())
            self.abandon()

    @property
    def finished(self) -> bool:
        """Whether the last frame is out."""
        return self._done.is_set()

    async def gone(self) -> None:
        """Returns when nobody waits for the answer any more."""
        await self._gone.wait()

    async def pump(self) -> None:
        """Send frames until the end; the server runs it beside the handler."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while not self._gone.is_set():
            paced = self._writes >= 2
            wait_s = due_s - loop.time() if paced else WAITING_INTERVAL_S
            if self._writes <= 2 or not paced:
                await self._until_woken(max(wait_s, 0.0))
            else:
                await asyncio.sleep(max(wait_s, 0.0))
            if self._gone.is_set():
                return
            data = bytes(self._unsent[: reply.MAX_DATA_BYTES])
            del self._unsent[: len(data)]
            if len(self._unsent) < MAX_UNSENT_BYTES:
                self._room.set()
            if self._finished and not self._unsent:
                self._send(reply.END, data)
                self._done.set()
                return
            self._send(reply.DATA if data else reply.KEEP_ALIVE, data)
            due_s = max(due_s + FRAME_INTERVAL_S, loop.time())

    async def _until_woken(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()


Handler = Callable[[IncomingRequest], Coroutine[None, None, None]]


class OverlayServer:
    """Serves requests that reach `bind` (HOST:PORT) with `handler`, each in a task of its own."""

    def __init__(self, identity: Identity, bind: str, handler: Handler) -> None:
        self._identity = identity
        self._bind = bind
        self._handler = handler
        # A model node only answers on connections that relays opened, so it dials nobody.
        self._links = Links(lambda node: None, self._frame_arrived, lambda peer: None)
        self._inbox = Inbox(identity.id, identity.onion_secret, os.urandom)
        self._running: dict[bytes, IncomingRequest] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        return len(self._running)

    async def start(self) -> int:
        """Returns the port. Raises `ConfigurationError` when the address cannot be bound."""
        port = self._links.bind(self._bind, self._identity)
        self._spawn(self._tick())
        return port

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._links.close()

    def _frame_arrived(self, peer: Peer, frame: bytes) -> None:
        now_s = asyncio.get_running_loop().time()
        self._carry_out(self._inbox.frame_arrived(peer, frame, now_s))

    def _carry_out(self, effects: Iterable[InboxEffect]) -> None:
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            if isinstance(effect, Count):
                EVENTS.labels(effect.event).inc()
            elif isinstance(effect, RequestReady):
                self._begin(effect)
            elif isinstance(effect, RequestGone):
                request = self._running.get(effect.request_id)
                if request is not None:
                    request.abandon()
            elif not self._links.send(effect.peer, effect.frame):
                pending.extend(self._inbox.peer_gone(effect.peer))

    def _begin(self, ready: RequestReady) -> None:
        def send(kind: int, data: bytes) -> None:
            self._carry_out(self._inbox.send_frame(ready.request_id, kind, data))

        if len(self._running) >= MAX_RUNNING_REQUESTS:
            EVENTS.labels("requests_full").inc()
            send(reply.END, b"")
            return
        request = IncomingRequest(ready.payload, send)
        self._running[ready.request_id] = request
        self._spawn(self._serve(ready.request_id, request))

    async def _serve(self, request_id: bytes, request: IncomingRequest) -> None:
        pump = asyncio.create_task(request.pump())
        pump.add_done_callback(lambda task: request.pump_ended(task))
        handler = asyncio.create_task(self._handler(request))
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
            if not request.finished:  # the handler ended without it
                self._carry_out(self._inbox.send_frame(request_id, reply.END, b""))
        finally:
            for task in (pump, leaver, handler):
                task.cancel()
            await asyncio.gather(pump, leaver, handler, return_exceptions=True)
            del self._running[request_id]

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._carry_out(self._inbox.tick(asyncio.get_running_loop().time()))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

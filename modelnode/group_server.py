"""The serving side of a group: one ROUTER that peers send requests and their loads to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field

import zmq
import zmq.asyncio
from zmq.utils import z85

from modelnode.batches import Batches
from modelnode.core.load import Report
from modelnode.group_messages import (
    MAX_EVENT_BYTES,
    WINDOW_EVENTS,
    Ask,
    Cancel,
    Credit,
    Event,
    Gone,
    GroupMessage,
    Load,
    Ping,
    Pong,
    Request,
    Sync,
    Vouch,
    decode_message,
    encode_message,
)
from modelnode.group_sockets import DOMAIN, configure
from modelnode.metrics import GROUP_DROPPED
from planetserve.errors import ConfigurationError, RemoteProtocolError
from planetserve.keys import Identity, NodeId
from planetserve.logs import get_logger
from planetserve.messages import Failed, ReplyEvent, encode_event

MAX_SESSIONS_A_NODE = 4
"""A node that connects anew before its last connection was missed; a fifth ends its oldest."""
MAX_REPLIES_A_NODE = 256
SILENCE_S = 10.0
"""An entry pings twice a second; one that is silent for so long is gone."""
STALL_TIMEOUT_S = 60.0
"""An entry that takes no more of a reply for so long has lost it."""

log = get_logger()

Serve = Callable[[bytes], AsyncGenerator[ReplyEvent, None]]


class _Window:
    """How many events of a reply may still be sent."""

    def __init__(self) -> None:
        self._events = WINDOW_EVENTS
        self._open = asyncio.Event()
        self._open.set()

    async def take(self) -> None:
        await self._open.wait()
        self._events -= 1
        if not self._events:
            self._open.clear()

    def grant(self, events: int) -> None:
        self._events = min(self._events + events, WINDOW_EVENTS)
        if self._events:
            self._open.set()


@dataclass(slots=True)
class _Session:
    """A connection of one entry node and the replies it waits for, by request id."""

    route: bytes
    node: NodeId
    heard_s: float
    replies: dict[bytes, tuple[asyncio.Task[None], _Window]] = field(default_factory=dict)


class GroupServer:
    """Serves peers at `bind` (HOST:PORT) between `start` and `close`.

    `node_of` gives the node of a CURVE key, None for one that may not ask; `reported` gets each
    peer's load and `heard` what it says of its cache, `vouch` says what we know of a node that a
    peer asks for, and `changed` is called when `active` is not what it was.
    """

    def __init__(
        self,
        identity: Identity,
        bind: str,
        serve: Serve,
        node_of: Callable[[bytes], NodeId | None],
        reported: Callable[[NodeId, Report], None],
        vouch: Callable[[NodeId], Vouch | None],
        changed: Callable[[], None],
        heard: Callable[[NodeId, Sync], None],
        incarnation: int,
    ) -> None:
        self._identity = identity
        self._bind = bind
        self._serve = serve
        self._node_of = node_of
        self._reported = reported
        self._vouch = vouch
        self._changed = changed
        self._heard = heard
        self._incarnation = incarnation
        self.active = 0
        """Requests of peers that are being answered."""
        self._active_of: Counter[NodeId] = Counter()
        self._sessions: dict[bytes, _Session] = {}
        self._socket: zmq.asyncio.Socket | None = None
        self._receiver: asyncio.Task[None] | None = None

    def active_of(self, node: NodeId) -> int:
        """Those of one peer."""
        return self._active_of[node]

    def start(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Raises `ConfigurationError` when the address cannot be bound."""
        socket = zmq.asyncio.Socket(context, zmq.ROUTER)
        configure(socket, self._identity)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, DOMAIN)
        try:
            socket.bind(f"tcp://{self._bind}")
        except zmq.ZMQError as error:
            socket.close()
            raise ConfigurationError(f"cannot listen on {self._bind}: {error}") from error
        self._socket = socket
        self._receiver = asyncio.create_task(self._receive(socket), name="group server")

    async def close(self) -> None:
        tasks = [
            task for session in self._sessions.values() for task, _ in session.replies.values()
        ]
        if self._receiver is not None:
            tasks.append(self._receiver)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close(linger=0)

    def drop_silent(self, now_s: float) -> None:
        """Cancel what is being served for entries that went away."""
        for session in list(self._sessions.values()):
            if now_s - session.heard_s > SILENCE_S:
                self._drop(session)

    async def _receive(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart(copy=False)
            try:
                self._handle(frames)
            except RemoteProtocolError:
                GROUP_DROPPED.labels("malformed").inc()
            except Exception:
                # One message must not make us deaf to all others.
                log.exception("group_message_failed")

    def _handle(self, frames: list[zmq.Frame]) -> None:
        if len(frames) != 2:
            raise RemoteProtocolError("a group message has one part")
        # Asked again for each message: a peer may have left the ledger since it connected.
        node = self._node_of(_curve_key(frames[1]))
        if node is None:
            GROUP_DROPPED.labels("not_admitted").inc()
            return
        message = decode_message(frames[1].bytes)
        session = self._session(frames[0].bytes, node)
        match message:
            case Request():
                self._begin(session, message)
            case Credit(identifier, events):
                if identifier in session.replies:
                    session.replies[identifier][1].grant(events)
            case Cancel(identifier):
                if identifier in session.replies:
                    session.replies[identifier][0].cancel()
            case Load(report):
                self._reported(node, report)
            case Sync():
                self._heard(node, message)
            case Ping(number):
                self._send(session, Pong(number, self._incarnation))
            case Ask(about):
                vouch = self._vouch(about)
                if vouch is not None:
                    self._send(session, vouch)
            case _:
                raise RemoteProtocolError("an entry node does not send this")

    def _sessions_of(self, node: NodeId) -> list[_Session]:
        return [session for session in self._sessions.values() if session.node == node]

    def _session(self, route: bytes, node: NodeId) -> _Session:
        now_s = asyncio.get_running_loop().time()
        session = self._sessions.get(route)
        if session is not None and session.node != node:
            self._drop(session)
            session = None
        if session is None:
            others = self._sessions_of(node)
            if len(others) >= MAX_SESSIONS_A_NODE:
                GROUP_DROPPED.labels("too_many_sessions").inc()
                self._drop(min(others, key=lambda other: other.heard_s))
            session = self._sessions[route] = _Session(route, node, now_s)
        session.heard_s = now_s
        return session

    def _begin(self, session: _Session, request: Request) -> None:
        if request.id in session.replies:
            raise RemoteProtocolError("a request id is used twice")
        if self.active_of(session.node) >= MAX_REPLIES_A_NODE:
            refusal = Failed("overloaded", "too many requests from one entry node", 1)
            self._send(session, Event(request.id, encode_event(refusal)))
            return
        window = _Window()
        task = asyncio.create_task(self._reply(session, request, window), name="group reply")
        session.replies[request.id] = (task, window)
        self._count(session.node, 1)
        task.add_done_callback(lambda done: self._ended(session, request.id, done))

    async def _reply(self, session: _Session, request: Request, window: _Window) -> None:
        async with Batches(self._serve(request.body)) as reading:
            while batch := await reading.take():
                for data in _cut(batch):
                    try:
                        async with asyncio.timeout(STALL_TIMEOUT_S):
                            await window.take()
                    except TimeoutError:
                        GROUP_DROPPED.labels("stalled").inc()
                        self._send(session, Gone(request.id))
                        return
                    if not self._send(session, Event(request.id, data)):
                        return

    def _ended(self, session: _Session, identifier: bytes, task: asyncio.Task[None]) -> None:
        del session.replies[identifier]
        self._count(session.node, -1)
        if task.cancelled() or task.exception() is None:
            return
        log.error("group_reply_failed", exc_info=task.exception())
        failure = Failed("engine_failed", "the serving node failed")
        self._send(session, Event(identifier, encode_event(failure)))

    def _count(self, node: NodeId, change: int) -> None:
        self.active += change
        self._active_of[node] += change
        if not self._active_of[node]:
            del self._active_of[node]
        self._changed()

    def _send(self, session: _Session, message: GroupMessage) -> bool:
        """False when the entry is gone or its queue is full."""
        if self._socket is None or self._socket.closed:
            return False
        frames = [session.route, encode_message(message)]
        # Without waiting, pyzmq has sent or failed by the time it returns the future.
        error = asyncio.ensure_future(self._socket.send_multipart(frames, zmq.DONTWAIT)).exception()
        if error is not None and not isinstance(error, zmq.ZMQError):
            raise error
        return error is None

    def _drop(self, session: _Session) -> None:
        del self._sessions[session.route]
        for task, _ in session.replies.values():
            task.cancel()


def _cut(batch: list[ReplyEvent]) -> Iterator[bytes]:
    """The lines of a batch, as many in one event as there is room for."""
    data = b""
    for event in batch:
        for line in encode_event(event).splitlines(keepends=True):
            if data and len(data) + len(line) > MAX_EVENT_BYTES:
                yield data
                data = b""
            data += line
    if data:
        yield data


def _curve_key(frame: zmq.Frame) -> bytes:
    """The CURVE key that ZeroMQ authenticated the sender with."""
    try:
        return z85.decode(str(frame.get("User-Id")))
    except (zmq.ZMQError, ValueError) as error:
        raise RemoteProtocolError("a group message comes from nobody") from error

"""The entry's side of a group connection: one DEALER a peer, many requests over it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable

import zmq
from zmq.utils import z85

from modelnode.group_messages import (
    REQUEST_ID_BYTES,
    WINDOW_EVENTS,
    Cancel,
    Credit,
    Event,
    Gone,
    GroupMessage,
    Pong,
    Request,
    Vouch,
    decode_message,
    encode_message,
)
from modelnode.group_sockets import configure
from modelnode.members import PeerAddress
from modelnode.metrics import GROUP_DROPPED
from overlay.channel import Channel
from overlay.watch import CONNECTION_LOST
from planetserve.errors import RemoteProtocolError
from planetserve.keys import Identity
from planetserve.messages import Accepted, End, ReplyEvent, ReplyParser

CREDIT_EVENTS = WINDOW_EVENTS // 4
SILENCE_TIMEOUT_S = 90.0
"""A peer whose connection lives but that says nothing about a request for so long has lost it."""
STALL_TIMEOUT_S = 30.0
"""The same once it has begun to answer: no engine reads other prompts for so long in between."""


class PeerLost(Exception):
    """The peer is gone, silent, or broke the protocol: its reply will not be finished."""


class PeerLink:
    """A connection to one peer. When it breaks, every request on it ends with `PeerLost`,
    `broken` is called once, and the link is of no more use. `heard` gets what is about nodes and
    not about requests."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        address: PeerAddress,
        broken: Callable[[PeerLink], None],
        heard: Callable[[PeerLink, Pong | Vouch], None],
    ) -> None:
        """Raises `zmq.ZMQError` for an address that is none."""
        self.address = address
        self._broken = broken
        self._heard = heard
        self._replies: dict[bytes, asyncio.Queue[bytes | None]] = {}
        self._closed = False
        socket = context.socket(zmq.DEALER)
        monitor: zmq.Socket[bytes] | None = None
        try:
            configure(socket, identity)
            socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(address.transport_key))
            socket.setsockopt(zmq.RECONNECT_IVL, -1)
            monitor = socket.get_monitor_socket(CONNECTION_LOST)
            socket.connect(address.endpoint)
        except zmq.ZMQError:
            if monitor is not None:
                socket.disable_monitor()
                monitor.close(linger=0)
            socket.close(linger=0)
            raise
        self._monitor = Channel(monitor, lambda frames: self.fail())
        self._dealer = Channel(socket, self._received)

    def send(self, message: GroupMessage) -> bool:
        """Queue `message`; False when the peer is gone or takes nothing any more."""
        return not self._closed and self._dealer.send([encode_message(message)])

    async def ask(self, body: bytes) -> AsyncGenerator[ReplyEvent, None]:
        """The events of the peer's reply to `body`, up to its `End` or `Failed`. Closing the
        generator cancels the request there. Raises `PeerLost`."""
        identifier = os.urandom(REQUEST_ID_BYTES)
        arrived: asyncio.Queue[bytes | None] = asyncio.Queue(WINDOW_EVENTS + 1)
        self._replies[identifier] = arrived
        parser = ReplyParser()
        unacknowledged = 0
        try:
            if not self.send(Request(identifier, body)):
                raise PeerLost("the peer takes no request")
            silence_s = SILENCE_TIMEOUT_S
            while not parser.finished:
                for event in self._parse(parser, await _next(arrived, silence_s)):
                    yield event
                silence_s = STALL_TIMEOUT_S
                unacknowledged += 1
                if unacknowledged == CREDIT_EVENTS:
                    self.send(Credit(identifier, unacknowledged))
                    unacknowledged = 0
        finally:
            del self._replies[identifier]
            if not parser.finished:
                self.send(Cancel(identifier))

    def close(self) -> None:
        """End the connection without calling `broken`."""
        if self._closed:
            return
        self._closed = True
        self._dealer.socket.disable_monitor()
        self._monitor.close()
        self._dealer.close()
        for arrived in self._replies.values():
            _end(arrived)

    def _parse(self, parser: ReplyParser, data: bytes) -> list[ReplyEvent]:
        try:
            events = parser.feed(data)
        except RemoteProtocolError as error:
            raise PeerLost("the peer broke the reply's format") from error
        for event in events:
            stranger = isinstance(event, End) and event.node != self.address.node
            if stranger or isinstance(event, Accepted):
                raise PeerLost("the peer answers in another node's name")
        return events

    def _received(self, frames: list[bytes]) -> None:
        try:
            message = decode_message(frames[0]) if len(frames) == 1 else None
        except RemoteProtocolError:
            message = None
        if isinstance(message, Pong | Vouch):
            self._heard(self, message)
            return
        if not isinstance(message, Event | Gone):
            GROUP_DROPPED.labels("malformed").inc()
            return
        arrived = self._replies.get(message.id)
        if arrived is None:  # it crossed our cancel
            return
        if isinstance(message, Gone):
            _end(arrived)
            return
        if arrived.qsize() >= WINDOW_EVENTS:
            GROUP_DROPPED.labels("window_overrun").inc()
            _end(arrived)
            return
        arrived.put_nowait(message.data)

    def fail(self) -> None:
        """End the connection and tell `broken`."""
        if not self._closed:
            self.close()
            self._broken(self)


async def _next(arrived: asyncio.Queue[bytes | None], silence_s: float) -> bytes:
    try:
        async with asyncio.timeout(silence_s):
            data = await arrived.get()
    except TimeoutError as error:
        raise PeerLost("the peer is silent") from error
    if data is None:
        raise PeerLost("the peer or the connection to it is gone")
    return data


def _end(arrived: asyncio.Queue[bytes | None]) -> None:
    """What has arrived is still read; after it comes the loss. One place is kept free for it."""
    if not arrived.full():
        arrived.put_nowait(None)

"""The socket that others dial: one ROUTER, and a link for each connection that has spoken.

Who may connect how often, and what ends a connection, is decided in `overlay.core.connections`;
under which name its frames come, in `overlay.doorkeeper`.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import zmq
from zmq.utils import z85

from overlay.channel import BURST, Turns, readable
from overlay.core.connections import Connection, ConnectionLimits, Connections, Granted, Intake
from overlay.core.effects import Neighbour, Peer
from overlay.core.wire import FRAME_BYTES
from overlay.doorkeeper import DOMAIN, Doorkeeper, NodeOfKey, as_named, decode_granted, stranger
from overlay.link_sockets import (
    MORE_NOW,
    NOW,
    FrameArrived,
    LinkSocket,
    count,
    link_socket,
    send_part,
)
from overlay.outbox import Outbox, Waiting
from overlay.watch import HANDSHAKE_FAILED, Ends, Monitor, ends_of
from planetserve.errors import ConfigurationError
from planetserve.keys import Identity

_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_ACCEPT_FAILED | HANDSHAKE_FAILED


class Came:
    """A link that came to us."""

    __slots__ = (
        "_name",
        "_socket",
        "connection",
        "intake",
        "neighbour",
        "peer",
        "turns",
        "waiting",
    )

    def __init__(
        self, connection: Connection, granted: Granted, socket: LinkSocket, turns: Turns
    ) -> None:
        self.peer = Peer(False, granted.name)
        self.neighbour = granted.neighbour
        self.connection = connection
        self.intake = connection.intake
        self.turns = turns
        self.waiting: Waiting | None = None
        self._name = granted.name
        self._socket = socket

    def offer(self, frame: bytes) -> bool:
        try:
            send_part(self._socket, self._name, MORE_NOW)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):  # full; or gone, as we will hear
                return False
            raise
        send_part(self._socket, frame, NOW)
        return True


Item = TypeVar("Item")


class InTurn:
    """Picks some items of a changing list at a time, all in turn."""

    def __init__(self) -> None:
        self._start = 0

    def next(self, items: list[Item], most: int) -> list[Item]:
        start = self._start if self._start < len(items) else 0
        self._start = start + most
        return items[start : start + most]


class Door:
    """Listens at `host_port` until `close`; `gone` is called with each link that ends of itself.
    Raises `ConfigurationError` if it cannot listen."""

    def __init__(
        self,
        context: zmq.Context[LinkSocket],
        host_port: str,
        identity: Identity,
        node_of_key: NodeOfKey,
        limits: ConnectionLimits,
        outbox: Outbox,
        frame_arrived: FrameArrived,
        gone: Callable[[Peer], None],
    ) -> None:
        self.links: dict[bytes, Came] = {}
        self._outbox = outbox
        self._frame_arrived = frame_arrived
        self._gone = gone
        self._connections = Connections(_within_descriptors(limits))
        self._ends: dict[int, Ends] = {}
        self._in_turn = InTurn()
        self._skipping: Intake | None = None
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._socket = socket = link_socket(context, zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(identity.transport_secret))
        socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._doorkeeper = Doorkeeper(context, node_of_key, os.urandom)
        self._monitor = Monitor(socket, _EVENTS, self._happened)
        self.turns = Turns(socket, self._turn)
        try:
            socket.bind(f"tcp://{host_port}")
        except zmq.ZMQError as error:
            self.close()
            raise ConfigurationError(f"cannot listen on {host_port}: {error}") from error
        endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(endpoint, bytes)
        self.port = int(endpoint.rstrip(b"\0").rpartition(b":")[2])

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._doorkeeper.close()
        self._monitor.close()
        self.turns.close()

    def hang_up(self, name: bytes) -> None:
        """End a link without a report."""
        link = self.links.pop(name, None)
        if link is not None:
            self._connections.refuse(link.connection)
            self._shut(link.connection)

    def look_at_intake(self, count_at_most: int, now_s: float) -> None:
        """End connections that bring more than frames; see `overlay.links`."""
        self._connections.tick(now_s)
        for connection in self._in_turn.next(self._connections.all(), count_at_most):
            ends = self._ends.get(connection.descriptor)
            taken_bytes = ends.taken_bytes() if ends is not None else None
            if taken_bytes is not None and self._connections.holds_too_much(
                connection, taken_bytes, now_s
            ):
                count("endless_message")
                self._end(connection)
        self._settle()

    def _turn(self) -> bool:
        all_read = self._read()
        if all_read:
            self._settle()
        if self._closed:
            return True
        more_to_send = self._outbox.drain_some()
        if more_to_send or not all_read:
            return False
        # Sending may have swallowed the signal that there is something to read.
        return not readable(self._socket)

    def _read(self) -> bool:
        """A burst of frames; returns whether there are no more."""
        recv, links = self._socket.recv, self.links
        for _ in range(BURST):
            if self._closed:
                return True
            if self._skipping is not None:
                self._skip_part(self._skipping)
                continue
            try:
                name = recv(NOW)
            except zmq.Again:
                return True
            part = recv(NOW, copy=False)
            link = links.get(name) or self._newcomer(name, part)
            if part.more:
                count("parts")
                self._skipping = link.intake if link is not None else Intake()
            if link is None:
                continue
            link.intake.frames += 1
            if part.more:
                continue
            frame = part.bytes
            if len(frame) == FRAME_BYTES:
                self._frame_arrived(link.peer, frame)
            else:
                count("wrong_size")
        return False

    def _skip_part(self, intake: Intake) -> None:
        part = self._socket.recv(NOW, copy=False)
        intake.frames += 1
        if not part.more:
            self._skipping = None

    def _newcomer(self, name: bytes, part: zmq.Frame) -> Came | None:
        self._monitor.drain()  # that the connection was accepted has been said by now
        descriptor = int(part.get(zmq.SRCFD))
        granted = as_named(decode_granted(str(part.get("User-Id"))), name)
        connection = self._connections.spoke(descriptor, name, granted)
        if connection is None:
            count("late_frame")
            return None
        if connection.refused:
            count("refused_frame")
            self._end(connection)
            return None
        link = self.links[name] = Came(connection, granted, self._socket, self.turns)
        return link

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._accepted(value)
        elif event == zmq.EVENT_DISCONNECTED:
            self._ends.pop(value, None)
            self._connections.ended(value)
            self.turns.soon()  # it settles when all is read
        elif event == zmq.EVENT_ACCEPT_FAILED:
            count("accept_failed")
        else:
            count("handshake_failed")

    def _accepted(self, descriptor: int) -> None:
        ends = ends_of(descriptor)
        prefix = Neighbour(False, b"")
        if ends is not None and ends.own_port == self.port:
            prefix = stranger(ends.address)
            self._ends[descriptor] = ends
        for connection in self._connections.accepted(descriptor, prefix, self._loop.time()):
            refused = connection.descriptor == descriptor
            count("connection_refused" if refused else "connection_gave_way")
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        """Hang up a connection that is refused; who was linked by it is gone."""
        self._shut(connection)
        granted = connection.granted
        if granted is not None and granted.name in self.links:
            self._gone(Peer(False, granted.name))

    def _shut(self, connection: Connection) -> None:
        ends = self._ends.get(connection.descriptor)
        if ends is not None and not connection.over:
            ends.hang_up()

    def _settle(self) -> None:
        for name in self._connections.settle():
            if name in self.links:
                self._gone(Peer(False, name))


def _within_descriptors(limits: ConnectionLimits) -> ConnectionLimits:
    """At most half of the descriptors that the process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limits
    return replace(limits, connections=min(limits.connections, soft // 2))

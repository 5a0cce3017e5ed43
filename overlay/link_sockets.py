"""What the two kinds of sockets of overlay links have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import zmq
import zmq.backend
from prometheus_client import Counter

from overlay.core.connections import ConnectionLimits
from overlay.core.effects import Peer
from overlay.core.wire import FRAME_BYTES

EVENTS = Counter("planetserve_link_events", "What happened on overlay links, by kind", ["event"])

HIGH_WATER_FRAMES = 128
"""How many whole frames ZeroMQ holds of a connection in each direction."""
MAX_PART_BYTES = FRAME_BYTES + 256
"""More than a frame and what encryption adds; a larger part ends its connection."""
CONNECT_TIMEOUT_MS = 3000
HANDSHAKE_TIMEOUT_MS = 3000
HEARTBEAT_MS = 2000

NOW: Final = int(zmq.DONTWAIT)
MORE_NOW: Final = int(zmq.DONTWAIT | zmq.SNDMORE)

send_part = zmq.backend.Socket.send
"""`socket.send` without the arguments that other kinds of sockets have, in half the time."""

FrameArrived: TypeAlias = Callable[[Peer, bytes], None]
LinkSocket: TypeAlias = "zmq.Socket[bytes]"


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds of one process's links."""

    queued_bytes: int = 64 << 20
    """Of all frames that wait for neighbours together."""
    stall_s: float = 30.0
    """How long a neighbour may take nothing of what waits for it."""
    dialled: int = 2048
    """Links to nodes that we dial."""
    idle_s: float = 600.0
    """A dialled link that brings and takes no frame for so long is closed."""
    unused_s: float = 150.0
    """Where there are too many, the idlest of those idle for so long, which is longer than a
    relay lets a path be silent."""
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


def link_socket(context: zmq.Context[LinkSocket], kind: int) -> LinkSocket:
    """Raises `zmq.ZMQError` if the process has no descriptors left."""
    socket = context.socket(kind)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.IPV6, 1),
        (zmq.SNDHWM, HIGH_WATER_FRAMES),
        (zmq.RCVHWM, HIGH_WATER_FRAMES),
        (zmq.MAXMSGSIZE, MAX_PART_BYTES),
        (zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, 2 * HEARTBEAT_MS),
        (zmq.TCP_KEEPALIVE, 1),
    ):
        socket.setsockopt(option, value)
    return socket


def count(event: str) -> None:
    EVENTS.labels(event).inc()

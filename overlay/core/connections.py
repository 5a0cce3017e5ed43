"""Which connections came to us: whose they are, how many one may have, when one must go.

connection  event                                                next      effect
──────────  ───────────────────────────────────────────────────  ────────  ─────────────────────
            accepted, within its neighbour's rate and share      silent    in a full table one of
                                                                           whoever has most goes
            accepted, else                                       refused   hang up
silent      first frame, named as it was granted                 speaking  a proven node's counts
                                                                           to that node from now
silent      first frame, otherwise                               refused   hang up
speaking    first frame of a newer connection of its descriptor  ended     neighbour gone
any         takes more bytes than the frames read account for    refused   hang up
any         ended, and all that came before it was read          ended     neighbour gone

Descriptors are those of the operating system, which uses them again; what tells connections apart
is the serial number that was granted with the name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.core.effects import Neighbour
from overlay.core.quotas import Buckets, Rate, Shares

FRAME_WIRE_BYTES = 2090
"""A frame of 2,048 bytes with 33 of CURVE and 9 of ZMTP."""
STRANGER_CONNECTIONS = Rate(10.0, 100)
LOCAL_CONNECTIONS = Rate(200.0, 2000)
OTHER_BYTES_A_S = 16 << 10
"""Heartbeats and whatever else is no frame."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, and how many and how fast one neighbour may make them.

    A stranger on this machine (`local`) stands for all processes of a test network.
    """

    connections: int = 4096
    a_stranger: int = 64
    a_local: int = 1024
    a_node: int = 16
    stranger_rate: Rate = STRANGER_CONNECTIONS
    local_rate: Rate = LOCAL_CONNECTIONS
    unread_bytes: int = 768 << 10
    """What ZeroMQ may hold of one connection: its queue of whole frames, and buffers."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What was said about a connection when it was let in; serial numbers only rise."""

    serial: int
    neighbour: Neighbour
    name: bytes


@dataclass(slots=True)
class Intake:
    """Whether a connection sends frames: bytes taken from it beside frames handed up."""

    frames: int = 0
    _at_s: float | None = None
    _seen_bytes: int = 0
    _seen_frames: int = 0
    _unread_bytes: float = 0.0

    def holds(self, taken_bytes: int, now_s: float) -> float:
        """About how many of the `taken_bytes` so far ZeroMQ still holds; at least 0."""
        elapsed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        frames = self.frames - self._seen_frames
        self._unread_bytes += taken_bytes - self._seen_bytes - frames * FRAME_WIRE_BYTES
        self._unread_bytes = max(0.0, self._unread_bytes - elapsed_s * OTHER_BYTES_A_S)
        self._at_s, self._seen_bytes, self._seen_frames = now_s, taken_bytes, self.frames
        return self._unread_bytes


@dataclass(slots=True, eq=False)
class Connection:
    """One connection that came to us; `counts_to` is the neighbour whose share it uses."""

    descriptor: int
    counts_to: Neighbour
    granted: Granted | None = None
    refused: bool = False
    over: bool = False
    counted: bool = False
    intake: Intake = field(default_factory=Intake)


class Connections:
    """Open connections by descriptor. Methods that return connections name those to hang up."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._open: dict[int, Connection] = {}
        self._ending: list[Connection] = []
        self._gone: list[bytes] = []
        self._shares: Shares[Neighbour, Connection] = Shares(limits.connections)
        self._rates: Buckets[Neighbour] = Buckets()

    def __len__(self) -> int:
        return len(self._open)

    def accepted(self, descriptor: int, prefix: Neighbour, now_s: float) -> list[Connection]:
        """A connection from `prefix` was accepted."""
        self.ended(descriptor)  # its end was not seen, but the descriptor is used again
        connection = self._open[descriptor] = Connection(descriptor, prefix)
        local = prefix.is_local
        rate = self._limits.local_rate if local else self._limits.stranger_rate
        share = self._limits.a_local if local else self._limits.a_stranger
        within = self._rates.take(prefix, rate, now_s)
        room = self._shares.room(prefix, share)
        if not (within and room.found):
            connection.refused = True
            return [connection]
        given_way = []
        if room.instead_of is not None:
            given_way.append(next(self._shares.newest(room.instead_of)))
            self.refuse(given_way[0])
        self._count(connection)
        return given_way

    def spoke(self, descriptor: int, name: bytes, granted: Granted | None) -> Connection | None:
        """The first frame under `name`: its connection, refused if it must be hung up; None if
        it came from one that is over."""
        ending = [c for c in self._ending if c.descriptor == descriptor and c.granted is None]
        connection = ending[0] if ending else self._open.get(descriptor)
        if connection is None or connection.refused:
            return connection
        if granted is None or granted.name != name:
            self.refuse(connection)
            return connection
        earlier = connection.granted
        if earlier is not None:
            if earlier.serial > granted.serial:
                return None
            self._gone.append(earlier.name)
            connection.intake.frames = 0
        connection.granted = granted
        if granted.neighbour.is_node and not ending:
            self._move(connection, granted.neighbour)
        return connection

    def refuse(self, connection: Connection) -> None:
        """Hand up nothing of it any more; its end is not reported."""
        connection.refused = True
        self._uncount(connection)

    def ended(self, descriptor: int) -> None:
        """The connection is over; what came before its end may still be unread."""
        connection = self._open.pop(descriptor, None)
        if connection is not None:
            connection.over = True
            self._uncount(connection)
            self._ending.append(connection)

    def at(self, descriptor: int) -> Connection | None:
        return self._open.get(descriptor)

    def settle(self) -> list[bytes]:
        """Names of neighbours that are gone. Call it when all that has come is read."""
        gone = self._gone
        gone += [c.granted.name for c in self._ending if c.granted is not None and not c.refused]
        self._gone, self._ending = [], []
        return gone

    def all(self) -> list[Connection]:
        return list(self._open.values())

    def holds_too_much(self, connection: Connection, taken_bytes: int, now_s: float) -> bool:
        """Whether it must be hung up for what it makes us hold; it is refused then."""
        if connection.intake.holds(taken_bytes, now_s) <= self._limits.unread_bytes:
            return False
        self.refuse(connection)
        return True

    def tick(self, now_s: float) -> None:
        self._rates.tick(now_s)

    def _move(self, connection: Connection, node: Neighbour) -> None:
        if self._shares.count(node) >= self._limits.a_node:
            self.refuse(connection)
            return
        self._uncount(connection)
        connection.counts_to = node
        self._count(connection)

    def _count(self, connection: Connection) -> None:
        connection.counted = True
        self._shares.add(connection.counts_to, connection)

    def _uncount(self, connection: Connection) -> None:
        if connection.counted:
            connection.counted = False
            self._shares.remove(connection.counts_to, connection)

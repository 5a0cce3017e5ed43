"""What the operating system and ZeroMQ's monitors tell about connections.

ZeroMQ names a connection by its descriptor, and does not say when it closes it: between an event
and our look at it the number may stand for something else. So nothing is done to a descriptor but
what its two addresses confirm.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import zmq

from overlay.channel import Channel

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
CONNECTION_LOST = (
    zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED | HANDSHAKE_FAILED
)
"""Events after which a dialled connection is of no more use."""

MOST_EVENTS = 4000
"""More than ZeroMQ holds for one monitor."""

_EVENT = struct.Struct("=HI")
# struct tcp_info: eight bytes, 24 words, then rates and counts of 8 bytes (Linux 4.1 and later).
_TCP_INFO_BYTES = 136
_RECEIVED_OFFSET = 128
_DISCARD = struct.pack("ii", 1, 0)


class Ends:
    """The two addresses of a TCP connection of this process."""

    __slots__ = ("_own", "_theirs", "descriptor")

    def __init__(self, descriptor: int, own: tuple[str, int], theirs: tuple[str, int]) -> None:
        self.descriptor = descriptor
        self._own = own
        self._theirs = theirs

    @property
    def own_port(self) -> int:
        return self._own[1]

    @property
    def address(self) -> str:
        """Of the other side, without its port."""
        return self._theirs[0]

    def taken_bytes(self) -> int | None:
        """How many bytes of the other side's were read from the connection so far; None if that
        cannot be told: it is closed, bytes came or were read while we looked, or the system does
        not count."""
        if sys.platform != "linux":
            return None
        try:
            with self._confirmed() as connection:
                waiting = fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4))
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                moved = fcntl.ioctl(self.descriptor, termios.FIONREAD, bytes(4)) != waiting
        except OSError:
            return None
        if moved or len(info) < _TCP_INFO_BYTES:
            return None
        (received,) = struct.unpack_from("=Q", info, _RECEIVED_OFFSET)
        return int(received) - int.from_bytes(waiting, sys.byteorder)

    def hang_up(self) -> None:
        """End the connection in both directions, with what is under way; ZeroMQ notices and closes
        it."""
        # An error says that it is over already.
        with suppress(OSError), self._confirmed() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)
            connection.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _confirmed(self) -> Iterator[socket.socket]:
        """The descriptor's socket. Raises `OSError` if it is not that connection any more."""
        with _borrowed(self.descriptor) as connection:
            if _addresses(connection) != (self._own, self._theirs):
                raise OSError(errno.EBADF, "another connection has the descriptor")
            yield connection


def ends_of(descriptor: int) -> Ends | None:
    """None if the descriptor is no TCP connection, or not any more."""
    try:
        with _borrowed(descriptor) as connection:
            return Ends(descriptor, *_addresses(connection))
    except OSError:
        return None


class Monitor:
    """Calls `happened` with each of `events` at a socket: the event and its value, mostly the
    connection's descriptor."""

    def __init__(
        self,
        watched: zmq.Socket[bytes],
        events: int,
        happened: Callable[[int, int], None],
    ) -> None:
        self._watched = watched
        self._happened = happened
        self._channel = Channel(watched.get_monitor_socket(events), self._received)

    def drain(self) -> None:
        """Hear now of what has happened so far."""
        self._channel.drain()

    def close(self) -> None:
        """Call it before the watched socket is closed."""
        # Whoever writes an event waits for room, and holds what `disable_monitor` waits for.
        self._channel.discard(MOST_EVENTS)
        self._watched.disable_monitor()
        self._channel.close()

    def _received(self, parts: list[bytes]) -> None:
        event, value = _EVENT.unpack(parts[0])
        self._happened(event, value)


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Raises `OSError` if the descriptor is closed or no socket."""
    connection = socket.socket(fileno=descriptor)
    try:
        yield connection
    finally:
        connection.detach()


def _addresses(connection: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        raise OSError(errno.EAFNOSUPPORT, "not a connection over IP")
    own, theirs = connection.getsockname(), connection.getpeername()
    return (str(own[0]), int(own[1])), (str(theirs[0]), int(theirs[1]))

"""A ZeroMQ socket driven by asyncio's loop: messages to a callback, sends that never wait.

`zmq.asyncio` makes a future of every message; a relay only forwards, so it reads what is there in
bursts and hands it on. ZeroMQ's file descriptor signals edges, and sending can swallow one, so
every send looks for readable messages again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

BURST = 64
"""Messages read before other work of the loop gets its turn."""

TOGETHER_S = 0.001
"""Frames that leave within so long of each other leave together."""

_FD, _EVENTS, _POLLIN = int(zmq.FD), int(zmq.EVENTS), int(zmq.POLLIN)


class Turns:
    """Calls `turn` whenever something may have happened at `socket`, until `close`.

    `turn` does a burst of work and returns whether the socket has nothing more to read; if not, or
    if it raised, it is called again soon.
    """

    def __init__(self, socket: zmq.Socket[bytes], turn: Callable[[], bool]) -> None:
        self._socket = socket
        self._turn = turn
        self._loop = asyncio.get_running_loop()
        self._descriptor = number_option(socket, _FD)
        self.scheduled = False
        self._closed = False
        self._sent_s = 0.0
        self._loop.add_reader(self._descriptor, self._run)
        self.soon()

    def soon(self) -> None:
        """Have a turn soon: the socket was used, which may have swallowed its signal."""
        if not self.scheduled:
            self.scheduled = True
            self._loop.call_soon(self._run)

    def sent(self) -> None:
        """As `soon`, but for a lone frame only if there is something to read already: most often
        there is not, and a turn of the loop costs it more than all else. Of many frames that leave
        together one turn costs less than to look at each."""
        if self.scheduled:
            return
        now_s = self._loop.time()
        if now_s - self._sent_s < TOGETHER_S or readable(self._socket):
            self.soon()
        self._sent_s = now_s

    def close(self) -> None:
        """End the turns and close the socket; what it has not sent yet is lost."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self._socket.close(linger=0)

    def _run(self) -> None:
        self.scheduled = False
        if self._closed:
            return
        drained = False
        try:
            drained = self._turn()
        finally:
            # Also when it raised: the descriptor will not signal what is left again.
            if not drained and not self._closed:
                self.soon()


class Channel:
    """Owns `socket`, which must belong to a plain `zmq.Context`."""

    def __init__(self, socket: zmq.Socket[bytes], received: Callable[[list[bytes]], None]) -> None:
        self.socket = socket
        self._received = received
        self._turns = Turns(socket, self._read)

    def send(self, frames: list[bytes]) -> bool:
        """Queue one message; False when the peer is unknown or its queue is full."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        finally:
            self._turns.soon()
        return True

    def drain(self) -> None:
        """Read now what is there."""
        while not self._read():
            pass

    def discard(self, most: int) -> None:
        """Read at most so many messages of what is there, for nobody."""
        for _ in range(most):
            if self.socket.closed or not readable(self.socket):
                return
            self.socket.recv_multipart(zmq.DONTWAIT)

    def close(self) -> None:
        self._turns.close()

    def _read(self) -> bool:
        for _ in range(BURST):
            if self.socket.closed or not readable(self.socket):
                return True
            self._received(self.socket.recv_multipart(zmq.DONTWAIT))
        return False


def readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(number_option(socket, _EVENTS) & _POLLIN)


def number_option(socket: zmq.Socket[bytes], option: int) -> int:
    """Of an option whose value is a number; read at every turn, so not made an enum of."""
    value = socket.get(option)
    assert isinstance(value, int)
    return value

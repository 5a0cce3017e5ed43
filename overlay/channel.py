"""A ZeroMQ socket driven by asyncio's loop: frames to a callback, sends that never wait.

`zmq.asyncio` makes a future of every frame; a relay only forwards, so it reads what is there in
bursts and hands it on. ZeroMQ's file descriptor signals edges, and sending can swallow one, so
every send looks for readable frames again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

BURST = 64
"""Frames read before other work of the loop gets its turn."""


class Channel:
    """Owns `socket`, which must belong to a plain `zmq.Context`."""

    def __init__(self, socket: zmq.Socket[bytes], received: Callable[[list[bytes]], None]) -> None:
        self.socket = socket
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._descriptor = _number(socket, zmq.FD)
        self._scheduled = False
        self._loop.add_reader(self._descriptor, self._readable)
        self._schedule()

    def send(self, frames: list[bytes]) -> bool:
        """Queue one message; False when the peer is unknown or its queue is full."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        finally:
            self._schedule()
        return True

    def close(self) -> None:
        if not self.socket.closed:
            self._loop.remove_reader(self._descriptor)
            self.socket.close(linger=0)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        self._scheduled = False
        drained = False
        try:
            for _ in range(BURST):
                if self.socket.closed or not _number(self.socket, zmq.EVENTS) & zmq.POLLIN:
                    drained = True
                    return
                self._received(self.socket.recv_multipart(zmq.DONTWAIT))
        finally:
            # Also when the receiver raised: the descriptor will not signal what is left again.
            if not drained:
                self._schedule()


def _number(socket: zmq.Socket[bytes], option: int) -> int:
    value = socket.getsockopt(option)
    assert isinstance(value, int)
    return value

"""A link to a node that we dial: one DEALER, one connection, never mended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

from overlay.channel import BURST, Turns, readable
from overlay.core.connections import Intake
from overlay.core.effects import Neighbour, Peer
from overlay.core.wire import FRAME_BYTES
from overlay.link_sockets import NOW, FrameArrived, LinkSocket, count, send_part
from overlay.outbox import Outbox, Waiting
from overlay.watch import CONNECTION_LOST, Ends, Monitor, ends_of

LAST_BURSTS = 4
"""How many bursts are read of a connection that has ended; more than ZeroMQ holds in frames."""


class Dialled:
    """Owns `socket`, which is to be connected once; `lost` is called when that is over."""

    def __init__(
        self,
        peer: Peer,
        socket: LinkSocket,
        outbox: Outbox,
        frame_arrived: FrameArrived,
        lost: Callable[[Dialled], None],
    ) -> None:
        self.peer = peer
        self.neighbour = Neighbour(True, peer.name)
        self.waiting: Waiting | None = None
        self._socket = socket
        self._outbox = outbox
        self._frame_arrived = frame_arrived
        self._lost = lost
        self._intake = Intake()
        self.moved_s = asyncio.get_running_loop().time()
        """When it was last seen that a frame came or went."""
        self._offered = 0
        self._moved = 0
        self._skipping = False
        self._closed = False
        self._ends: Ends | None = None
        self._monitor = Monitor(socket, zmq.EVENT_CONNECTED | CONNECTION_LOST, self._happened)
        self.turns = Turns(socket, self._turn)

    def offer(self, frame: bytes) -> bool:
        try:
            send_part(self._socket, frame, NOW)
        except zmq.Again:
            return False
        self._offered += 1
        return True

    def idle_s(self, now_s: float) -> float:
        """For how long no frame came or went, as far as it was asked."""
        moved = self._intake.frames + self._offered
        if moved != self._moved:
            self._moved, self.moved_s = moved, now_s
        return now_s - self.moved_s

    def holds_too_much(self, limit_bytes: int, now_s: float) -> bool:
        """Whether ZeroMQ holds more than `limit_bytes` of what the other side sent."""
        taken_bytes = self._ends.taken_bytes() if self._ends is not None else None
        return taken_bytes is not None and self._intake.holds(taken_bytes, now_s) > limit_bytes

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._monitor.close()
            self.turns.close()

    def _happened(self, event: int, value: int) -> None:
        if event == zmq.EVENT_CONNECTED:
            self._ends = ends_of(value)
        elif not self._closed:
            for _ in range(LAST_BURSTS):
                if self._read():
                    break
            self._lost(self)

    def _turn(self) -> bool:
        all_read = self._read()
        if self._closed:
            return True
        more_to_send = self._outbox.drain(self.peer)
        if more_to_send or not all_read:
            return False
        # Sending may have swallowed the signal that there is something to read.
        return not readable(self._socket)

    def _read(self) -> bool:
        """A burst of frames; returns whether there are no more."""
        recv, intake = self._socket.recv, self._intake
        for _ in range(BURST):
            if self._closed:
                return True
            try:
                part = recv(NOW, copy=False)
            except zmq.Again:
                return True
            intake.frames += 1
            if self._skipping or part.more:
                if not self._skipping:
                    count("parts")
                self._skipping = part.more
                continue
            frame = part.bytes
            if len(frame) == FRAME_BYTES:
                self._frame_arrived(self.peer, frame)
            else:
                count("wrong_size")
        return False

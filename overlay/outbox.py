"""Frames on their way out: straight to the socket while it takes them, else they wait in turn.

link      event                                     next      effect
────────  ────────────────────────────────────────  ────────  ──────────────────────────────────
flowing   frame, the socket takes it                flowing   sent
flowing   frame, the socket is full                 waiting   queued
waiting   frame                                     waiting   queued; a path that overflows is shed
waiting   refusal, and much waits                   waiting   dropped
waiting   the socket takes what waits               flowing   sent, paths in turn
waiting   no progress for a second                  stuck     tried at each tick only
stuck     the socket takes a frame                  waiting   sent
stuck     no progress for `stall_s`                 ended     to be hung up

Sockets hold few frames themselves, so that what waits is ours: to take turns, to drop, to count.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from overlay.core.effects import Neighbour, Peer
from overlay.core.fair_queue import MAX_REFUSALS, FairQueue, QueueBudget
from overlay.core.wire import CLOSE, ID_BYTES, STREAM

TRIED_A_TURN = 16
"""How many waiting links of a shared socket one turn tries, however many wait."""
FRAMES_A_TURN = 64
STUCK_AFTER_S = 1.0
AGAIN_AFTER_S = 0.005

PathEvent = Callable[[Peer, bytes], None]
"""Called with a link's peer and a path's id on that link."""
SentEvent = Callable[[Peer, bytes, int], None]
"""Called besides with how many frames."""


class Sink(Protocol):
    """One neighbour's end of a socket; `waiting` is the outbox's."""

    peer: Peer
    neighbour: Neighbour
    waiting: Waiting | None

    def offer(self, frame: bytes) -> bool:
        """Send it now, or say that it is not taken."""


@dataclass(slots=True)
class Waiting:
    """What waits for one neighbour, and when it last took something."""

    sink: Sink
    queue: FairQueue
    progress_s: float


class Outbox:
    """Queues of at most `max_bytes` together. `shed` is called for a path whose frames were
    dropped, `sent` for the frames of kind STREAM of a path that went to its socket; both from the
    loop, not from within a call."""

    def __init__(
        self, max_bytes: int, stall_s: float, shed: PathEvent, sent: SentEvent | None
    ) -> None:
        self._budget = QueueBudget(max_bytes)
        self._stall_s = stall_s
        self._shed = shed
        self._sent = sent
        self._waiting: dict[Peer, Waiting] = {}
        self._in_turn: OrderedDict[Peer, None] = OrderedDict()
        self._shedding: dict[tuple[Peer, bytes], None] = {}
        self._to_tell: dict[tuple[Peer, bytes], int] = {}
        self._telling: asyncio.Handle | None = None
        self._again: asyncio.Handle | None = None

    @property
    def queued_bytes(self) -> int:
        """How much waits."""
        return self._budget.bytes

    def send(self, sink: Sink, frame: bytes) -> None:
        """Send `frame`, or queue it behind what waits for the same neighbour."""
        if sink.waiting is not None:
            self._queue(sink.waiting, frame)
        elif not sink.offer(frame):
            self._queue(self._wait(sink), frame)
        elif frame[ID_BYTES] == STREAM and self._sent is not None:
            self._note_sent(sink.peer, frame)

    def tell(self, sink: Sink, frame: bytes) -> None:
        """As `send`, but drop `frame` when much waits for the neighbour already."""
        if sink.waiting is None or len(sink.waiting.queue) < MAX_REFUSALS:
            self.send(sink, frame)

    def drain(self, peer: Peer) -> bool:
        """The socket of `peer` alone may take frames again. Returns whether to go on soon."""
        waiting = self._waiting.get(peer)
        return waiting is not None and self._drain(waiting)

    def drain_some(self) -> bool:
        """The socket that those who dialled us share may take frames again, of whoever of them.
        Returns whether to go on soon."""
        progress = False
        for peer in list(islice(self._in_turn, TRIED_A_TURN)):
            self._in_turn.move_to_end(peer)
            progress |= self._drain(self._waiting[peer])
        return progress

    def purge(self, peer: Peer, link_id: bytes) -> None:
        """Drop what waits under `link_id`."""
        waiting = self._waiting.get(peer)
        if waiting is not None:
            waiting.queue.purge(link_id)

    def drop(self, peer: Peer) -> None:
        """The link is gone, or nothing waits for it any more."""
        waiting = self._waiting.pop(peer, None)
        if waiting is not None:
            waiting.sink.waiting = None
            self._in_turn.pop(peer, None)
            self._budget.drop(peer)

    def tick(self, now_s: float) -> list[Peer]:
        """Try the stuck; returns the peers to hang up."""
        to_hang_up = []
        for peer, waiting in list(self._waiting.items()):
            silent_s = now_s - waiting.progress_s
            if silent_s > min(STUCK_AFTER_S, self._stall_s):
                self._in_turn.pop(peer, None)
                if not self._drain(waiting) and silent_s > self._stall_s:
                    to_hang_up.append(peer)
        return [peer for peer in to_hang_up if peer in self._waiting]

    def close(self) -> None:
        for handle in (self._telling, self._again):
            if handle is not None:
                handle.cancel()

    def _try_again_later(self) -> None:
        """The shared socket says that it takes frames, not for whom, and its signal may be heard
        while another is being served."""
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(AGAIN_AFTER_S, self._drain_again)

    def _drain_again(self) -> None:
        self._again = None
        self.drain_some()
        if self._in_turn:
            self._try_again_later()

    def _wait(self, sink: Sink) -> Waiting:
        peer, now_s = sink.peer, asyncio.get_running_loop().time()
        waiting = self._waiting[peer] = Waiting(
            sink, self._budget.queue(peer, sink.neighbour), now_s
        )
        sink.waiting = waiting
        if not peer.dialled:
            self._in_turn[peer] = None
            self._try_again_later()
        return waiting

    def _queue(self, waiting: Waiting, frame: bytes) -> None:
        peer, link_id = waiting.sink.peer, frame[:ID_BYTES]
        if (peer, link_id) in self._shedding and frame[ID_BYTES] != CLOSE:
            return  # its path ends as soon as it hears so
        if not waiting.queue.put(frame):
            self._note_shed(peer, link_id)
        for victim, victim_id in self._budget.over():
            self._note_shed(victim, victim_id)

    def _drain(self, waiting: Waiting) -> bool:
        """Returns whether frames were taken and more wait."""
        peer, sink = waiting.sink.peer, waiting.sink
        taken = 0
        while taken < FRAMES_A_TURN:
            frame = waiting.queue.take()
            if frame is None:
                self.drop(peer)
                return False
            if not sink.offer(frame):
                waiting.queue.put_back(frame)
                break
            taken += 1
            if self._sent is not None and frame[ID_BYTES] == STREAM:
                self._note_sent(peer, frame)
        if taken:
            waiting.progress_s = asyncio.get_running_loop().time()
            if not peer.dialled:
                self._in_turn[peer] = None
                self._try_again_later()
        return taken > 0

    def _note_sent(self, peer: Peer, frame: bytes) -> None:
        key = peer, frame[:ID_BYTES]
        self._to_tell[key] = self._to_tell.get(key, 0) + 1
        if self._telling is None:
            self._tell_soon()

    def _note_shed(self, peer: Peer, link_id: bytes) -> None:
        self._shedding[peer, link_id] = None
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        shedding, self._shedding = self._shedding, {}
        sent, self._to_tell = self._to_tell, {}
        for peer, link_id in shedding:
            self._shed(peer, link_id)
        if self._sent is not None:
            for (peer, link_id), frames in sent.items():
                self._sent(peer, link_id, frames)

"""Queues of frames that wait on links: paths take turns, none grows without bound.

queue of an id     event                         next   effect
─────────────────  ────────────────────────────  ─────  ──────────────────────────────────
n < most           frame                         n + 1
most               frame                         0      overflow: its path is to be shed
n                  CLOSE                         1      it takes the place of what waited
n                  link free, its turn           n - 1  one frame sent, the next id's turn
n                  link was not free after all   n + 1  the frame is the next again
n                  purge                         0
n, the largest of  all queues exceed the budget  0      its path is to be shed
the neighbour for
whom most waits

A path's id on a link is the first 8 bytes of its frames. Order within an id is kept; of m ids
that wait each is served once in m turns. A neighbour may have several links: what waits for it is
counted together, so that whoever does not read loses paths of its own, not those of others.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from overlay.core.effects import Neighbour, Peer
from overlay.core.wire import CLOSE, ID_BYTES

MAX_FRAMES_AN_ID = 288
"""A backward window of 256 cells and as much room for what takes no credit as a grant has."""
MAX_REFUSALS = 64
"""A refusal is dropped where so many frames wait already."""


class FairQueue:
    """The frames for one link to `neighbour`; made by `QueueBudget.queue`."""

    __slots__ = ("_add_bytes", "_frames", "_max_frames_an_id", "_size", "neighbour")

    def __init__(
        self, neighbour: Neighbour, max_frames_an_id: int, add_bytes: Callable[[int], None]
    ) -> None:
        self.neighbour = neighbour
        # Lists, since an empty deque takes 760 bytes and there is one a path.
        self._frames: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._max_frames_an_id = max_frames_an_id
        self._add_bytes = add_bytes
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, frame: bytes) -> bool:
        """Queue `frame`. False if its id overflowed: its frames, this one too, are dropped."""
        link_id = frame[:ID_BYTES]
        waiting = self._frames.get(link_id)
        if waiting is None:
            waiting = self._frames[link_id] = []
        elif frame[ID_BYTES] == CLOSE:
            self._dropped(waiting)
            waiting.clear()
        elif len(waiting) >= self._max_frames_an_id:
            self.purge(link_id)
            return False
        waiting.append(frame)
        self._size += 1
        self._add_bytes(len(frame))
        return True

    def take(self) -> bytes | None:
        """The next frame to send, and one id's turn is over; None when nothing waits."""
        if not self._frames:
            return None
        link_id, waiting = next(iter(self._frames.items()))
        frame = waiting.pop(0)
        if waiting:
            self._frames.move_to_end(link_id)
        else:
            del self._frames[link_id]
        self._size -= 1
        self._add_bytes(-len(frame))
        return frame

    def put_back(self, frame: bytes) -> None:
        """Undo the last `take`, which was of `frame`."""
        link_id = frame[:ID_BYTES]
        self._frames.setdefault(link_id, []).insert(0, frame)
        self._frames.move_to_end(link_id, last=False)
        self._size += 1
        self._add_bytes(len(frame))

    def purge(self, link_id: bytes) -> None:
        """Drop the frames of a path that is no more."""
        self._dropped(self._frames.pop(link_id, []))

    def clear(self) -> None:
        for link_id in list(self._frames):
            self.purge(link_id)

    def byte_counts(self) -> list[tuple[int, bytes]]:
        """Bytes that wait by id, as (bytes, id)."""
        return [(_bytes_of(waiting), link_id) for link_id, waiting in self._frames.items()]

    def _dropped(self, frames: list[bytes]) -> None:
        self._size -= len(frames)
        self._add_bytes(-_bytes_of(frames))


def _bytes_of(frames: list[bytes]) -> int:
    return sum(map(len, frames))


class QueueBudget:
    """All queues of a process, together of at most about `max_bytes`."""

    def __init__(self, max_bytes: int, max_frames_an_id: int = MAX_FRAMES_AN_ID) -> None:
        self._max_bytes = max_bytes
        self._max_frames_an_id = max_frames_an_id
        self._queues: dict[Peer, FairQueue] = {}
        self.bytes = 0

    def queue(self, peer: Peer, neighbour: Neighbour) -> FairQueue:
        """The queue of the link to `peer`, a new one at first, which counts to `neighbour`."""
        queue = self._queues.get(peer)
        if queue is None:
            queue = FairQueue(neighbour, self._max_frames_an_id, self._add_bytes)
            self._queues[peer] = queue
        return queue

    def drop(self, peer: Peer) -> None:
        """Forget a neighbour that is gone and what waits for it."""
        queue = self._queues.pop(peer, None)
        if queue is not None:
            queue.clear()

    def over(self) -> list[tuple[Peer, bytes]]:
        """Paths to shed, each the largest of the neighbour for whom most waits; their frames are
        dropped already.

        Nothing within the budget, else as many as bring the queues down to nine tenths of it.
        """
        if self.bytes <= self._max_bytes:
            return []
        paths = self._by_neighbour()
        most = [(-sum(count for count, _, _ in waiting), who) for who, waiting in paths.items()]
        heapq.heapify(most)
        shed = []
        while self.bytes * 10 > self._max_bytes * 9:
            total, who = most[0]
            count, peer, link_id = paths[who].pop()
            heapq.heapreplace(most, (total + count, who))
            self._queues[peer].purge(link_id)
            shed.append((peer, link_id))
        return shed

    def _by_neighbour(self) -> dict[Neighbour, list[tuple[int, Peer, bytes]]]:
        """What waits, as (bytes, link, id), by neighbour, the largest last."""
        paths: defaultdict[Neighbour, list[tuple[int, Peer, bytes]]] = defaultdict(list)
        for peer, queue in self._queues.items():
            paths[queue.neighbour] += [(n, peer, link_id) for n, link_id in queue.byte_counts()]
        for waiting in paths.values():
            waiting.sort(key=lambda path: path[0])
        return paths

    def _add_bytes(self, count: int) -> None:
        self.bytes += count

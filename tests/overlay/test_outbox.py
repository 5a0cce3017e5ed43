"""What waits for neighbours, with sinks that take as much as a test says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from overlay.core.effects import Neighbour, Peer
from overlay.core.fair_queue import MAX_REFUSALS
from overlay.core.wire import CLOSE, FRAME_BYTES, STREAM
from overlay.outbox import STUCK_AFTER_S, TRIED_A_TURN, Outbox, Waiting
from tests.overlay.link_ends import frame, link_id


@dataclass
class Sink:
    peer: Peer
    neighbour: Neighbour
    waiting: Waiting | None = None
    takes: int = 0
    asked: int = 0
    taken: list[bytes] = field(default_factory=list)

    def offer(self, data: bytes) -> bool:
        if not self.room():
            return False
        self.put(data)
        return True

    def room(self) -> bool:
        self.asked += 1
        return self.takes > 0

    def put(self, data: bytes) -> None:
        assert self.takes > 0
        self.takes -= 1
        self.taken.append(data)


def came(number: int, takes: int = 0) -> Sink:
    name = b"%d" % number
    return Sink(Peer(False, name), Neighbour(False, name), takes=takes)


def outbox(max_bytes: int = 1 << 20) -> Outbox:
    return Outbox(max_bytes, 30.0, lambda peer, path: None, None)


async def test_nothing_overtakes_what_waits_for_the_same_path() -> None:
    box, sink = outbox(), came(1, takes=1)
    for number in range(3):
        box.send(sink, frame(1, number))
    sink.takes = 1
    box.send(sink, frame(1, 3))
    assert sink.taken == [frame(1, 0)]
    sink.takes = 9
    assert not box.drain(sink.peer)
    assert sink.taken == [frame(1, number) for number in range(4)]
    assert box.queued_bytes == 0


async def test_refusals_wait_where_little_waits_only() -> None:
    box, sink = outbox(), came(1, takes=1)
    for number in range(1000):
        box.tell(sink, frame(number, kind=CLOSE))
    assert sink.taken == [frame(0, kind=CLOSE)]
    assert box.queued_bytes == MAX_REFUSALS * FRAME_BYTES
    box.send(sink, frame(1))
    assert box.queued_bytes == (MAX_REFUSALS + 1) * FRAME_BYTES


async def test_one_turn_tries_few_and_all_get_theirs() -> None:
    box, sinks = outbox(), [came(number) for number in range(3 * TRIED_A_TURN)]
    for sink in sinks:
        box.send(sink, frame(1))
        sink.asked = 0
    for _ in range(3):
        assert not box.drain_some()
    assert [sink.asked for sink in sinks] == [1] * len(sinks)
    sinks[-1].takes = 1
    for _ in range(3):
        box.drain_some()
    assert sinks[-1].taken == [frame(1)]


async def test_one_that_takes_nothing_is_tried_seldom_and_then_hung_up() -> None:
    box, sink = outbox(), came(1)
    now_s = asyncio.get_running_loop().time()
    box.send(sink, frame(1))
    assert box.tick(now_s + STUCK_AFTER_S + 0.1) == []
    sink.asked = 0
    box.drain_some()
    assert sink.asked == 0
    assert box.tick(now_s + 20.0) == []
    assert sink.asked == 1
    assert box.tick(now_s + 31.0) == [sink.peer]
    box.drop(sink.peer)
    assert box.tick(now_s + 99.0) == []


async def test_one_that_takes_something_now_and_then_is_not_hung_up() -> None:
    box, sink = outbox(), came(1)
    now_s = asyncio.get_running_loop().time()
    for number in range(3):
        box.send(sink, frame(1, number))
    sink.takes = 1
    assert box.tick(now_s + 31.0) == []
    assert len(sink.taken) == 1
    assert box.tick(now_s + STUCK_AFTER_S / 2) == []


async def test_a_path_that_is_shed_says_nothing_until_it_hears_so() -> None:
    shed: asyncio.Queue[tuple[Peer, bytes]] = asyncio.Queue()
    box = Outbox(10 * FRAME_BYTES, 30.0, lambda *path: shed.put_nowait(path), None)
    sink = came(1)
    box.send(sink, frame(2))
    for number in range(50):
        box.send(sink, frame(1, number))
    assert shed.empty()
    assert await shed.get() == (sink.peer, link_id(1))
    sink.takes = 100
    box.drain_some()
    assert sink.taken == [frame(2)]
    box.send(sink, frame(1, 50))
    assert sink.taken == [frame(2), frame(1, 50)]
    assert shed.empty()


async def test_a_stream_frame_is_reported_when_it_leaves() -> None:
    sent: asyncio.Queue[tuple[Peer, bytes, int]] = asyncio.Queue()
    box = Outbox(1 << 20, 30.0, lambda *path: None, lambda *path: sent.put_nowait(path))
    sink = came(1, takes=1)
    box.send(sink, frame(1, kind=STREAM))
    box.send(sink, frame(2, kind=STREAM))
    assert await sent.get() == (sink.peer, link_id(1), 1)
    await asyncio.sleep(0)
    assert sent.empty()
    sink.takes = 1
    box.drain_some()
    assert await sent.get() == (sink.peer, link_id(2), 1)


async def test_a_frame_that_is_not_taken_is_the_next_again() -> None:
    box, sink = outbox(), came(1)
    for path in (1, 2, 1, 2):
        box.send(sink, frame(path))
    for _ in range(3):
        assert not box.drain(sink.peer)
    for _ in range(4):
        sink.takes = 1
        box.drain(sink.peer)
    assert sink.taken == [frame(path) for path in (1, 2, 1, 2)]
    assert box.queued_bytes == 0

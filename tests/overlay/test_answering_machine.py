"""Both ends of a request, `Exchange` and `Inbox`, over paths that break, open again, and lie.

Whatever happens, what was read is a beginning of what was written, neither end leaves its table of
transitions, the model node's books are right at each step, and in the end it holds nothing.
"""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.core import answering, exchange
from overlay.core.answering import Answering, AnsweringEffect, Route
from overlay.core.exchange import (
    Done,
    EndStream,
    Exchange,
    ExchangeEffect,
    Failed,
    Give,
    OpenStream,
    Polluted,
    Silent,
)
from overlay.core.inbox import InboxLimits
from overlay.core.reasons import Reason, Report
from overlay.core.request import ReceivedAttach, ReceivedClove
from overlay.core.wire import STREAM_END, backward_id, encode_frame, stream_frame
from tests.overlay.door import HOSTILE, Door, N, cloves_of_one_cell, cut, id_of, sealed_stream
from tests.overlay.tables import Transition, Watch

SLOTS = st.integers(0, N - 1)
REST = st.sampled_from([bytes(7), b"\1" * 7])
LIMITS = InboxLimits(max_kept_bytes=30_000, max_streams=8)
SEEN: set[Transition] = set()


class WatchedAnswering(Answering):
    """Held to its transitions."""

    @property
    def watch(self) -> Watch:
        watch = Watch(lambda: self.state, answering.TRANSITIONS)
        watch.seen = SEEN
        return watch

    def clove_arrived(self, route: Route, received: ReceivedClove) -> list[AnsweringEffect]:
        return self.watch.call(super().clove_arrived, route, received)

    def try_to_open(self, now_s: float) -> list[AnsweringEffect]:
        return self.watch.call(super().try_to_open, now_s)

    def refuse(self) -> list[AnsweringEffect]:
        return self.watch.call(super().refuse)

    def attach_arrived(self, route: Route, received: ReceivedAttach) -> list[AnsweringEffect]:
        return self.watch.call(super().attach_arrived, route, received)

    def stream_lost(self, index: int, by_owner: bool, now_s: float) -> list[AnsweringEffect]:
        return self.watch.call(super().stream_lost, index, by_owner, now_s)

    def beat(self, now_s: float) -> list[AnsweringEffect]:
        return self.watch.call(super().beat, now_s)

    def tick(self, now_s: float) -> list[AnsweringEffect]:
        return self.watch.call(super().tick, now_s)

    def give_up(self) -> list[AnsweringEffect]:
        return self.watch.call(super().give_up)

    def give_way(self) -> list[AnsweringEffect]:
        return self.watch.call(super().give_way)


def weak_backward_id(link_id: bytes) -> bytes:
    """Two ids that differ in the first byte have one of it, as if their drawer had searched."""
    return backward_id(link_id[1:])


class Path:
    """What is under way on the stream of one slot."""

    def __init__(self, route: Route, data: bytes) -> None:
        self.route = route
        self.forward = deque(cut(data))
        self.read = 0


class AnsweringMachine(RuleBasedStateMachine):
    """Each path brings all in order or breaks; paths differ in delay."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("overlay.core.inbox.Answering", WatchedAnswering)
        for module in (
            "overlay.core.inbox",
            "overlay.core.inbox_books",
            "overlay.core.answering",
            "tests.overlay.door",
        ):
            self.patch.setattr(f"{module}.backward_id", weak_backward_id)
        self.door = Door(LIMITS)
        self.request = self.door.request(b"question" * 400)
        self.asker = Exchange(self.request, range(N), self.door.entropy)
        self.watch = Watch(lambda: self.asker.state, exchange.TRANSITIONS)
        self.open: set[int] = set()
        self.paths: dict[int, Path] = {}
        self.sent: list[bytes] = []
        """Every stream that was begun, for who replays them."""
        self.written = self.received = b""
        self.finished = False
        self.outcomes: list[type[ExchangeEffect]] = []

    def carry_out(self, effects: list[ExchangeEffect]) -> None:
        for effect in effects:
            match effect:
                case OpenStream(slot, data):
                    assert slot in self.open
                    self.sent.append(data)
                    self.paths[slot] = Path(self.door.route(slot), data)
                case EndStream(slot):
                    self.cut(slot, Reason.NONE)
                case Give(unread_bytes):
                    self.received += self.asker.read(unread_bytes)
                case Done() | Failed():
                    self.outcomes.append(type(effect))
                case Polluted():
                    pytest.fail("no path is polluted")
                case Silent():
                    pass

    def cut(self, slot: int, reason: Reason) -> None:
        path = self.paths.pop(slot, None)
        if path is not None:
            self.door.end(path.route, reason)

    @rule(slot=SLOTS)
    def a_slot_opens(self, slot: int) -> None:
        if slot not in self.open:
            self.open.add(slot)
            self.carry_out(self.watch.call(self.asker.slot_open, slot, self.door.now_s))

    @rule(slot=SLOTS)
    def a_slot_breaks(self, slot: int) -> None:
        if slot in self.open:
            self.open.discard(slot)
            self.cut(slot, Reason.NEIGHBOUR_GONE)
            self.carry_out(self.watch.call(self.asker.slot_lost, slot, self.door.now_s))

    @rule(slot=SLOTS)
    def a_relay_ends_a_stream(self, slot: int) -> None:
        if slot in self.paths:
            self.cut(slot, Reason.SHED)
            self.carry_out(self.watch.call(self.asker.stream_ended, slot, 10, self.door.now_s))

    @rule()
    def all_arrives(self) -> None:
        for _ in range(2):  # a refused attach is followed by its clove
            for slot in range(N):
                self.a_slot_opens(slot)
                self.chunks_arrive(slot, 9)
                self.answers_arrive(slot, 1000)

    @rule(slot=SLOTS, count=st.integers(1, 3))
    def chunks_arrive(self, slot: int, count: int) -> None:
        path = self.paths.get(slot)
        for _ in range(count):
            if path is not None and path.forward:
                self.door.feed(path.route, path.forward.popleft())

    @rule(slot=SLOTS, count=st.integers(1, 50))
    def answers_arrive(self, slot: int, count: int) -> None:
        for _ in range(count):
            path = self.paths.get(slot)
            if path is None:
                return
            arrived = self.door.arrived[path.route]
            now_s = self.door.now_s
            if path.read < len(arrived):
                path.read += 1
                chunk = arrived[path.read - 1]
                self.carry_out(self.watch.call(self.asker.chunk_arrived, slot, chunk, now_s))
            elif path.route in self.door.ended:
                del self.paths[slot]
                reason = self.door.ended[path.route]
                self.carry_out(self.watch.call(self.asker.stream_ended, slot, reason, now_s))

    @precondition(lambda self: self.door.ready and not self.finished)
    @rule(data=st.binary(max_size=9000), last=st.sampled_from([False, False, True]))
    def the_engine_writes(self, data: bytes, last: bool) -> None:
        self.written += data
        self.door.write(data)
        if last:
            self.finished = True
            self.door.finish()

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), slot=SLOTS)
    def a_relay_replays(self, data: st.DataObject, slot: int) -> None:
        route = self.door.stream(slot, data.draw(st.sampled_from(self.sent)))
        assert self.door.arrived[route] == [] or route not in self.door.ended
        if route not in self.door.ended:  # it was faster than the one whose stream it copied
            self.door.end(route, Reason.NEIGHBOUR_GONE)

    @rule(slot=SLOTS, garbage=st.binary(min_size=1, max_size=60))
    def a_relay_lies(self, slot: int, garbage: bytes) -> None:
        self.door.feed(self.door.route(slot), garbage)

    @rule(
        link_id=st.builds(lambda first, rest: bytes((first,)) + rest, st.integers(0, 2), REST),
        message=st.integers(0, 2),
        code=st.sampled_from([(4, 3, 0), (4, 3, 1), (1, 1, 0)]),
    )
    def seals_and_ids_are_used_again(
        self, link_id: bytes, message: int, code: tuple[int, int, int]
    ) -> None:
        n, k, index = code
        clove = cloves_of_one_cell(n, k)[index]
        for chunk in cut(sealed_stream(id_of(message), clove, bytes((message % 2,)) * 32)):
            self.hostile_frame(stream_frame(link_id, chunk))

    @rule(link_id=st.builds(lambda first, rest: bytes((first,)) + rest, st.integers(0, 2), REST))
    def a_hostile_stream_ends(self, link_id: bytes) -> None:
        body = Report(Reason.NEIGHBOUR_GONE).close_body()
        self.hostile_frame(encode_frame(link_id, STREAM_END, body))

    @rule()
    def the_hostile_link_is_lost(self) -> None:
        self.door.apply(self.door.inbox.peer_gone(HOSTILE, self.door.now_s))

    def hostile_frame(self, frame: bytes) -> None:
        self.door.apply(self.door.inbox.frame_arrived(HOSTILE, frame, self.door.now_s))

    @rule(seconds=st.sampled_from([0.03, 0.1, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.door.advance(seconds)
        self.carry_out(self.watch.call(self.asker.tick, self.door.now_s))

    @precondition(lambda self: self.door.now_s > 15)
    @rule()
    def the_client_leaves(self) -> None:
        self.carry_out(self.watch.call(self.asker.cancel))

    @invariant()
    def what_was_read_begins_what_was_written(self) -> None:
        assert self.written.startswith(self.received)
        if Done in self.outcomes:
            assert self.received == self.written

    @invariant()
    def the_books_are_right(self) -> None:
        inbox = self.door.inbox
        requests = list(inbox._requests.values())
        streams = sum(len(stream.reader.received) for stream in inbox._streams.values())
        assert inbox._buffered_bytes == streams + sum(item.clove_bytes for item in requests)
        assert inbox._kept_bytes == sum(item.kept_bytes for item in requests) <= 30_000
        assert set(inbox._attached) == {r for item in requests for r in item.routes.values()}
        assert set(inbox._by_backward.values()) == set(inbox._attached)
        assert not set(inbox._attached) & set(inbox._streams)
        assert set(inbox._running._running) == {
            item.request_id
            for item in requests
            if item.state in (answering.RUNNING, answering.PAUSED)
        }
        assert len(inbox._streams) <= 8
        assert len(self.door.ready) <= 1

    def teardown(self) -> None:
        try:
            if self.door.ready and not self.finished:
                self.door.finish()
            for _ in range(20):
                self.time_passes(4.0)
            assert self.asker.state in (exchange.READY, exchange.ENDED)
            assert self.door.kept == []
            assert self.door.wakes == {}
        finally:
            self.patch.undo()


TestAnsweringMachine = AnsweringMachine.TestCase
TestAnsweringMachine.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)


def test_an_answer_goes_on_over_new_paths() -> None:
    """Each path is replaced in turn, two at a time, while the answer comes."""
    machine = AnsweringMachine()
    machine.all_arrives()
    for number in range(8):
        machine.the_engine_writes(b"word %d " % number, number == 7)
        machine.a_slot_breaks(number % N)
        machine.a_slot_breaks((number + 1) % N)
        machine.time_passes(0.1)
        machine.all_arrives()
        machine.time_passes(0.1)
        machine.all_arrives()
    assert machine.received == b"".join(b"word %d " % number for number in range(8))
    machine.time_passes(4.0)
    machine.all_arrives()
    assert machine.outcomes == [Done]
    assert machine.asker.state == exchange.ENDED
    machine.teardown()
    assert (answering.PAUSED, "attach_arrived", answering.RUNNING) in SEEN

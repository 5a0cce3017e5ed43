"""A request's asking end against a model node, over slots that break, open again, and lie.

Whatever happens, what was read is a beginning of the answer, no honest slot is blamed for
pollution, and the exchange ends: with the whole answer or with one clear error.
"""

from __future__ import annotations

from collections import deque
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlay.core import exchange, frames
from overlay.core.attach import MAX_ATTACHES
from overlay.core.exchange import (
    Done,
    EndStream,
    Exchange,
    ExchangeEffect,
    ExchangeLimits,
    Failed,
    Give,
    OpenStream,
    Polluted,
    Silent,
)
from overlay.core.request import OutgoingRequest
from planetserve.errors import AnswerCutShort, NodeUnreachable, PathsUnavailable
from tests.overlay.asking_world import InClear
from tests.overlay.door import Door
from tests.overlay.tables import Watch, edges, with_compositions

N, K = 4, 3
SLOTS = st.integers(0, N - 1)
ORDER = [exchange.READY, exchange.SENT, exchange.ANSWERING, exchange.DRAINING, exchange.ENDED]
PATH_KEYS = tuple(bytes((65 + index,)) * 32 for index in range(N))
REQUEST = OutgoingRequest(
    tuple(b"clove %d of 0" % index for index in range(N)),
    b"r" * 32,
    PATH_KEYS,
    N,
    K,
    InClear(0, PATH_KEYS),
)


class Node:
    """A model node that answers as the wire format says, one frame when told to."""

    def __init__(self) -> None:
        self.routes: set[int] = set()
        self.cloves: set[int] = set()
        self.expected = dict.fromkeys(range(N), 0)
        self.sent: list[list[bytes]] = []
        self.backward: dict[int, deque[bytes]] = {slot: deque() for slot in range(N)}

    def stream_opened(self, slot: int, data: bytes) -> bool:
        """False: the node ends the stream."""
        first_frame = 0
        if data.startswith(b"attach"):
            clove, _, number, first_frame = (int(word) for word in data.split()[1::2])
            if slot not in self.cloves:
                return False
            assert clove == slot
            assert number >= self.expected[slot]
            self.expected[slot] = number + 1
        elif slot in self.cloves:
            return False
        self.cloves.add(slot)
        self.routes.add(slot)
        self.backward[slot].extend(frame[slot] for frame in self.sent[first_frame:])
        return True

    @property
    def can_send(self) -> bool:
        return len(self.cloves) >= K and len(self.routes) >= K

    def send(self, kind: int, data: bytes) -> None:
        number = len(self.sent)
        entropy = Random(number).randbytes
        cloves = frames.disperse(kind, data, number, REQUEST.reply_key, N, K, entropy)
        keys = [frames.answer_key(key) for key in PATH_KEYS]
        nonce = number.to_bytes(frames.NONCE_BYTES, "big")
        self.sent.append([frames.seal_clove(keys[i], nonce, number, cloves[i]) for i in range(N)])
        for slot in self.routes:
            self.backward[slot].append(self.sent[-1][slot])


class AnswerMachine(RuleBasedStateMachine):
    """Each slot's link is ordered and either brings all or breaks; slots differ in delay."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.asker = Exchange(REQUEST, range(N), Random(0).randbytes)
        self.watch = Watch(lambda: self.asker.state, exchange.TRANSITIONS)
        self.node = Node()
        self.open: set[int] = set()
        self.forward: dict[int, bytes] = {}
        self.lying: set[int] = set()
        self.answer = self.received = b""
        self.end_sent = False
        self.padding = 0
        self.outcomes: list[ExchangeEffect] = []
        self.state = exchange.READY
        self.cancelled = False

    def carry_out(self, effects: list[ExchangeEffect]) -> None:
        assert self.state != exchange.ENDED or effects == []
        for effect in effects:
            if isinstance(effect, OpenStream):
                assert effect.slot in self.open
                self.forward[effect.slot] = effect.data
            elif isinstance(effect, Give):
                self.received += self.asker.read(effect.unread_bytes)
            elif isinstance(effect, Done | Failed):
                self.outcomes.append(effect)
            elif isinstance(effect, Polluted):
                assert effect.slot in self.lying
            elif isinstance(effect, EndStream):
                self.cut(effect.slot)
        assert ORDER.index(self.asker.state) >= ORDER.index(self.state)
        self.state = self.asker.state

    def cut(self, slot: int) -> None:
        self.forward.pop(slot, None)
        self.node.routes.discard(slot)
        self.node.backward[slot].clear()

    @initialize(slots=st.sets(SLOTS, min_size=2))
    def some_cloves_arrive(self, slots: set[int]) -> None:
        for slot in sorted(slots):
            self.slot_opens(slot)
            self.a_clove_arrives(slot)

    @rule()
    def the_network_catches_up(self) -> None:
        for slot in range(N):
            self.slot_opens(slot)
        arrive(self)

    @rule(slot=SLOTS)
    def slot_opens(self, slot: int) -> None:
        if slot not in self.open:
            self.open.add(slot)
            self.carry_out(self.watch.call(self.asker.slot_open, slot, self.now_s))

    @rule(slot=SLOTS)
    def slot_breaks(self, slot: int) -> None:
        if slot in self.open:
            self.open.discard(slot)
            self.cut(slot)
            self.carry_out(self.watch.call(self.asker.slot_lost, slot, self.now_s))

    @rule(slot=SLOTS)
    def a_clove_arrives(self, slot: int) -> None:
        data = self.forward.pop(slot, None)
        if data is not None and not self.node.stream_opened(slot, data):
            self.carry_out(self.watch.call(self.asker.stream_ended, slot, 12, self.now_s))

    @rule(slot=SLOTS, count=st.integers(1, 5))
    def chunks_arrive(self, slot: int, count: int) -> None:
        for _ in range(min(count, len(self.node.backward[slot]))):
            if self.node.backward[slot]:  # the stream may have ended with the last one
                chunk = self.node.backward[slot].popleft()
                self.carry_out(self.watch.call(self.asker.chunk_arrived, slot, chunk, self.now_s))

    @rule(slot=SLOTS)
    def a_relay_ends_the_stream(self, slot: int) -> None:
        if slot in self.node.routes:
            self.cut(slot)
            self.carry_out(self.watch.call(self.asker.stream_ended, slot, 7, self.now_s))

    @rule(slot=SLOTS, chunk=st.binary(max_size=64))
    def a_relay_lies(self, slot: int, chunk: bytes) -> None:
        self.lying.add(slot)
        self.carry_out(self.watch.call(self.asker.chunk_arrived, slot, chunk, self.now_s))

    @precondition(lambda self: self.node.can_send and not self.end_sent)
    @rule(data=st.binary(max_size=60), last=st.sampled_from([False, False, False, True]))
    def the_node_writes(self, data: bytes, last: bool) -> None:
        self.answer += data
        self.end_sent = last
        self.node.send(frames.END if last else frames.DATA if data else frames.NOTHING, data)

    @precondition(lambda self: self.node.can_send and self.end_sent and self.padding < 3)
    @rule()
    def the_node_pads(self) -> None:
        self.padding += 1
        self.node.send(frames.LAST if self.padding == 3 else frames.PADDING, b"")

    @precondition(lambda self: self.node.can_send and self.end_sent)
    @rule(kind=st.integers(0, 6), data=st.binary(max_size=9))
    def the_node_pads_badly(self, kind: int, data: bytes) -> None:
        self.padding = 3
        self.node.send(kind, data)

    @precondition(lambda self: self.now_s > 20)
    @rule()
    def nobody_reads_on(self) -> None:
        for effect in self.watch.call(self.asker.cancel):
            assert isinstance(effect, EndStream)
            self.cut(effect.slot)
        self.cancelled = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.carry_out(self.watch.call(self.asker.tick, self.now_s))

    @invariant()
    def what_was_read_begins_the_answer(self) -> None:
        assert self.answer.startswith(self.received)

    @invariant()
    def there_is_one_outcome(self) -> None:
        kinds = [type(outcome) for outcome in self.outcomes]
        assert kinds in ([], [Done], [Failed])
        if Done in kinds:
            assert self.received == self.answer

    def teardown(self) -> None:
        for _ in range(60):
            self.now_s += 4
            self.carry_out(self.watch.call(self.asker.tick, self.now_s))
        assert self.asker.state == exchange.ENDED
        assert self.outcomes or self.cancelled


AnswerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestAnswerMachine = AnswerMachine.TestCase


def begun(*slots: int) -> AnswerMachine:
    """An answer whose first frame has come over `slots`."""
    machine = AnswerMachine()
    for slot in slots:
        machine.slot_opens(slot)
        machine.a_clove_arrives(slot)
    machine.the_node_writes(b"begin ", False)
    arrive(machine)
    return machine


def arrive(machine: AnswerMachine) -> None:
    """All that is under way, twice, because a refused attach is followed by its clove."""
    for slot in range(N):
        machine.a_clove_arrives(slot)
        machine.a_clove_arrives(slot)
    for slot in range(N):
        machine.chunks_arrive(slot, 1000)


def failure(effects: list[ExchangeEffect]) -> type[Exception]:
    (failed,) = [effect for effect in effects if isinstance(effect, Failed)]
    return type(failed.error)


def test_the_table_lists_the_transitions() -> None:
    listed = with_compositions(edges(exchange.__doc__, ORDER))
    assert {(before, after) for before, _, after in exchange.TRANSITIONS} <= listed
    named = {(before, after) for before, _, after in exchange.TRANSITIONS}
    assert edges(exchange.__doc__, ORDER) <= named


def test_two_lost_paths_are_replaced_inside_a_running_answer() -> None:
    machine = begun(0, 1, 2)
    machine.slot_opens(3)  # the fourth clove was never sent
    machine.slot_breaks(0)
    machine.slot_breaks(1)
    machine.slot_opens(0)
    machine.slot_opens(1)
    arrive(machine)
    machine.the_node_writes(b"end", True)
    arrive(machine)
    assert machine.received == b"begin end"
    assert machine.outcomes == [Done()]
    for _ in range(3):
        machine.the_node_pads()
    arrive(machine)
    assert machine.asker.state == exchange.ENDED


def drained(machine: AnswerMachine, padding: int, gap_s: float) -> None:
    """The answer ends, and so many frames of padding follow."""
    machine.the_node_writes(b"end", True)
    for _ in range(padding):
        arrive(machine)
        machine.time_passes(gap_s)
        if machine.node.can_send:
            machine.node.send(frames.PADDING, b"")


def test_padding_is_taken_in_for_as_long_as_it_may_come() -> None:
    machine = begun(0, 1, 2, 3)
    drained(machine, 70, 1.0)
    assert machine.asker.state == exchange.DRAINING
    machine.node.send(frames.LAST, b"")
    arrive(machine)
    assert machine.asker.state == exchange.ENDED


def test_padding_of_a_long_answer_is_taken_in_for_longer() -> None:
    machine = begun(0, 1, 2, 3)
    for _ in range(1_030):
        machine.node.send(frames.NOTHING, b"")
        arrive(machine)
    drained(machine, 180, 1.0)
    assert machine.asker.state == exchange.ENDED
    machine = begun(0, 1, 2, 3)
    for _ in range(2_050):
        machine.node.send(frames.NOTHING, b"")
        arrive(machine)
    drained(machine, 180, 1.0)
    assert machine.asker.state == exchange.DRAINING


def test_padding_without_end_or_beat_is_not_waited_for() -> None:
    for gap_s in (1.0, 29.0):
        machine = begun(0, 1, 2, 3)
        drained(machine, round(150 / gap_s) + 1, gap_s)
        assert machine.asker.state == exchange.ENDED
        assert machine.outcomes == [Done()]


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("kind", [frames.DATA, frames.END, frames.NOTHING, 7])
def test_padding_that_is_none_ends_a_whole_answer_and_fails_nothing(
    kind: int, at_once: bool
) -> None:
    machine = begun(0, 1, 2, 3)
    machine.the_node_writes(b"end", True)
    if at_once:  # slots 0 and 1 bring both, then slot 2 the second first
        machine.slot_breaks(3)
    else:
        arrive(machine)
    machine.node.send(kind, b"more")
    if at_once:
        machine.node.backward[2].rotate(1)
    arrive(machine)
    assert machine.outcomes == [Done()]
    assert machine.received == b"begin end"
    assert machine.asker.state == exchange.ENDED


def test_padding_that_does_not_authenticate_fails_nothing() -> None:
    machine = begun(0, 1, 2)
    machine.the_node_writes(b"end", True)
    arrive(machine)
    cloves = frames.disperse(frames.PADDING, b"", 2, b"x" * 32, N, K, Random(2).randbytes)
    for slot in range(K):
        chunk = frames.seal_clove(frames.answer_key(PATH_KEYS[slot]), bytes(12), 2, cloves[slot])
        machine.carry_out(machine.asker.chunk_arrived(slot, chunk, 0.0))
    assert machine.outcomes == [Done()]
    assert machine.asker.state == exchange.ENDED


def test_a_clove_that_was_lost_with_its_path_follows_the_refused_attach() -> None:
    machine = AnswerMachine()
    machine.slot_opens(0)
    machine.slot_breaks(0)
    machine.slot_opens(0)
    assert machine.forward[0].startswith(b"attach")
    machine.a_clove_arrives(0)
    assert machine.forward[0] == REQUEST.streams[0]


def test_a_clove_that_is_sent_again_is_sealed_anew_and_its_answer_opens() -> None:
    """A last relay that ends an attach gets bytes that no other relay has seen."""
    door = Door()
    request = door.request()
    asker = Exchange(request, (1, 3, 0, 2), door.entropy)
    first = {slot: stream_of(asker.slot_open(slot, 0.0)) for slot in range(N)}
    assert [first[slot] for slot in range(N)] == [request.streams[c] for c in (1, 3, 0, 2)]
    door.deliver(request, [1, 3, 0])
    asker.slot_lost(3, 0.1)
    attached = stream_of(asker.slot_open(3, 0.2))
    again = stream_of(asker.stream_ended(3, 12, 0.3))
    sent = [first[3], attached, again]
    seen = [{data[at : at + 8] for at in range(2, len(data) - 7)} for data in sent]
    assert len(set.union(*seen)) == sum(map(len, seen))
    route = door.stream(3, again)
    door.write(b"hi")
    door.advance(0.1)
    assert asker.chunk_arrived(3, door.arrived[route][0], 0.4) == []
    assert asker._answer.polluted == {}
    assert asker._answer.heard == {2: 0}


def stream_of(effects: list[ExchangeEffect]) -> bytes:
    (opened,) = effects
    assert isinstance(opened, OpenStream)
    return opened.data


def test_a_slot_takes_the_answer_up_so_often_and_no_more() -> None:
    machine = begun(0, 1, 2, 3)
    for _ in range(MAX_ATTACHES):
        machine.asker.slot_lost(0, 0.0)
        (opened,) = machine.asker.slot_open(0, 0.0)
        assert isinstance(opened, OpenStream)
        assert opened.data.startswith(b"attach")
    machine.asker.slot_lost(0, 0.0)
    assert machine.asker.slot_open(0, 0.0) == []


def test_a_path_that_falls_far_behind_is_named() -> None:
    machine = begun(0, 1, 2, 3)
    effects: list[ExchangeEffect] = []
    for _ in range(frames.WINDOW_FRAMES + 2):
        machine.node.send(frames.NOTHING, b"")
        for slot in range(K):
            chunk = machine.node.backward[slot].popleft()
            effects += machine.asker.chunk_arrived(slot, chunk, 0.0)
    assert effects == [EndStream(3), Silent(3)]


def test_no_path_in_time() -> None:
    asker = Exchange(REQUEST, range(N), Random(0).randbytes)
    assert asker.tick(0.0) == []
    assert failure(asker.tick(10.1)) is PathsUnavailable


def test_silence_before_the_answer_names_all_silent_slots() -> None:
    asker = Exchange(REQUEST, range(N), Random(0).randbytes)
    for slot in range(K):
        asker.slot_open(slot, 0.0)
    assert asker.tick(6.0) == []
    effects = asker.tick(6.1)
    assert failure(effects) is NodeUnreachable
    assert [e.slot for e in effects if isinstance(e, Silent)] == [0, 1, 2]


def test_k_ends_before_the_answer_fail_it_at_once_and_fewer_do_not() -> None:
    asker = Exchange(REQUEST, range(N), Random(0).randbytes)
    for slot in range(N):
        asker.slot_open(slot, 0.0)
    assert asker.stream_ended(0, 11, 1.0) == asker.stream_ended(1, 11, 1.0) == []
    assert failure(asker.stream_ended(3, 11, 1.0)) is NodeUnreachable


def test_a_clock_that_differs_is_said_when_all_say_so() -> None:
    for reasons, said in (([2, 2, 2], "clock"), ([2, 2, 12], "does not take")):
        asker = Exchange(REQUEST, range(N), Random(0).randbytes)
        for slot in range(N):
            asker.slot_open(slot, 0.0)
        effects = [asker.stream_ended(slot, reasons[slot], 1.0) for slot in range(K)][-1]
        (failed,) = [effect for effect in effects if isinstance(effect, Failed)]
        assert said in str(failed.error)


def test_an_answer_that_stalls_is_cut_short() -> None:
    machine = begun(0, 1, 2)
    assert machine.asker.tick(10.0) == []
    assert failure(machine.asker.tick(10.1)) is AnswerCutShort


def test_a_repeated_chunk_does_not_buy_time() -> None:
    machine = AnswerMachine()
    for slot in range(K):
        machine.slot_opens(slot)
        machine.a_clove_arrives(slot)
    machine.node.send(frames.DATA, b"data")
    chunk = machine.node.backward[0].popleft()
    for second in range(7):
        machine.asker.chunk_arrived(0, chunk, float(second))
    assert failure(machine.asker.tick(6.5)) is NodeUnreachable


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    machine = begun(0, 1, 2)
    machine.asker.limits = ExchangeLimits(max_unread_bytes=10)
    machine.node.send(frames.DATA, b"more than ten bytes")
    effects: list[ExchangeEffect] = []
    for slot in range(K):
        effects += machine.asker.chunk_arrived(slot, machine.node.backward[slot].popleft(), 0.0)
    assert failure(effects) is AnswerCutShort


@pytest.mark.parametrize("slots", [(), (0,), (0, 1, 2, 3)])
def test_cancel_ends_every_stream(slots: tuple[int, ...]) -> None:
    asker = Exchange(REQUEST, range(N), Random(0).randbytes)
    for slot in slots:
        asker.slot_open(slot, 0.0)
    assert asker.cancel() == [EndStream(slot) for slot in slots]
    assert asker.tick(99.0) == asker.slot_open(0, 99.0) == []

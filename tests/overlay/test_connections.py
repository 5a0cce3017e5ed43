"""Which connections may be there, without sockets."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.core.connections import (
    FRAME_WIRE_BYTES,
    OTHER_BYTES_A_S,
    Connection,
    ConnectionLimits,
    Connections,
    Granted,
    Intake,
)
from overlay.core.effects import Neighbour
from overlay.core.quotas import Rate
from overlay.link_sockets import HIGH_WATER_FRAMES

A, B, C = (Neighbour(False, bytes((10, 0, number))) for number in range(3))
NODE = Neighbour(True, bytes(20))
FAST = Rate(1000.0, 1000)
LIMITS = ConnectionLimits(connections=4, a_stranger=3, a_node=2, stranger_rate=FAST)


def granted(serial: int, neighbour: Neighbour = A) -> Granted:
    return Granted(serial, neighbour, b"name %d" % serial)


def speak(table: Connections, descriptor: int, what: Granted) -> Connection | None:
    return table.spoke(descriptor, what.name, what)


def test_a_neighbour_has_its_share_and_no_more() -> None:
    table = Connections(LIMITS)
    assert [table.accepted(descriptor, A, 0.0) for descriptor in range(3)] == [[], [], []]
    (refused,) = table.accepted(3, A, 0.0)
    assert (refused.descriptor, refused.refused) == (3, True)
    table.ended(0)
    assert table.accepted(4, A, 0.0) == []


def test_in_a_full_table_whoever_has_most_gives_way() -> None:
    table = Connections(LIMITS)
    for descriptor, prefix in enumerate((A, A, A, B)):
        assert table.accepted(descriptor, prefix, 0.0) == []
    (gave_way,) = table.accepted(4, C, 0.0)
    assert (gave_way.descriptor, gave_way.refused) == (2, True)
    (gave_way,) = table.accepted(5, C, 0.0)
    assert gave_way.descriptor == 1
    (refused,) = table.accepted(6, C, 0.0)
    assert refused.descriptor == 6  # nobody has more than C


def test_a_neighbour_connects_no_faster_than_its_rate() -> None:
    table = Connections(ConnectionLimits(stranger_rate=Rate(1.0, 2)))
    for descriptor in range(2):
        assert table.accepted(descriptor, A, 0.0) == []
        table.ended(descriptor)
    assert len(table.accepted(2, A, 0.5)) == 1
    assert table.accepted(3, B, 0.5) == []
    assert table.accepted(4, A, 1.5) == []


def test_a_proven_node_leaves_room_for_its_neighbours() -> None:
    table = Connections(LIMITS)
    for descriptor in range(3):
        table.accepted(descriptor, A, 0.0)
    speak(table, 0, granted(1, NODE))
    assert table.accepted(3, A, 0.0) == []


def test_a_node_has_a_share_too() -> None:
    table = Connections(LIMITS)
    spoken = []
    for descriptor in range(3):
        table.accepted(descriptor, (A, B, C)[descriptor], 0.0)
        spoken.append(speak(table, descriptor, granted(descriptor, NODE)))
    assert [connection and connection.refused for connection in spoken] == [False, False, True]


def test_a_name_that_was_not_granted_is_refused() -> None:
    table = Connections(LIMITS)
    table.accepted(0, A, 0.0)
    connection = table.spoke(0, b"another", granted(1))
    assert connection is not None
    assert connection.refused
    assert speak(table, 0, granted(1)) is connection
    assert connection.refused
    table.ended(0)
    assert table.settle() == []


def test_a_neighbour_is_gone_once_what_it_sent_is_read() -> None:
    table = Connections(LIMITS)
    table.accepted(0, A, 0.0)
    table.ended(0)
    assert speak(table, 0, granted(1)) is not None
    assert table.settle() == [granted(1).name]
    assert table.settle() == []
    assert speak(table, 0, granted(1)) is None


def test_a_descriptor_that_is_used_again() -> None:
    table = Connections(LIMITS)
    table.accepted(0, A, 0.0)
    first = speak(table, 0, granted(1))
    table.ended(0)
    table.accepted(0, B, 0.0)
    second = speak(table, 0, granted(2, B))
    assert first is not second
    assert table.settle() == [granted(1).name]
    assert table.at(0) is second


def test_a_late_frame_takes_no_newer_connection() -> None:
    table = Connections(LIMITS)
    table.accepted(0, A, 0.0)
    late = speak(table, 0, granted(1))  # of an earlier connection, in truth
    assert speak(table, 0, granted(2)) is late
    assert table.settle() == [granted(1).name]
    assert speak(table, 0, granted(1)) is None
    table.ended(0)
    assert table.settle() == [granted(2).name]


def test_frames_and_heartbeats_account_for_all_bytes() -> None:
    intake = Intake()
    taken_bytes = 0
    for second in range(1000):
        intake.frames += 10
        taken_bytes += 10 * FRAME_WIRE_BYTES + OTHER_BYTES_A_S // 2
        assert intake.holds(taken_bytes, float(second)) <= OTHER_BYTES_A_S


def test_what_zeromq_holds_in_frames_is_not_too_much() -> None:
    assert ConnectionLimits().unread_bytes > 2 * HIGH_WATER_FRAMES * FRAME_WIRE_BYTES


def test_what_makes_no_frame_adds_up() -> None:
    intake = Intake()
    for second in range(100):
        held_bytes = intake.holds(2 * second * OTHER_BYTES_A_S, float(second))
    assert held_bytes == 99 * OTHER_BYTES_A_S


def test_frames_of_the_past_pay_for_nothing_later() -> None:
    intake = Intake(frames=10**6)
    assert intake.holds(0, 0.0) == 0
    assert intake.holds(10**6, 0.0) == 10**6


class Table(RuleBasedStateMachine):
    """Connections come, speak and end in any order; descriptors are used again."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Connections(LIMITS)
        self.open: dict[int, Neighbour] = {}
        self.linked: dict[bytes, int] = {}
        self.serial = 0
        self.now_s = 0.0

    @rule(prefix=st.sampled_from([A, B, C]))
    def accept(self, prefix: Neighbour) -> None:
        descriptor = next(number for number in range(100) if number not in self.open)
        self.now_s += 1.0
        self.open[descriptor] = prefix
        for connection in self.table.accepted(descriptor, prefix, self.now_s):
            assert connection.refused
            if connection.granted is not None:
                del self.linked[connection.granted.name]

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data(), node=st.booleans())
    def speak(self, data: st.DataObject, node: bool) -> None:
        silent = sorted(self.open.keys() - set(self.linked.values()))
        if not silent:
            return
        descriptor = data.draw(st.sampled_from(silent))
        self.serial += 1
        what = granted(self.serial, NODE if node else self.open[descriptor])
        connection = speak(self.table, descriptor, what)
        assert connection is not None
        if not connection.refused:
            self.linked[what.name] = descriptor

    @precondition(lambda self: bool(self.open))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        descriptor = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[descriptor]
        self.table.ended(descriptor)
        expected = {name for name, number in self.linked.items() if number == descriptor}
        assert set(self.table.settle()) == expected
        for name in expected:
            del self.linked[name]

    @invariant()
    def nobody_has_more_than_may_be(self) -> None:
        kept = [connection for connection in self.table.all() if not connection.refused]
        assert len(kept) <= LIMITS.connections
        for neighbour in (A, B, C):
            assert sum(c.counts_to == neighbour for c in kept) <= LIMITS.a_stranger
        assert sum(c.counts_to == NODE for c in kept) <= LIMITS.a_node
        linked = {c.granted.name for c in kept if c.granted is not None}
        assert linked == self.linked.keys()


TestTable = Table.TestCase

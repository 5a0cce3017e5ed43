"""Load is counted when a node is chosen and given back, whatever happens."""

from __future__ import annotations

from contextlib import AbstractContextManager

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelnode.core.load import MAX_TRACKED, Loads, Report
from planetserve.keys import NodeId

NODES = tuple(NodeId(bytes([number]) * 20) for number in range(4))


def report(queued: int = 0, yours: int = 0, running: int = 0) -> Report:
    return Report(running, 0, 4, queued, 1_000, 1_000, 100, yours)


def members() -> Loads:
    known = Loads()
    known.replace(NODES)
    return known


def test_a_burst_between_two_reports_is_counted_where_it_was_sent() -> None:
    known = members()
    member = known.get(NODES[0])
    assert member is not None
    member.heard(report(queued=100), 0.0)
    with known.assignment(NODES[0], 50), known.assignment(NODES[0], 70):
        assert member.queued_ms(0.0) == 220
        assert member.running() == 2
        member.heard(report(queued=150, yours=1, running=1), 1.0)
        assert member.queued_ms(1.0) == 220
        member.heard(report(queued=220, yours=2, running=2), 1.0)
        assert (member.queued_ms(1.0), member.running()) == (220, 2)
    assert (member.assigned, member.unreported_tokens) == (0, 0)


def test_what_was_reported_is_worked_off_with_time() -> None:
    member = members().get(NODES[0])
    assert member is not None
    member.heard(report(queued=100), 0.0)
    assert [round(member.queued_ms(now_s)) for now_s in (0.0, 0.04, 0.5)] == [100, 60, 0]


def test_more_than_is_tracked_is_still_given_back() -> None:
    known = members()
    sent = [known.assignment(NODES[0], 1) for _ in range(MAX_TRACKED + 5)]
    for assignment in sent:
        assignment.__enter__()
    assert known.assigned(NODES[0]) == MAX_TRACKED + 5
    for assignment in sent:
        assignment.__exit__(None, None, None)
    member = known.get(NODES[0])
    assert member is not None
    assert (member.assigned, member.unreported_tokens, member.running()) == (0, 0, 0)


class Accounting(RuleBasedStateMachine):
    """Nodes come and go, connections break, reports lag; requests end in any order, some by an
    exception."""

    def __init__(self) -> None:
        super().__init__()
        self.known = members()
        self.open: list[tuple[NodeId, AbstractContextManager[None]]] = []

    @rule(node=st.sampled_from(NODES), tokens=st.integers(0, 5_000))
    def send(self, node: NodeId, tokens: int) -> None:
        assignment = self.known.assignment(node, tokens)
        assignment.__enter__()
        self.open.append((node, assignment))

    @rule(data=st.data(), failed=st.booleans())
    def end(self, data: st.DataObject, failed: bool) -> None:
        if not self.open:
            return
        _, assignment = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        error = ValueError("lost") if failed else None
        assert not assignment.__exit__(type(error) if error else None, error, None)

    @rule(nodes=st.sets(st.sampled_from(NODES)))
    def change(self, nodes: set[NodeId]) -> None:
        self.known.replace(sorted(nodes))

    @rule(node=st.sampled_from(NODES), yours=st.integers(0, 30))
    def hear(self, node: NodeId, yours: int) -> None:
        member = self.known.get(node)
        if member is not None:
            member.heard(report(yours=yours), 0.0)

    @rule(node=st.sampled_from(NODES))
    def lose(self, node: NodeId) -> None:
        member = self.known.get(node)
        if member is not None:
            member.lost()

    @invariant()
    def all_is_counted(self) -> None:
        for node in NODES:
            running = sum(at == node for at, _ in self.open)
            assert self.known.assigned(node) == running
            member = self.known.get(node)
            if member is not None:
                assert 0 <= member.running() <= running
                assert member.unreported_tokens >= 0
                assert running or not member.unreported_tokens

    def teardown(self) -> None:
        for _, assignment in self.open:
            assignment.__exit__(None, None, None)
        for node in NODES:
            assert self.known.assigned(node) == 0


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)

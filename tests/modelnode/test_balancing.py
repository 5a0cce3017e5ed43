"""Who is chosen, and that no load is ever left behind."""

from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelnode.balancing import Balancer, NodeLoad
from planetserve.keys import NodeId

OWN, A, B, C = (NodeId(bytes([number]) * 20) for number in (9, 1, 2, 3))
IDLE = NodeLoad(0, 0, 2)


def balancer_of(*members: NodeId) -> Balancer:
    balancer = Balancer(OWN)
    balancer.set_members(members)
    for node in members:
        balancer.report(node, IDLE)
    return balancer


def test_own_wins_a_tie_then_the_least_loaded() -> None:
    balancer = balancer_of(OWN, A, B)
    assert balancer.choose() == OWN
    with balancer.assignment(OWN):
        assert balancer.choose() == A
        balancer.report(A, NodeLoad(1, 0, 2))
        assert balancer.choose() == B


def test_a_burst_between_two_reports_is_spread() -> None:
    balancer = balancer_of(OWN, A, B)
    chosen = []
    contexts = []
    for _ in range(6):
        node = balancer.choose()
        assert node is not None
        context = balancer.assignment(node)
        context.__enter__()
        contexts.append(context)
        chosen.append(node)
    assert sorted(chosen) == sorted([OWN, A, B] * 2)
    for context in contexts:
        context.__exit__(None, None, None)
    assert [balancer.load(node) for node in (OWN, A, B)] == [0, 0, 0]


def test_a_report_that_includes_ours_does_not_count_them_twice() -> None:
    balancer = balancer_of(OWN, A)
    with balancer.assignment(A):
        assert balancer.load(A) == 1
        balancer.report(A, NodeLoad(1, 0, 2), ours=1)
        assert balancer.load(A) == 1
    assert balancer.load(A) == 0


def test_no_report_makes_less_of_what_we_sent_or_more_of_what_came_back() -> None:
    balancer = balancer_of(OWN, A)
    with balancer.assignment(A), balancer.assignment(A):
        balancer.report(A, NodeLoad(0, 0, 2))
        assert balancer.load(A) == 2
        balancer.report(A, NodeLoad(2, 1, 2), ours=7)
        assert balancer.load(A) == 2
        balancer.report(A, NodeLoad(2, 1, 2), ours=2)
        assert balancer.load(A) == 3
    assert balancer.load(A) == 1


def test_preference_holds_unless_overloaded_unknown_or_excluded() -> None:
    balancer = balancer_of(OWN, A)
    assert balancer.choose(prefer=A) == A
    balancer.report(A, NodeLoad(2, 1, 2))
    assert balancer.choose(prefer=A) == A
    balancer.report(A, NodeLoad(2, 2, 2))
    assert balancer.choose(prefer=A) == OWN
    assert balancer.choose(prefer=C) == OWN
    assert balancer.choose(prefer=A, excluded={A, OWN}) is None


def test_untrusted_entry_forwards_unless_asked_for_by_name() -> None:
    balancer = balancer_of(A)
    assert balancer.choose() == A
    assert balancer.choose(prefer=OWN) == OWN
    balancer.set_members([])
    assert balancer.choose() == OWN


def test_lost_node_is_not_chosen_until_it_reports() -> None:
    balancer = balancer_of(A)
    balancer.forget(A)
    assert balancer.choose() == OWN
    balancer.report(A, IDLE)
    assert balancer.choose() == A


def test_load_is_released_after_an_exception() -> None:
    balancer = balancer_of(OWN, A)
    with pytest.raises(RuntimeError), balancer.assignment(A):
        raise RuntimeError
    assert balancer.load(A) == 0


class Accounting(RuleBasedStateMachine):
    """Members come, go, report and are lost while requests run."""

    def __init__(self) -> None:
        super().__init__()
        self.balancer = Balancer(OWN)
        self.running: list[tuple[NodeId, AbstractContextManager[None]]] = []

    nodes = st.sampled_from([OWN, A, B, C])

    @rule(members=st.sets(nodes))
    def members_change(self, members: set[NodeId]) -> None:
        self.balancer.set_members(members)

    @rule(node=nodes, running=st.integers(0, 5), waiting=st.integers(0, 5), ours=st.integers(0, 9))
    def report(self, node: NodeId, running: int, waiting: int, ours: int) -> None:
        self.balancer.report(node, NodeLoad(running, waiting, 2), ours)

    @rule(node=nodes)
    def lose(self, node: NodeId) -> None:
        self.balancer.forget(node)

    @rule(prefer=st.none() | nodes, excluded=st.sets(nodes))
    def begin(self, prefer: NodeId | None, excluded: set[NodeId]) -> None:
        node = self.balancer.choose(prefer, excluded)
        assert node not in excluded
        if node is None:
            return
        assert node == OWN or node in self.balancer.members()
        context = self.balancer.assignment(node)
        context.__enter__()
        self.running.append((node, context))

    @rule(index=st.integers(0, 9))
    def end(self, index: int) -> None:
        if index < len(self.running):
            _, context = self.running.pop(index)
            context.__exit__(None, None, None)

    @invariant()
    def counts_are_exact(self) -> None:
        for node in (OWN, A, B, C):
            running = sum(1 for assigned, _ in self.running if assigned == node)
            assert self.balancer.assigned(node) == running
            assert self.balancer.load(node) >= (running if node in self.balancer.members() else 0)


TestAccounting = Accounting.TestCase


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_the_chosen_node_has_the_least_load(loads: list[int]) -> None:
    nodes = [NodeId(bytes([index]) * 20) for index in range(len(loads))]
    balancer = balancer_of(*nodes)
    for node, load in zip(nodes, loads, strict=True):
        balancer.report(node, NodeLoad(load, 0, 2))
    chosen = balancer.choose()
    assert chosen is not None
    assert balancer.load(chosen) == min(loads)

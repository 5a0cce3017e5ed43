"""Who serves a request, by values: gates, affinity, cost, ties, large groups."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.core import choosing
from modelnode.core.choosing import Ask, Choice, choose
from modelnode.core.claims import MAX_SURPRISE_MS, SURPRISE_HALF_LIFE_S, Claims
from modelnode.core.load import Loads, Member, Report
from planetserve.keys import NodeId

NODES = tuple(NodeId(bytes([number]) * 20) for number in range(1, 5))
OWN = NODES[0]


class Scene:
    """Four nodes of the same speed (1 ms a prompt token, 10 ms a token of the reply)."""

    def __init__(self, nodes: tuple[NodeId, ...] = NODES) -> None:
        self.members = Loads()
        self.members.replace(nodes)
        self.claims = Claims()
        self.claims.keep(frozenset(nodes))
        self.gone: set[NodeId] = set()
        self.random = random.Random(1)
        for node in nodes:
            self.hear(node)

    def member(self, node: NodeId) -> Member:
        member = self.members.get(node)
        assert member is not None
        return member

    def hear(self, node: NodeId, queued: int = 0, running: int = 0, waiting: int = 0) -> None:
        self.member(node).heard(Report(running, waiting, 4, queued, 1_000, 10_000, 400), 0.0)

    def choose(
        self,
        cached: Mapping[NodeId, int] | None = None,
        prefer: NodeId | None = None,
        excluded: tuple[NodeId, ...] = (),
        key: bytes = b"",
        own: NodeId = OWN,
        tokens: int = 1_000,
    ) -> Choice:
        return choose(
            self.members,
            self.claims,
            Ask(tokens, 64, key, cached or {}, prefer, excluded),
            own,
            0.0,
            lambda node, member: node not in self.gone and member.report is not None,
            self.random.randrange,
        )


def test_the_node_that_holds_the_prefix_serves() -> None:
    choice = Scene().choose({NODES[2]: 600, NODES[3]: 400})
    assert (choice.node, choice.reason) == (NODES[2], choosing.CHEAPEST)
    assert choice.chosen is not None
    assert choice.chosen.cost.uncached_tokens == 400
    assert choice.chosen.claimed_tokens == 600


def test_a_prefix_is_not_worth_any_wait() -> None:
    """Behind 700 tokens the node that holds 600 of 1,000 is not the cheapest; one that holds 400
    and is idle is: the next longest prefix among the least loaded."""
    scene = Scene()
    scene.hear(NODES[2], queued=700)
    assert scene.choose({NODES[2]: 600, NODES[3]: 400}).node == NODES[3]
    scene.hear(NODES[2], queued=200)
    assert scene.choose({NODES[2]: 600, NODES[3]: 400}).node == NODES[2]


def test_a_node_whose_slots_are_taken_costs_the_wait_for_one() -> None:
    scene = Scene()
    scene.hear(NODES[2], running=4, waiting=11)
    choice = scene.choose({NODES[2]: 600})
    assert choice.node != NODES[2]
    weighed = next(c for c in choice.candidates if c.node == NODES[2])
    assert weighed.cost.slot_ms == 12 * 400 / 4


def test_affinity_gives_way_to_overload_only() -> None:
    scene = Scene()
    assert scene.choose(prefer=NODES[1]).reason == choosing.PREFERRED
    scene.hear(NODES[1], queued=300)
    assert scene.choose({NODES[1]: 100}, prefer=NODES[1]).node == NODES[1]
    scene.hear(NODES[1], queued=2_000)
    assert scene.choose({NODES[1]: 100}, prefer=NODES[1]).node != NODES[1]


def test_gates_are_not_made_up_for() -> None:
    scene = Scene()
    scene.gone = {NODES[2]}
    assert scene.choose({NODES[2]: 999}, prefer=NODES[2]).node != NODES[2]
    scene.member(NODES[3]).report = None
    assert scene.choose({NODES[3]: 999}).node in NODES[:2]


def test_the_entry_serves_who_asks_for_it_and_when_nobody_else_can() -> None:
    scene = Scene()
    scene.hear(OWN, queued=100_000)
    assert scene.choose(prefer=OWN).node == OWN
    scene.gone = set(NODES)
    assert scene.choose().node == OWN
    assert scene.choose(excluded=(OWN,)).node is None
    assert scene.choose(prefer=OWN, excluded=(OWN,)).node is None


def test_entries_that_know_the_same_send_a_prompt_to_the_same_node() -> None:
    chosen = {
        key: {Scene().choose(key=key, own=own).node for own in NODES}
        for key in (bytes([number]) for number in range(64))
    }
    assert all(len(nodes) == 1 for nodes in chosen.values())
    spread = Counter(next(iter(nodes)) for nodes in chosen.values())
    assert set(spread) == set(NODES)
    assert max(spread.values()) <= 28


def test_of_two_near_ties_the_cheaper_serves() -> None:
    scene = Scene()
    for node in NODES[:2]:
        scene.gone.add(node)
    scene.member(NODES[2]).rtt_ms = 30.0
    assert {scene.choose(key=bytes([n])).node for n in range(32)} == {NODES[3]}
    scene.member(NODES[2]).rtt_ms = 1.0
    assert {scene.choose(key=bytes([n])).node for n in range(32)} == {NODES[2], NODES[3]}


def test_false_claims_lose_their_weight() -> None:
    scene = Scene()
    for _ in range(30):
        scene.claims.saw_cached(NODES[2], 900, 0)
        scene.claims.saw_cached(NODES[3], 400, 400)
    assert scene.claims.weight(NODES[2]) < 0.05
    assert scene.choose({NODES[2]: 900, NODES[3]: 400}).node == NODES[3]
    for _ in range(30):
        scene.claims.saw_cached(NODES[2], 900, 900)
    assert scene.choose({NODES[2]: 900, NODES[3]: 400}).node == NODES[2]


def test_who_understates_its_queue_surprises_and_is_tried_again_later() -> None:
    claims = Claims()
    claims.keep(frozenset(NODES))
    for _ in range(40):
        claims.saw_first_token(NODES[1], 100.0, 3_100.0, 0.0)
    assert 2_900 < claims.surprise_ms(NODES[1], 0.0) <= 3_000
    assert claims.surprise_ms(NODES[2], 0.0) == 0
    half_ms = claims.surprise_ms(NODES[1], SURPRISE_HALF_LIFE_S)
    assert half_ms == pytest.approx(claims.surprise_ms(NODES[1], 0.0) / 2)
    claims.keep(frozenset(NODES[2:]))
    assert claims.surprise_ms(NODES[1], 0.0) == 0


@given(st.lists(st.tuples(st.integers(-10, 10**6), st.integers(-10, 10**6)), max_size=30))
def test_no_observation_takes_a_weight_out_of_its_bounds(seen: list[tuple[int, int]]) -> None:
    claims = Claims()
    claims.keep(frozenset(NODES))
    for claimed, cached in seen:
        claims.saw_cached(NODES[0], claimed, cached)
        claims.saw_first_token(NODES[0], float(claimed), float(cached) * 100, 1.0)
        assert 0.0 <= claims.weight(NODES[0]) <= 1.0
        assert 0.0 <= claims.surprise_ms(NODES[0], 1.0) <= MAX_SURPRISE_MS


def test_of_a_thousand_nodes_a_few_are_weighed_and_the_holder_is_among_them() -> None:
    nodes = tuple(NodeId(number.to_bytes(20, "big")) for number in range(1_000))
    scene = Scene(nodes)
    for node in nodes:
        scene.hear(node, queued=scene.random.randrange(2_000))
    scene.hear(nodes[500])
    choice = scene.choose({nodes[500]: 900, nodes[3]: 10}, prefer=nodes[7])
    assert choice.node == nodes[500]
    weighed = {candidate.node for candidate in choice.candidates}
    assert nodes[7] in weighed
    assert len(weighed) <= choosing.MAX_WEIGHED
    blind = [scene.choose(key=bytes([n])).chosen for n in range(50)]
    queues = sorted(candidate.cost.queued_ms for candidate in blind if candidate)
    assert queues[25] < 200

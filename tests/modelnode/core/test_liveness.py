"""Who is alive, on a simulated clock: nodes that die, links that fail one way, restarts, lies."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.core.liveness import (
    DEAD_AFTER_S,
    GIVE_UP_AFTER_S,
    HELPERS,
    MAX_OUTSTANDING,
    PING_INTERVAL_S,
    SUSPECT_AFTER_S,
    Ask,
    Effect,
    Liveness,
    Lost,
    Ping,
    Restarted,
    State,
)
from planetserve.keys import NodeId

TICK_S = 0.1
NEW_REQUESTS_STOP_S = 2.0


def node(number: int) -> NodeId:
    return NodeId(bytes([number]) * 20)


@dataclass
class World:
    """Nodes 0 to `count` - 1 with a link each to each; `cut` holds pairs (from, to) whose link
    carries nothing. Messages take `delay_s`."""

    count: int
    delay_s: float = 0.01
    now_s: float = 100.0
    dead: set[int] = field(default_factory=set)
    cut: set[tuple[int, int]] = field(default_factory=set)
    incarnations: dict[int, int] = field(default_factory=dict)
    seen: list[tuple[int, Effect]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.nodes = [Liveness() for _ in range(self.count)]
        for number, liveness in enumerate(self.nodes):
            liveness.set_members(node(other) for other in range(self.count) if other != number)

    def linked(self, number: int, other: int) -> bool:
        return other not in self.dead and (number, other) not in self.cut

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += TICK_S
            for number, liveness in enumerate(self.nodes):
                if number not in self.dead:
                    self.perform(number, liveness.tick(self.now_s))

    def perform(self, number: int, effects: Iterable[Effect]) -> None:
        liveness = self.nodes[number]
        for effect in effects:
            self.seen.append((number, effect))
            if isinstance(effect, Ping):
                other = effect.node[0]
                if self.linked(number, other):
                    incarnation = self.incarnations.get(other, 1)
                    back_s = self.now_s + self.delay_s
                    self.perform(
                        number, liveness.pong(effect.node, effect.number, incarnation, back_s)
                    )
            elif isinstance(effect, Ask) and self.linked(number, effect.helper[0]):
                heard = self.nodes[effect.helper[0]].heard(effect.node, self.now_s)
                if heard is not None:
                    liveness.vouched(effect.node, *heard, self.now_s)

    def effects(self, number: int, kind: type[Effect]) -> list[Effect]:
        return [effect for of, effect in self.seen if of == number and isinstance(effect, kind)]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_node_that_dies_is_not_chosen_within_two_seconds_and_then_given_up(count: int) -> None:
    world = World(count)
    world.run(3)
    assert all(world.nodes[a].alive(node(b)) for a in range(count) for b in range(count) if a != b)
    world.dead.add(1)
    world.run(NEW_REQUESTS_STOP_S)
    assert not world.nodes[0].alive(node(1))
    world.run(DEAD_AFTER_S)
    assert world.nodes[0].state(node(1)) is State.DEAD
    assert world.effects(0, Lost) == [Lost(node(1))]
    assert all(world.nodes[0].alive(node(other)) for other in range(2, count))


def test_others_keep_a_node_from_being_given_up_but_not_for_ever() -> None:
    world = World(5)
    world.run(2)
    world.cut.add((0, 1))
    world.run(GIVE_UP_AFTER_S - 1)
    assert world.nodes[0].state(node(1)) is State.SUSPECT
    world.cut.clear()
    world.run(1)
    assert world.nodes[0].alive(node(1))
    world.cut.add((0, 1))
    world.run(GIVE_UP_AFTER_S + 1)
    assert world.nodes[0].state(node(1)) is State.DEAD


def test_no_word_of_others_makes_a_node_dead_or_alive() -> None:
    world = World(3)
    world.run(2)
    lonely = Liveness()
    lonely.set_members([node(1)])
    lonely.vouched(node(1), 1, 0, world.now_s)
    assert lonely.state(node(1)) is State.UNHEARD
    world.cut.add((2, 1))
    world.run(2 * GIVE_UP_AFTER_S)
    assert world.nodes[2].state(node(1)) is State.DEAD
    assert world.nodes[0].alive(node(1))
    world.nodes[2].vouched(node(1), 1, 0, world.now_s)
    assert world.nodes[2].state(node(1)) is State.DEAD


def test_a_restart_is_seen_once_and_old_words_count_no_more() -> None:
    world = World(3)
    world.run(2)
    world.incarnations[1] = 2
    world.nodes[0].broken(node(1))
    assert world.nodes[0].state(node(1)) is State.DEAD
    world.run(2)
    assert world.nodes[0].alive(node(1))
    assert world.effects(0, Restarted) == [Restarted(node(1))]
    world.incarnations[1] = 1
    world.run(SUSPECT_AFTER_S + 0.5)
    assert world.nodes[0].state(node(1)) is State.SUSPECT
    world.nodes[0].vouched(node(1), 1, 0, world.now_s)
    world.run(DEAD_AFTER_S)
    assert world.nodes[0].state(node(1)) is State.DEAD


def test_who_was_held_up_itself_suspects_nobody() -> None:
    world = World(3)
    world.run(2)
    world.now_s += 60
    world.dead.add(1)
    world.run(2 * TICK_S)
    assert world.nodes[0].alive(node(1))
    world.run(NEW_REQUESTS_STOP_S)
    assert not world.nodes[0].alive(node(1))
    assert world.nodes[0].alive(node(2))


def test_only_answers_to_open_pings_count() -> None:
    liveness = Liveness()
    liveness.set_members([node(1)])
    (ping,) = liveness.tick(1.0)
    assert isinstance(ping, Ping)
    assert liveness.pong(node(1), ping.number + 1, 1, 1.0) == []
    assert liveness.pong(node(2), ping.number, 1, 1.0) == []
    assert not liveness.alive(node(1))
    liveness.pong(node(1), ping.number, 1, 1.04)
    assert liveness.alive(node(1))
    assert liveness.rtt_ms(node(1)) == pytest.approx(40)
    liveness.pong(node(1), ping.number, 1, 9.0)
    assert liveness.rtt_ms(node(1)) == pytest.approx(40), "one answer to each"


def test_round_trips_follow_what_is_measured() -> None:
    world = World(2, delay_s=0.02)
    world.run(5)
    assert world.nodes[0].rtt_ms(node(1)) == pytest.approx(20)
    world.delay_s = 0.08
    world.run(20)
    measured_ms = world.nodes[0].rtt_ms(node(1))
    assert measured_ms is not None
    assert 75 < measured_ms <= 80


@given(
    st.lists(
        st.tuples(st.sampled_from(["kill", "start", "cut", "mend"]), st.integers(1, 4)),
        max_size=12,
    )
)
def test_what_is_asked_is_bounded_and_all_recover(changes: list[tuple[str, int]]) -> None:
    world = World(5)
    for change, number in changes:
        if change == "kill":
            world.dead.add(number)
        elif change == "start" and number in world.dead:
            world.dead.discard(number)
            world.incarnations[number] = world.incarnations.get(number, 1) + 1
            world.nodes[number] = Liveness()
            world.nodes[number].set_members(node(o) for o in range(5) if o != number)
        elif change == "cut":
            world.cut.add((0, number))
        elif change == "mend":
            world.cut.discard((0, number))
        world.seen.clear()
        world.run(1.0)
        pings = world.effects(0, Ping)
        assert len(pings) <= 4 * (1.0 / PING_INTERVAL_S + 1)
        asked = world.effects(0, Ask)
        assert len(asked) <= 4 * HELPERS * (1.0 / PING_INTERVAL_S + 2)
        assert all(isinstance(ask, Ask) and ask.helper != ask.node for ask in asked)
        for peer in world.nodes[0]._peers.values():
            assert len(peer.outstanding) <= MAX_OUTSTANDING
    world.cut.clear()
    world.run(3)
    for number in range(1, 5):
        assert world.nodes[0].alive(node(number)) == (number not in world.dead)

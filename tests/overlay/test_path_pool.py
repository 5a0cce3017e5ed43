"""Which conversation uses which paths."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.core import path_pool
from overlay.core.choice import Hops, Rules
from overlay.core.diversity import Conflicts
from overlay.core.path_pool import MAX_SETS, SET_LIFE_S, InSet, PathPool
from overlay.core.path_set_events import (
    Build,
    Close,
    HopsChosen,
    PathBroken,
    PathDoubted,
    PathEvent,
    PathHeard,
    PathOpened,
    WantHops,
)
from planetserve.records import NodeRecord
from tests.overlay.relays import relay

RULES = Rules()
TARGET = relay(900, "model-maker", "8.8.4.4")
OTHER = relay(901, "another", "9.9.9.9")


def hops(number: int, last: NodeRecord | None = None) -> Hops:
    relays = [relay(3 * number + place) for place in range(3)]
    return Hops((*relays[:2], last or relays[2]), Conflicts())


class Shell:
    """Carries out a pool's effects: every slot gets hops and opens at once."""

    def __init__(self, keep_ahead: bool = True, last: NodeRecord | None = None) -> None:
        self.pool = PathPool(RULES, keep_ahead)
        self.draw = Random(5).randrange
        self.now_s = 0.0
        self.last = last
        self.chosen = 0
        self.standing: set[tuple[int, int]] = set()

    def carry_out(self, effects: list[InSet]) -> None:
        for item in effects:
            match item.effect:
                case WantHops(slot):
                    self.chosen += 1
                    self.happen(item.set, HopsChosen(slot, hops(self.chosen, self.last)))
                case Build(path):
                    self.standing.add((item.set, path))
                    self.happen(item.set, PathOpened(path))
                case Close(path):
                    self.standing.discard((item.set, path))

    def happen(self, number: int, event: HopsChosen | PathEvent) -> None:
        self.pool, effects = path_pool.in_set(self.pool, number, event, self.now_s, self.draw)
        self.carry_out(effects)

    def prepare(self) -> None:
        self.pool, effects = path_pool.prepare(self.pool, self.now_s, self.draw)
        self.carry_out(effects)

    def take(self, session: int | None = None, target: NodeRecord = TARGET) -> int:
        self.pool, number, effects = path_pool.take(
            self.pool, session, target, self.now_s, self.draw
        )
        self.carry_out(effects)
        return number

    def give_back(self, number: int) -> None:
        self.pool, effects = path_pool.give_back(self.pool, number, self.now_s, self.draw)
        self.carry_out(effects)

    def end_session(self, session: int) -> None:
        self.pool, effects = path_pool.end_session(self.pool, session, self.now_s, self.draw)
        self.carry_out(effects)

    def tick(self, now_s: float) -> None:
        self.now_s = now_s
        self.pool, effects = path_pool.tick(self.pool, 3.0, now_s, self.draw)
        self.carry_out(effects)

    def shut(self) -> None:
        self.pool, effects = path_pool.shut(self.pool, self.now_s, self.draw)
        self.carry_out(effects)


def test_a_set_is_made_ready_before_it_is_asked_for() -> None:
    shell = Shell()
    shell.prepare()
    assert shell.pool.ahead == 0
    assert shell.pool.members[0].paths.full
    shell.prepare()
    assert list(shell.pool.members) == [0]
    assert shell.take() == 0
    assert shell.pool.ahead == 1
    assert shell.pool.members[1].paths.full


def test_a_client_that_asks_once_has_one_set() -> None:
    shell = Shell(keep_ahead=False)
    shell.prepare()
    number = shell.take()
    assert list(shell.pool.members) == [number]
    shell.give_back(number)
    assert shell.pool.members == {}
    assert shell.standing == set()


def test_a_path_in_doubt_outlasts_its_set_until_it_is_known_who_is_at_fault() -> None:
    for session, ends in ((None, PathHeard(0)), (7, PathHeard(0)), (None, PathBroken(0))):
        shell = Shell(keep_ahead=False)
        number = shell.take(session)
        shell.happen(number, PathDoubted(0))
        shell.give_back(number)
        if session is not None:
            shell.end_session(session)
        assert shell.standing == {(number, 0)}
        shell.tick(1.0)
        assert shell.take(7) != number
        shell.end_session(7)
        shell.happen(number, ends)
        assert number not in shell.pool.members
        # What broke is over without being closed.
        assert ((number, 0) in shell.standing) == isinstance(ends, PathBroken)
    for way in ("time", "shut"):
        shell = Shell(keep_ahead=False)
        number = shell.take()
        shell.happen(number, PathDoubted(0))
        shell.give_back(number)
        if way == "shut":
            shell.shut()
        for now_s in (7.0, 14.0):
            shell.tick(now_s)
        assert (shell.pool.members, shell.standing) == ({}, set())


def test_questions_of_no_conversation_share_no_path() -> None:
    shell = Shell()
    first, second = shell.take(), shell.take()
    assert first != second
    relays = [
        {node for item in shell.pool.members[number].paths.hops.values() for node in item.ids}
        for number in (first, second)
    ]
    assert not relays[0] & relays[1]
    shell.give_back(first)
    assert first not in shell.pool.members
    assert shell.take() not in (first, second)


def test_a_conversation_keeps_its_set_for_ten_minutes() -> None:
    shell = Shell()
    number = shell.take(session=1)
    shell.give_back(number)
    other = shell.take(session=2)
    assert other != number
    shell.now_s = SET_LIFE_S - 1
    assert shell.take(session=1) == number
    shell.now_s = SET_LIFE_S + 1
    assert shell.take(session=1) == number  # a question is under way
    shell.give_back(number)
    shell.give_back(number)
    replaced = shell.take(session=1)
    assert replaced not in (number, other)
    assert number not in shell.pool.members


def test_a_set_at_rest_is_closed_after_its_time() -> None:
    shell = Shell()
    busy, idle = shell.take(session=1), shell.take(session=2)
    shell.give_back(idle)
    shell.tick(SET_LIFE_S)
    assert idle not in shell.pool.members
    assert busy in shell.pool.members
    assert shell.pool.ahead is not None
    shell.give_back(busy)
    shell.tick(SET_LIFE_S + 1)
    assert list(shell.pool.members) == [shell.pool.ahead]


def test_the_end_of_a_conversation_closes_its_set() -> None:
    shell = Shell(keep_ahead=False)
    number = shell.take(session=1)
    shell.end_session(1)
    assert number in shell.pool.members  # the answer is still read
    shell.give_back(number)
    assert shell.pool.members == {}
    shell.give_back(number)
    number = shell.take(session=2)
    shell.give_back(number)
    shell.end_session(2)
    assert shell.pool.members == {}
    assert shell.standing == set()


def test_a_set_whose_last_relays_are_the_targets_kin_is_not_for_it() -> None:
    for kin in (relay(7, "model-maker"), relay(7, host="8.8.1.1"), TARGET):
        shell = Shell(last=kin)
        shell.prepare()
        number = shell.take(target=TARGET)
        assert number != 0
        assert shell.pool.ahead == 0
        assert path_pool.use_of(shell.pool, number, 0, None).target == TARGET
        assert shell.take(target=OTHER) == 0


def test_where_nothing_better_can_be_had_a_conversation_keeps_its_set() -> None:
    shell = Shell(last=relay(7, "model-maker"))
    number = shell.take(session=1)
    shell.give_back(number)
    assert shell.take(session=1) == number
    shell.give_back(number)
    assert shell.take(session=1, target=OTHER) == number
    shell.give_back(number)
    assert shell.take(session=1) != number


def test_a_slot_keeps_away_from_the_relays_of_the_others() -> None:
    shell = Shell()
    number = shell.take()
    used = path_pool.use_of(shell.pool, number, 1, b"own")
    held = shell.pool.members[number].paths.hops
    assert list(used.others) == [item for slot in (0, 2, 3) for item in held[slot].relays]
    assert (used.slot, used.own, used.target) == (1, b"own", TARGET)


def test_sets_are_bounded() -> None:
    shell = Shell()
    for session in range(100):
        shell.give_back(shell.take(session))
        assert len(shell.pool.members) <= MAX_SETS + 1
    newest = next(n for n, m in shell.pool.members.items() if m.session == 99)
    assert shell.take(99) == newest
    shell.shut()
    assert shell.standing == set()
    taken = [shell.take() for _ in range(100)]
    assert len(set(taken)) <= MAX_SETS
    assert max(m.running for m in shell.pool.members.values()) <= 5
    for number in taken:
        shell.give_back(number)
    assert list(shell.pool.members) == [shell.pool.ahead]


def test_what_crosses_with_the_end_of_a_set_is_nothing() -> None:
    shell = Shell(keep_ahead=False)
    number = shell.take()
    shell.give_back(number)
    before = shell.pool
    shell.happen(number, PathOpened(0))
    assert shell.pool == replace(before)


class PoolMachine(RuleBasedStateMachine):
    """Conversations that begin, ask side by side, rest and end."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell()
        self.under_way: list[tuple[int, int | None]] = []

    @rule(session=st.none() | st.integers(0, 5), model_node=st.sampled_from([TARGET, OTHER]))
    def ask(self, session: int | None, model_node: NodeRecord) -> None:
        before = {number for number, _ in self.under_way}
        number = self.shell.take(session, model_node)
        if number in before:
            sharing = {owner for taken, owner in self.under_way if taken == number}
            assert sharing == {session}
        self.under_way.append((number, session))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answered(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.under_way) - 1))
        self.shell.give_back(self.under_way.pop(place)[0])

    @rule(session=st.integers(0, 5))
    def conversation_over(self, session: int) -> None:
        self.shell.end_session(session)
        # A later conversation of that number is another one.
        self.under_way = [
            (number, -1 - number if owner == session else owner) for number, owner in self.under_way
        ]

    @rule(seconds=st.floats(1.0, 700.0))
    def time_passes(self, seconds: float) -> None:
        self.shell.tick(self.shell.now_s + seconds)

    @invariant()
    def questions_under_way_keep_their_sets(self) -> None:
        members = self.shell.pool.members
        for number in {number for number, _ in self.under_way}:
            running = sum(taken == number for taken, _ in self.under_way)
            assert members[number].running == running
        assert sum(member.running for member in members.values()) == len(self.under_way)

    @invariant()
    def the_shell_has_the_paths_of_the_sets(self) -> None:
        held = {
            (number, path)
            for number, member in self.shell.pool.members.items()
            for path in member.paths.open_slots.values()
        }
        assert held <= self.shell.standing
        assert {number for number, _ in self.shell.standing} <= set(self.shell.pool.members)

    def teardown(self) -> None:
        self.shell.shut()
        assert self.shell.standing == set()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)

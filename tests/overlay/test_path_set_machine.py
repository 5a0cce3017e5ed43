"""The paths of a conversation, under any order of events."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.core import path_set
from overlay.core.choice import Hops, Rules
from overlay.core.diversity import Conflicts
from overlay.core.path_set import (
    BUILDING,
    DRAINING,
    EMPTY,
    OPEN,
    TRANSITIONS,
    Building,
    Empty,
    Open,
    PathSet,
    handle,
    new_set,
    phase,
)
from overlay.core.path_set_events import (
    Build,
    Built,
    Close,
    Failed,
    GuardRefused,
    GuardUnreachable,
    HopsChosen,
    NoHops,
    NoSetup,
    PathBroken,
    PathDoubted,
    PathHeard,
    PathOpened,
    PathUsed,
    Ping,
    PuzzleAsked,
    PuzzleSolved,
    Refused,
    Served,
    SetEffect,
    SetEvent,
    Shut,
    SlotLost,
    SlotOpen,
    StreamBegun,
    StreamEnded,
    Tick,
    Unreachable,
    WantHops,
)
from overlay.core.puzzle import PuzzleGate
from tests.overlay.relays import relay

RULES = Rules()


def hops(number: int) -> Hops:
    return Hops(tuple(relay(3 * number + place) for place in range(3)), Conflicts())


def run(
    state: PathSet, *events: tuple[float, SetEvent], seed: int = 1
) -> tuple[PathSet, list[SetEffect]]:
    """The state after `events`, each at its time, and the effects of the last."""
    effects: list[SetEffect] = []
    for now_s, event in events:
        state, effects = handle(state, event, now_s, Random(seed).randrange)
    return state, effects


def opened(count: int = 4, at_s: float = 0.0, seed: int = 1) -> PathSet:
    state = new_set(RULES)
    for slot in range(count):
        state, _ = run(state, (at_s, HopsChosen(slot, hops(slot))))
        state, _ = run(state, (at_s, PathOpened(slot)), seed=seed + slot)
    return state


def test_a_new_set_wants_hops_for_each_slot_and_builds() -> None:
    state, effects = run(new_set(RULES), (0.0, Tick(2.0)))
    assert effects == [WantHops(0), WantHops(1), WantHops(2), WantHops(3)]
    state, effects = run(state, (0.0, HopsChosen(2, hops(5))))
    assert effects == [Build(0, hops(5), {})]
    assert state.hops == {2: hops(5)}
    state, effects = run(state, (0.5, PathOpened(0)))
    assert effects == [Built(hops(5), 0.5, late=False), SlotOpen(2, 0)]
    assert state.open_slots == {2: 0}
    assert not state.ready


def test_ready_with_k_and_full_with_n() -> None:
    assert not opened(2).ready
    assert opened(3).ready
    assert not opened(3).full
    assert opened(4).full


def test_where_there_are_no_hops_the_slot_waits() -> None:
    state, effects = run(new_set(RULES), (0.0, NoHops(1)), (0.01, Tick(3.0)))
    assert WantHops(1) not in effects
    state, effects = run(state, (0.06, Tick(3.0)))
    assert WantHops(1) in effects


def test_back_off_doubles_to_five_seconds() -> None:
    state, now_s, waits_s = new_set(Rules(n=1, k=1)), 0.0, []
    for path in range(12):
        state, _ = run(state, (now_s, HopsChosen(0, hops(0))), (now_s, PathBroken(path)))
        slot = state.slots[0]
        assert isinstance(slot, Empty)
        waits_s.append(slot.retry_s - now_s)
        now_s = slot.retry_s
    expected_s = [min(0.05 * 2**number, 5.0) for number in range(12)]
    for wait_s, middle_s in zip(waits_s, expected_s, strict=True):
        assert 0.8 * middle_s - 1e-6 <= wait_s <= 1.2 * middle_s + 1e-6


def test_a_late_build_is_learned_from_and_not_used() -> None:
    state, _ = run(new_set(RULES), (0.0, Tick(1.0)), (0.0, HopsChosen(0, hops(0))))
    state, effects = run(state, (1.0, Tick(1.0)))
    assert effects[0] == Failed(hops(0), None, timed_out=True)
    assert isinstance(state.slots[0], Empty)
    late, effects = run(state, (2.5, PathOpened(0)))
    assert effects == [Built(hops(0), 2.5, late=True), Close(0)]
    assert late.late == ()
    assert late.open_slots == {}
    state, effects = run(state, (3.0, Tick(1.0)))
    assert Close(0) in effects
    assert run(state, (3.1, PathOpened(0)))[1] == []


def test_a_late_build_that_breaks_is_not_counted_twice() -> None:
    state, _ = run(
        new_set(RULES), (0.0, Tick(1.0)), (0.0, HopsChosen(0, hops(0))), (1.0, Tick(1.0))
    )
    state, effects = run(state, (2.0, PathBroken(0)))
    assert (state.late, effects) == ((), [])


def test_a_guard_that_refuses_fails_the_path() -> None:
    for event, expected in ((GuardRefused(0), [Refused(hops(0))]), (NoSetup(0), [])):
        state, effects = run(new_set(RULES), (0.0, HopsChosen(0, hops(0))), (0.1, event))
        assert effects == expected
        slot = state.slots[0]
        assert isinstance(slot, Empty)
        assert slot.retry_s > 0.1


def test_a_puzzle_that_stays_unsolved_is_held_against_who_says_that_it_is_asked() -> None:
    expected = [Refused(hops(0)), Failed(hops(0), 0), Failed(hops(0), 1)]
    building, _ = run(new_set(RULES), (0.0, HopsChosen(0, hops(0))))
    for hop, blame in enumerate(expected):
        assert run(building, (0.1, PuzzleAsked(0, hop, b"s", 21)))[1] == [blame]
        asked, _ = run(building, (0.1, PuzzleAsked(0, hop, b"s", 20)))
        assert run(asked, (0.2, PuzzleAsked(1, hop, b"t", 20)))[1] == [blame]
        assert run(asked, (60.2, Tick(3.0)))[1][:2] == [blame, Close(1)]


def test_a_path_is_a_success_once_it_was_used_and_ended_well() -> None:
    used, effects = run(opened(), (1.0, PathUsed(1)), (2.0, PathUsed(3)))
    assert effects == []
    assert run(used, (2.0, PathBroken(1)))[1] == [SlotLost(1), Failed(hops(1), None)]
    assert run(used, (3.0, Shut()))[1][:3] == [Served(hops(1)), Served(hops(3)), Close(0)]
    assert all(isinstance(effect, Close) for effect in run(opened(), (3.0, Shut()))[1])
    aged, _ = run(opened(), *[(899.0, PathHeard(path)) for path in range(4)], (899.0, PathUsed(0)))
    assert run(aged, (900.0, Tick(3.0)))[1] == [Served(hops(0)), Close(0), WantHops(0)]
    late, _ = run(new_set(RULES), (0.0, HopsChosen(0, hops(0))), (3.1, Tick(3.0)))
    assert run(late, (3.2, PathUsed(0))) == (late, [])


def test_a_puzzle_is_solved_once_a_hop_and_up_to_a_difficulty() -> None:
    state, _ = run(new_set(RULES), (0.0, HopsChosen(0, hops(0))))
    assert isinstance(run(state, (0.1, PuzzleAsked(0, 1, b"s", 21)))[0].slots[0], Empty)
    state, effects = run(state, (0.1, PuzzleAsked(0, 1, b"s", 20)))
    assert effects == [Build(1, hops(0), {1: (b"s", 20)})]
    assert run(state, (9.0, Tick(3.0)))[0].slots[0] == state.slots[0]
    solved, _ = run(state, (9.0, PuzzleSolved(1)), (9.5, PathOpened(1)))
    assert solved.open_slots == {0: 1}
    more, effects = run(state, (9.0, PuzzleAsked(1, 2, b"t", 3)))
    assert effects == [Build(2, hops(0), {1: (b"s", 20), 2: (b"t", 3)})]
    again, effects = run(more, (9.5, PuzzleAsked(2, 1, b"u", 1)))
    assert effects == [Failed(hops(0), 0)]
    assert isinstance(again.slots[0], Empty)
    stuck, effects = run(state, (61.0, Tick(3.0)))
    assert effects[:2] == [Failed(hops(0), 0), Close(1)]
    assert isinstance(stuck.slots[0], Empty)


def test_the_hardest_puzzle_of_a_relay_is_one_that_a_client_solves() -> None:
    gate = PuzzleGate(1.0, bytes(16), bytes(16))
    for second in range(100):
        difficulty, gate.difficulty = gate.difficulty, 0
        assert all(gate.admit(bytes(32), bytes(8)) for _ in range(50))
        gate.difficulty = difficulty
        gate.tick(float(second), bytes(16))
    state, _ = run(new_set(RULES), (0.0, HopsChosen(0, hops(0))))
    _, effects = run(state, (0.1, PuzzleAsked(0, 1, b"s", gate.difficulty)))
    assert effects == [Build(1, hops(0), {1: (b"s", gate.difficulty)})]


def test_an_unreachable_guard_is_told_apart_from_a_failed_path() -> None:
    state, effects = run(new_set(RULES), (0.0, HopsChosen(0, hops(0))), (0.1, GuardUnreachable(0)))
    assert effects == [Unreachable(hops(0))]
    assert isinstance(state.slots[0], Empty)


def test_a_steady_path_that_breaks_is_replaced_at_once() -> None:
    for origin in (None, 0, 2):
        state, effects = run(opened(), (5.0, PathBroken(1, origin)))
        assert effects == [SlotLost(1), Failed(hops(1), origin), WantHops(1)]
        assert state.ready
    state, effects = run(opened(), (4.9, PathBroken(1)))
    assert effects == [SlotLost(1), Failed(hops(1), None)]
    assert WantHops(1) not in run(state, (4.93, Tick(3.0)))[1]


def test_a_quiet_path_is_pinged_twice_and_then_lost() -> None:
    state = opened()
    pings_s = [slot.ping_s for slot in state.slots if isinstance(slot, Open)]
    assert all(16 <= ping_s <= 24 for ping_s in pings_s)
    assert len(set(pings_s)) == 4
    assert run(state, (min(pings_s) - 0.01, Tick(2.0)))[1] == []
    state, effects = run(state, (24.0, Tick(2.0)))
    assert effects == [Ping(path) for path in range(4)]
    alive, _ = run(state, *[(25.0, PathHeard(path)) for path in (1, 2, 3)])
    alive, effects = run(alive, (28.0, Tick(2.0)))
    assert effects == [Ping(0)]
    answered, _ = run(alive, (31.0, PathHeard(0)))
    assert run(answered, (32.0, Tick(2.0)))[1] == []
    alive, effects = run(alive, (32.0, Tick(2.0)))
    assert effects == [SlotLost(0), Failed(hops(0), None), WantHops(0), Close(0)]


def test_a_path_that_is_doubted_is_let_go_when_its_last_relay_answers() -> None:
    """Whoever is at fault is behind the relays that a guard's count may speak of."""
    state, effects = run(opened(), (5.0, PathUsed(0)), (6.0, PathDoubted(0)), (6.0, PathDoubted(1)))
    assert effects == [SlotLost(1), Ping(1), WantHops(1)]
    assert list(state.open_slots) == [2, 3]
    assert run(state, (6.1, PathDoubted(0)), (6.1, StreamEnded(0))) == (state, [])
    assert run(state, (6.2, PathHeard(0)))[1] == [Served(hops(0)), Close(0)]
    state, effects = run(state, (6.2, PathHeard(0)), (6.3, PathHeard(1)))
    assert (state.doubted, effects) == ((), [Close(1)])
    young, effects = run(opened(), (4.9, PathDoubted(0)))
    assert effects == [SlotLost(0), Ping(0)]
    assert WantHops(0) not in run(young, (4.93, Tick(3.0)))[1]


def test_a_path_that_is_doubted_and_silent_has_failed() -> None:
    state, _ = run(opened(), (6.0, Tick(1.0)), (6.0, PathDoubted(0)))
    state, _ = run(state, (6.0, HopsChosen(0, hops(9))), (6.1, PathOpened(4)))
    assert run(state, (7.9, Tick(1.0)))[1] == []
    state, effects = run(state, (8.0, Tick(1.0)))
    assert effects == [Ping(0)]
    _, effects = run(state, (10.0, Tick(1.0)))
    assert effects == [Failed(hops(0), None, in_use=True), Close(0)]
    over, effects = run(state, (8.1, PathBroken(0, 1)))
    assert (over.doubted, effects) == ((), [Failed(hops(0), 1, in_use=True)])
    over, effects = run(state, (8.1, GuardUnreachable(0)))
    assert (over.doubted, effects) == ((), [Failed(hops(0), None, in_use=True)])


def test_what_is_in_doubt_outlasts_the_set() -> None:
    state, _ = run(opened(), (6.0, PathUsed(0)), (6.0, PathDoubted(0)), (6.1, PathDoubted(1)))
    state, effects = run(state, (6.2, Shut()))
    assert effects == [Close(2), Close(3)]
    late: list[SetEvent] = [HopsChosen(0, hops(9)), PathOpened(2), Shut()]
    for event in late:
        assert run(state, (6.3, event)) == (state, [])
    state, effects = run(state, (6.3, PathHeard(0)))
    assert effects == [Served(hops(0)), Close(0)]
    _, effects = run(state, (12.1, Tick(1.0)), (14.1, Tick(1.0)))
    assert effects == [Failed(hops(1), None, in_use=True), Close(1)]


def test_a_path_that_others_use_is_pinged_and_stays() -> None:
    state, _ = run(opened(), (6.0, Tick(1.0)), (6.0, StreamBegun(0)))
    state, effects = run(state, (6.0, PathDoubted(0)))
    assert effects == [Ping(0)]
    assert run(state, (6.1, PathDoubted(0))) == (state, [])
    heard, _ = run(state, (6.2, PathHeard(0)))
    assert run(heard, (8.0, Tick(1.0)))[1] == []
    _, effects = run(state, (8.0, Tick(1.0)), (10.0, Tick(1.0)))
    failed = Failed(hops(0), None, in_use=True)
    assert effects == [SlotLost(0), failed, WantHops(0), Close(0)]


def test_lives_differ_and_age_leaves_k_open() -> None:
    state = opened(seed=10)
    ends_s = [slot.ends_s for slot in state.slots if isinstance(slot, Open)]
    assert all(480 <= end_s < 900 for end_s in ends_s)
    assert len(set(ends_s)) == 4
    state, _ = run(state, *[(899.0, PathHeard(path)) for path in range(4)])
    state, effects = run(state, (900.0, Tick(3.0)))
    assert effects == [Close(0), WantHops(0)]
    assert state.ready
    state, effects = run(state, (901.0, Tick(3.0)))
    assert effects == [WantHops(0)]
    state, _ = run(state, (901.0, HopsChosen(0, hops(9))), (901.2, PathOpened(4)))
    assert run(state, (902.0, Tick(3.0)))[1] == [Close(1), WantHops(1)]


def test_a_path_in_use_drains_before_it_goes() -> None:
    state, _ = run(opened(), (1.0, StreamBegun(0)), (1.0, StreamBegun(0)), (899.0, PathHeard(0)))
    state, _ = run(state, *[(899.0, PathHeard(path)) for path in range(4)])
    state, effects = run(state, (900.0, Tick(3.0)))
    assert effects == []
    assert phase(state.slots[0]) == DRAINING
    assert list(state.open_slots) == [1, 2, 3]
    state, effects = run(state, (901.0, StreamEnded(0)))
    assert effects == []
    broken = run(state, (902.0, PathBroken(0)))[1]
    assert broken == [SlotLost(0), Failed(hops(0), None, in_use=True), WantHops(0)]
    state, effects = run(state, (902.0, StreamEnded(0)))
    assert effects == [Close(0), WantHops(0)]


def test_a_set_that_is_shut_does_nothing_any_more() -> None:
    state, _ = run(new_set(RULES), (0.0, Tick(1.0)), (0.0, HopsChosen(0, hops(0))))
    state, _ = run(state, (1.0, Tick(1.0)), (1.0, HopsChosen(1, hops(1))), (1.1, PathOpened(1)))
    state, _ = run(state, (1.2, HopsChosen(2, hops(2))))
    state, effects = run(state, (2.0, Shut()))
    assert set(map(repr, effects)) == {repr(Close(path)) for path in range(3)}
    for event in (PathOpened(2), Tick(1.0), HopsChosen(3, hops(3)), PathBroken(1), Shut()):
        assert run(state, (3.0, event)) == (state, [])


def test_the_table_lists_the_transitions() -> None:
    phases = {EMPTY, BUILDING, OPEN, DRAINING}
    assert path_set.__doc__ is not None
    listed = set()
    for line in path_set.__doc__.splitlines():
        before, _, after = (line[:10].strip(), line[10:53], line[53:63].strip())
        if after in phases and before != after:
            befores = phases - {EMPTY} if before == "any" else {before}
            listed |= {(item, after) for item in befores}
    assert listed == {(before, after) for before, _, after in TRANSITIONS}


class PathSetMachine(RuleBasedStateMachine):
    """A shell that answers in any order, late or never, and a clock that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.state = new_set(RULES)
        self.now_s = 0.0
        self.draw = Random(0).randrange
        self.standing: set[int] = set()
        """Paths that were built and neither closed nor over."""
        self.ended: list[Hops] = []
        """Of the paths that were counted, which each is once."""
        self.live: dict[int, int] = {}
        """Slots that running exchanges believe to be open."""
        self.free = 0

    def feed(self, event: SetEvent) -> list[SetEffect]:
        before = self.state
        self.state, effects = handle(before, event, self.now_s, self.draw)
        for old, new in zip(before.slots, self.state.slots, strict=True):
            if phase(old) != phase(new):
                assert (phase(old), type(event), phase(new)) in TRANSITIONS
        if isinstance(event, Tick) and before.ready:
            losses = sum(isinstance(effect, SlotLost) for effect in effects)
            assert self.state.ready or losses
        for effect in effects:
            self.carry_out(effect)
        return effects

    def carry_out(self, effect: SetEffect) -> None:
        match effect:
            case WantHops(slot):
                assert phase(self.state.slots[slot]) == EMPTY
                self.free += 1
                self.feed(NoHops(slot) if self.free % 7 == 0 else HopsChosen(slot, hops(self.free)))
            case Build(path):
                assert path not in self.standing
                self.standing.add(path)
            case Ping(path):
                assert path in self.standing
            case Close(path):
                self.standing.discard(path)
                self.live = {slot: held for slot, held in self.live.items() if held != path}
            case SlotOpen(slot, path):
                self.live[slot] = path
            case SlotLost(slot):
                del self.live[slot]
            case Failed(ended) | Served(ended) | Refused(ended) | Unreachable(ended):
                # `hops` gives each path of this machine other relays.
                assert ended not in self.ended
                self.ended.append(ended)

    @rule(seconds=st.floats(0.001, 400.0), timeout_s=st.floats(0.25, 10.0))
    def time_passes(self, seconds: float, timeout_s: float) -> None:
        self.now_s += seconds
        self.feed(Tick(timeout_s))

    @precondition(lambda self: self.state.next_path > 0)
    @rule(
        data=st.data(),
        kind=st.sampled_from(
            [
                *(PathOpened, PathOpened, PathHeard, PathUsed, PathDoubted, PathBroken),
                *(GuardRefused, NoSetup),
            ]
        ),
    )
    def path_event(self, data: st.DataObject, kind: Any) -> None:
        path = data.draw(st.integers(max(0, self.state.next_path - 12), self.state.next_path))
        building = {
            s.path for s in (*self.state.slots, *self.state.late) if isinstance(s, Building)
        }
        if kind is PathBroken or (kind in (GuardRefused, NoSetup) and path in building):
            self.standing.discard(path)
        self.feed(kind(path))

    @precondition(lambda self: self.state.next_path > 0)
    @rule(data=st.data(), hop=st.integers(0, 2), difficulty=st.integers(0, 22))
    def puzzle(self, data: st.DataObject, hop: int, difficulty: int) -> None:
        path = data.draw(st.integers(0, self.state.next_path))
        building = {
            s.path for s in (*self.state.slots, *self.state.late) if isinstance(s, Building)
        }
        if path in building:
            self.standing.discard(path)
        self.feed(PuzzleAsked(path, hop, b"seed", difficulty))
        self.feed(PuzzleSolved(data.draw(st.integers(0, self.state.next_path))))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), begins=st.booleans())
    def stream(self, data: st.DataObject, begins: bool) -> None:
        path = data.draw(st.sampled_from(sorted(self.live.values())))
        self.feed(StreamBegun(path) if begins else StreamEnded(path))

    @precondition(lambda self: self.state.next_path > 0)
    @rule(data=st.data())
    def guard_unreachable(self, data: st.DataObject) -> None:
        path = data.draw(st.integers(max(0, self.state.next_path - 6), self.state.next_path))
        self.standing.discard(path)
        self.feed(GuardUnreachable(path))

    @invariant()
    def exchanges_know_the_open_paths(self) -> None:
        usable = {i: slot.path for i, slot in enumerate(self.state.slots) if isinstance(slot, Open)}
        assert self.live == usable

    @invariant()
    def the_shell_has_the_paths_of_the_set_and_no_other(self) -> None:
        held = [slot.path for slot in self.state.slots if not isinstance(slot, Empty)]
        held += [build.path for build in self.state.late]
        held += [doubted.path for doubted in self.state.doubted]
        assert len(set(held)) == len(held)
        assert set(held) == self.standing

    def teardown(self) -> None:
        self.feed(Shut())
        for _ in range(3):
            self.now_s += 100.0
            self.feed(Tick(3.0))
        assert not self.standing
        assert not self.live


TestPathSetMachine = PathSetMachine.TestCase
TestPathSetMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

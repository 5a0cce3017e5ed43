"""What a client knows of relays, as far as no other test of paths shows it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from overlay.core.build_times import BuildTimes
from overlay.core.choice import Hops, Rules, SetUse
from overlay.core.diversity import Conflicts
from overlay.core.guards import Guard, GuardList, GuardRules
from overlay.core.path_driver_effects import DAY_S, Moment
from overlay.core.relay_memory import RelayMemory
from planetserve.records import NodeRecord, RouteSet
from tests.overlay.relays import relay

RELAYS = tuple(relay(number) for number in range(1, 60))
DAY_NS = DAY_S * 1_000_000_000


def memory(rules: Rules | None = None) -> RelayMemory:
    return RelayMemory(rules or Rules(), GuardRules(), Random(1).randrange)


def at(day: int, now_s: float = 0.0) -> Moment:
    return Moment(now_s, day * DAY_S)


def used_at(known: RelayMemory, day: int, clock_day: int) -> list[bytes]:
    """The guards after paths were begun, on the `day` of the header and under another clock."""
    known.routes_read(RouteSet(100_000, b"h" * 32, RELAYS, day * DAY_NS + 5))
    for slot in range(4):
        hops = known.choose(SetUse(slot), at(clock_day))
        assert hops is not None
        known.begun(hops, at(clock_day))
    return [guard.node for guard in known.guards.guards]


def test_guards_go_by_the_day_of_the_verified_header() -> None:
    known = memory()
    first = used_at(known, 20_000, 20_500)
    assert all(20_060 <= (guard.ends_day or 0) <= 20_120 for guard in known.guards.guards)
    assert {guard.added_day for guard in known.guards.guards} == {20_000}
    for clock_day in (0, 20_200, 30_000):
        assert used_at(known, 20_059, clock_day) == first
    assert used_at(known, 20_120, 20_000) != first


def test_without_a_header_they_go_by_the_clock() -> None:
    known = memory()
    known.routes_read(RouteSet(100_000, b"h" * 32, RELAYS))
    assert known.choose(SetUse(0), at(20_000)) is not None
    assert {guard.added_day for guard in known.guards.guards} == {20_000}
    known.guards = replace(
        known.guards, guards=tuple(replace(g, ends_day=20_060) for g in known.guards.guards)
    )
    before = {guard.node for guard in known.guards.guards}
    assert known.choose(SetUse(0), at(20_400)) is not None
    assert len(before & {guard.node for guard in known.guards.guards}) == 2


def borrower(seed: int, days: dict[int, int | None] | None = None) -> RelayMemory:
    """A second process beside one that keeps guards 1 to 4 (`days`: since when one is missing)."""
    known = RelayMemory(Rules(), GuardRules(), Random(seed).randrange)
    kept = tuple(
        Guard(relay(number).id, 20_000, 20_100, (days or {}).get(number)) for number in range(1, 5)
    )
    known.remember(GuardList(kept), BuildTimes(), borrowed=True)
    known.routes_read(RouteSet(100_000, b"h" * 32, RELAYS, 20_001 * DAY_NS))
    return known


def firsts(known: RelayMemory, now_s: float = 0.0) -> set[bytes]:
    """The first hops of a set of four paths, as far as there are four."""
    others: tuple[NodeRecord, ...] = ()
    found = set()
    for slot in range(4):
        hops = known.choose(SetUse(slot, others), at(20_001, now_s))
        if hops is not None:
            others = (*others, *hops.relays)
            found.add(hops.ids[0])
    return found


BORROWED = {relay(number).id for number in range(1, 5)}


@given(st.integers(0, 2**32))
def test_borrowed_guards_are_kept_to_while_k_are_usable(seed: int) -> None:
    known = borrower(seed)
    assert firsts(known) == BORROWED
    hops = known.choose(SetUse(0), at(20_001))
    assert hops is not None
    known.unreachable(hops, at(20_001))
    assert firsts(known, 1.0) == BORROWED  # the one that waits, too: better than one of its own
    assert not known.unsaved


@given(st.integers(0, 2**32))
def test_with_fewer_usable_others_are_drawn_and_it_is_told(seed: int) -> None:
    known = borrower(seed)
    for number in (1, 2):
        hops = Hops((relay(number),), Conflicts())
        known.unreachable(hops, at(20_001))
    found = firsts(known, 1.0)
    assert len(found) == 4
    assert {relay(3).id, relay(4).id} < found
    assert not found <= BORROWED
    assert known.unsaved


def test_a_borrowed_guard_that_is_back_counts() -> None:
    known = borrower(1, {1: 20_000, 2: 20_000})
    assert firsts(known) == BORROWED
    assert not known.unsaved


def test_a_process_that_keeps_its_guards_adds_to_them() -> None:
    known = borrower(1)
    known.remember(known.guards, BuildTimes())
    hops = known.choose(SetUse(0), at(20_001))
    assert hops is not None
    known.unreachable(hops, at(20_001))
    assert not firsts(known, 1.0) <= BORROWED
    assert not known.unsaved

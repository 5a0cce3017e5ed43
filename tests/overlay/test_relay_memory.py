"""What a client knows of relays, as far as no other test of paths shows it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from overlay.core.choice import Rules, SetUse
from overlay.core.guards import GuardRules
from overlay.core.path_driver_effects import DAY_S, Moment
from overlay.core.relay_memory import RelayMemory
from planetserve.records import RouteSet
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

"""Which first hops a client keeps."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import guards as rules_of
from overlay.core.draw import Draw
from overlay.core.guards import Barred, Guard, GuardList, GuardRules, Tally, maintained
from planetserve.records import NodeRecord
from tests.overlay.relays import relay

SEEDS = st.integers(0, 2**32)
RULES = GuardRules()
RELAYS = [relay(number) for number in range(40)]
GOOD = Tally(100, 95)


def look(
    guards: GuardList,
    relays: list[NodeRecord] = RELAYS,
    day: int = 100,
    now_s: float = 0.0,
    draw: Draw | None = None,
    height: int = 100_000,
) -> GuardList:
    draw = draw or Random(1).randrange
    return maintained(guards, relays, height, day, now_s, RULES, draw)


def nodes(guards: GuardList) -> list[bytes]:
    return [guard.node for guard in guards.guards]


def left_of(before: GuardList, after: GuardList) -> set[bytes]:
    return set(nodes(before)) & set(nodes(after))


def with_builds(*tallies: Tally) -> GuardList:
    return GuardList(
        tuple(
            Guard(RELAYS[number].id, 100, 200, builds=tally) for number, tally in enumerate(tallies)
        )
    )


@given(SEEDS)
def test_n_are_sampled_and_kept(seed: int) -> None:
    first = look(GuardList(), draw=Random(seed).randrange)
    assert len(set(nodes(first))) == 4
    assert look(first, draw=Random(seed + 1).randrange) == first
    assert first.line_up(0.0) == tuple(nodes(first))


@given(SEEDS)
def test_one_is_added_where_all_usable_ones_are_on_other_paths(seed: int) -> None:
    draw = Random(seed).randrange
    guards = look(GuardList(), draw=draw)
    first, *rest = nodes(guards)

    def extended(guards: GuardList, barred: list[bytes], relays: list[NodeRecord]) -> GuardList:
        return rules_of.for_set(guards, relays, 100_000, 100, 0.0, barred, RULES, draw)

    assert extended(guards, rest, RELAYS) == guards
    guards = rules_of.unreachable(guards, first, 0.0)
    spared = [relay.id for relay in RELAYS if relay.id not in nodes(guards)][:20]
    longer = nodes(extended(guards, [*rest, *spared], RELAYS))
    assert longer[:4] == nodes(guards)
    assert len(longer) == 5
    assert longer[4] not in spared
    assert extended(guards, [relay.id for relay in RELAYS], RELAYS) == guards
    while len(guards.guards) < RULES.most:
        guards = extended(guards, nodes(guards), RELAYS)
    assert extended(guards, nodes(guards), RELAYS) == guards


@given(SEEDS)
def test_guards_differ_in_operator_and_network(seed: int) -> None:
    relays = [relay(number, f"operator-{number % 4}") for number in range(24)]
    chosen = nodes(look(GuardList(), relays, draw=Random(seed).randrange))
    assert len({node[-1] % 4 for node in chosen}) == 4


def test_guards_are_a_day_old_at_least() -> None:
    relays = [relay(number, registered=1 if number < 12 else 5_000) for number in range(40)]
    for seed in range(20):
        chosen = look(GuardList(), relays, height=8_000, draw=Random(seed).randrange)
        assert all(node[-1] < 12 for node in nodes(chosen))


def test_a_life_is_drawn_at_the_first_use() -> None:
    guards = look(GuardList())
    node = nodes(guards)[0]
    lives = set()
    for seed in range(300):
        used = rules_of.first_used(guards, node, 110, Random(seed).randrange)
        guard = used.find(node)
        assert guard is not None
        assert guard.ends_day is not None
        lives.add(guard.ends_day - 110)
        assert rules_of.first_used(used, node, 115, Random(seed + 1).randrange) == used
    assert min(lives) == 60
    assert max(lives) == 120


def test_a_guard_goes_when_its_life_ends() -> None:
    guards = with_builds(*[Tally()] * 4)
    assert look(guards, day=199) == guards
    assert left_of(guards, look(guards, RELAYS[2:], day=200)) == set(nodes(guards)[2:])


def test_two_at_most_leave_in_a_week_those_first_that_should_have_left_first() -> None:
    ends = {0: 203, 1: 201, 2: 204, 3: 202}
    guards = GuardList(tuple(Guard(RELAYS[n].id, 100, day) for n, day in ends.items()))
    first = look(guards, day=321)
    assert left_of(guards, first) == {RELAYS[0].id, RELAYS[2].id}
    assert first.dropped_days == (321, 321)
    assert look(first, day=327) == first
    assert left_of(guards, look(first, day=328)) == set()


def test_a_biased_one_goes_before_those_whose_life_is_over() -> None:
    guards = with_builds(GOOD, GOOD, GOOD, Tally(20, 2))
    after = look(guards, day=200)
    assert len(left_of(guards, after)) == 2
    assert RELAYS[3].id not in nodes(after)


def test_a_look_under_a_clock_that_is_months_ahead_costs_two_guards() -> None:
    guards = with_builds(*[Tally()] * 4)
    ahead = look(guards, day=321)
    assert len(left_of(guards, ahead)) == 2
    back = look(ahead, day=150, now_s=1.0)
    assert nodes(back) == nodes(ahead)
    assert back.dropped_days == (150, 150)  # a week from now on they count no more
    assert look(back, day=157).dropped_days == ()


@given(SEEDS)
def test_a_clock_that_jumps_about_for_a_week_costs_two_guards(seed: int) -> None:
    draw = Random(seed)
    guards, gone = with_builds(*[Tally()] * 4), 0
    days = sorted(draw.randrange(150, 157) for _ in range(8))
    for day in (*days[:4], 321, *days[4:]):
        after = look(guards, day=day, draw=draw.randrange)
        gone += len(set(nodes(guards)) - set(nodes(after)))
        guards = after
    assert gone <= 2  # fewer where the same one was sampled again
    assert len(guards.dropped_days) == 2


def test_an_unused_guard_goes_after_the_longest_life() -> None:
    guards = GuardList(tuple(Guard(item.id, 100) for item in RELAYS[:4]))
    assert look(guards, day=219) == guards
    assert left_of(guards, look(guards, RELAYS[2:], day=220)) == set(nodes(guards)[2:])


def test_a_guard_goes_when_it_is_seven_days_out_of_the_route_set() -> None:
    guards = with_builds(*[Tally()] * 4)
    gone = RELAYS[0].id
    guards = look(guards, RELAYS[1:], day=101)
    assert gone in nodes(guards)
    assert gone not in guards.line_up(0.0)
    assert len(guards.line_up(0.0)) == 4
    assert gone in nodes(look(guards, RELAYS[1:], day=107))
    assert gone not in nodes(look(guards, RELAYS[1:], day=108))
    back = look(guards, day=107)
    assert back.line_up(0.0)[0] == gone
    assert gone in nodes(look(back, RELAYS[1:], day=108))


def test_an_unreachable_guard_is_passed_over_and_tried_again() -> None:
    guards = with_builds(*[Tally()] * 5)
    first = nodes(guards)[0]
    now_s = 0.0
    for wait_s in (60.0, 300.0, 1_800.0, 10_800.0, 10_800.0):
        guards = rules_of.unreachable(guards, first, now_s)
        assert rules_of.unreachable(guards, first, now_s) == guards
        assert guards.line_up(now_s + wait_s - 1)[-1] == first
        now_s += wait_s
        assert guards.line_up(now_s)[0] == first
    guards = rules_of.built(guards, first)
    guards = rules_of.unreachable(guards, first, now_s)
    assert guards.line_up(now_s + 60.0)[0] == first


def test_a_guard_without_room_fails_the_path_and_is_passed_over() -> None:
    guards = with_builds(*[Tally(10, 10)] * 5)
    first = nodes(guards)[0]
    refused = rules_of.refused(guards, first, 0.0)
    assert refused.guards[0].builds == Tally(11, 10)
    assert refused.shuns == ()
    assert refused.line_up(59.0)[-1] == first
    assert refused.line_up(60.0)[0] == first
    assert rules_of.refused(refused, first, 1.0).line_up(60.0)[0] == first


def test_opening_is_no_success_and_serving_is() -> None:
    guards = with_builds(*[Tally(10, 10)] * 4)
    first = nodes(guards)[0]
    assert rules_of.built(guards, first) == guards
    assert rules_of.served(guards, first).guards[0].builds == Tally(11, 11)


def test_an_offline_client_samples_no_more_than_three_n() -> None:
    guards = GuardList()
    for round_number in range(20):
        guards = look(guards, now_s=round_number)
        for node in nodes(guards):
            guards = rules_of.unreachable(guards, node, round_number)
    assert len(guards.guards) == 12
    assert len(guards.line_up(20.0)) == 12  # and still has some to try


@given(st.lists(st.booleans(), max_size=500))
def test_tallies_are_halved_and_stay_small(results: list[bool]) -> None:
    tally = Tally()
    for succeeded in results:
        tally = tally.counted(succeeded)
        assert 0 <= tally.successes <= tally.attempts < 200
    if len(results) < 200:
        assert tally == Tally(len(results), sum(results))


@pytest.mark.parametrize(
    ("own", "others", "dropped"),
    [
        (Tally(20, 9), GOOD, True),
        (Tally(20, 10), GOOD, False),
        (Tally(19, 0), GOOD, False),
        (Tally(20, 0), Tally(19, 19), False),
        # Where the others fail too, half of their share, and enough attempts to be sure.
        (Tally(40, 12), Tally(100, 60), False),
        (Tally(40, 11), Tally(100, 60), True),
        (Tally(23, 0), Tally(100, 60), False),
        (Tally(24, 0), Tally(100, 60), True),
        (Tally(83, 0), Tally(100, 30), False),
        (Tally(84, 0), Tally(100, 30), True),
        (Tally(199, 0), Tally(100, 10), False),
    ],
)
def test_bias(own: Tally, others: Tally, dropped: bool) -> None:
    tallies = (own, others, others, others)
    by_builds = with_builds(*tallies)
    by_uses = GuardList(
        tuple(
            replace(guard, builds=Tally(), uses=tally)
            for guard, tally in zip(by_builds.guards, tallies, strict=True)
        )
    )
    for guards in (by_builds, by_uses):
        after = look(guards)
        assert (RELAYS[0].id not in nodes(after)) == dropped
        assert after.dropped_days == ((100,) if dropped else ())
        assert not after.exhausted
        assert len(after.guards) == 4


def test_two_that_fail_their_paths_do_not_hide_behind_each_other() -> None:
    bad = Tally(190, 19)
    guards = look(with_builds(bad, bad, Tally(20, 19), Tally(20, 19)))
    assert not {RELAYS[0].id, RELAYS[1].id} & set(nodes(guards))


def test_two_at_most_are_dropped_in_a_week_the_worst_first() -> None:
    great = Tally(190, 190)
    bad = [Tally(20, 9), Tally(20, 2), Tally(20, 5)]
    guards = look(with_builds(*bad, *[great] * 4))
    assert RELAYS[0].id in nodes(guards)
    assert not {RELAYS[1].id, RELAYS[2].id} & set(nodes(guards))
    assert guards.exhausted
    assert look(guards, day=106).exhausted
    later = look(guards, day=107)
    assert RELAYS[0].id not in nodes(later)
    assert later.dropped_days == (107,)
    assert not later.exhausted


@given(SEEDS)
def test_a_dropped_guard_stays_away_for_a_life(seed: int) -> None:
    draw, relays, bad = Random(seed).randrange, RELAYS[:12], RELAYS[0].id
    guards = look(with_builds(Tally(20, 0), GOOD, GOOD, GOOD), relays, draw=draw)
    assert guards.barred == (Barred(bad, 100),)
    assert bad not in nodes(guards)
    for day in (107, 150, 199, 219):
        guards = look(guards, relays, day, draw=draw)
        assert bad not in nodes(guards)
        others = [relay.id for relay in relays if relay.id != bad][:10]
        longer = rules_of.for_set(guards, relays, 100_000, day, 0.0, others, RULES, draw)
        assert bad not in nodes(longer)
    assert look(guards, relays, 220, draw=draw).barred == ()


def test_a_barred_relay_comes_back_where_no_other_is_left() -> None:
    guards = look(with_builds(Tally(20, 0), GOOD, GOOD, GOOD), RELAYS[:4])
    back = guards.find(RELAYS[0].id)
    assert back == Guard(RELAYS[0].id, 100)


def test_barred_relays_leave_as_many_old_ones_to_choose_from() -> None:
    relays = [relay(number, registered=number) for number in range(40)]
    barred = tuple(Barred(relays[number].id, 100) for number in range(12))
    chosen = look(GuardList(barred=barred), relays, height=100)
    assert {node[-1] for node in nodes(chosen)} <= set(range(12, 24))


def test_a_failure_that_nobody_signs_is_held_against_the_guard_alone() -> None:
    guards = with_builds(*[Tally(10, 10)] * 4)
    hops = [item.id for item in RELAYS[:3]]
    failed = rules_of.failed(guards, hops, None, 5.0)
    assert failed.guards[0].builds == Tally(11, 10)
    assert failed.guards[1:] == guards.guards[1:]
    assert failed.shuns == ()


@pytest.mark.parametrize(
    ("origin", "shunned", "counted"), [(0, {1}, True), (1, {1, 2}, False), (2, {2}, False)]
)
def test_an_accusation_is_held_against_both_under_their_guard(
    origin: int, shunned: set[int], counted: bool
) -> None:
    guards = with_builds(*[Tally(10, 10)] * 4)
    hops = [RELAYS[number].id for number in (0, 10, 11)]
    failed = rules_of.failed(guards, hops, origin, 5.0)
    assert failed.guards[0].builds == (Tally(11, 10) if counted else Tally(10, 10))
    assert failed.shunned(hops[0], 34.9) == {hops[number] for number in shunned}
    assert failed.shunned(hops[0], 35.0) == frozenset()
    assert failed.shunned(RELAYS[1].id, 6.0) == frozenset()
    assert look(failed, now_s=35.0).shuns == ()


def test_uses_are_counted_beside_builds() -> None:
    guards = with_builds(*[Tally()] * 4)
    node = nodes(guards)[2]
    guards = rules_of.used(rules_of.used(guards, node, True), node, False)
    assert guards.guards[2].uses == Tally(2, 1)
    assert guards.guards[2].builds == Tally()


def test_nodes_that_are_no_guards_change_nothing() -> None:
    guards = with_builds(Tally())
    other = RELAYS[9].id
    assert rules_of.built(guards, other) == guards
    assert rules_of.served(guards, other) == guards
    assert rules_of.refused(guards, other, 0.0) == guards
    assert rules_of.used(guards, other, True) == guards
    assert rules_of.unreachable(guards, other, 0.0) == guards
    assert rules_of.first_used(guards, other, 0, Random(1).randrange) == guards
    assert rules_of.failed(guards, [other], None, 0.0) == guards

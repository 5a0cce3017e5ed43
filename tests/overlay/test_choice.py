"""Which relays paths are built from."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from overlay.core.choice import Hops, Rules, SetUse, choose_set_hops
from overlay.core.diversity import Conflicts
from overlay.core.guards import Guard, GuardList, Shun, unreachable
from planetserve.records import NodeRecord
from tests.overlay.relays import relay

SEEDS = st.integers(0, 2**32)
RULES = Rules()


def guards_of(*relays: NodeRecord) -> GuardList:
    return GuardList(tuple(Guard(item.id, 1) for item in relays))


def choose(
    relays: list[NodeRecord],
    used: SetUse,
    seed: int,
    guards: GuardList | None = None,
    height: int = 10_000,
    rules: Rules = RULES,
) -> Hops | None:
    guards = guards if guards is not None else guards_of(*relays[:4])
    return choose_set_hops(relays, height, guards, used, rules, Random(seed).randrange, 0.0)


def whole_set(relays: list[NodeRecord], seed: int, **use: NodeRecord) -> list[Hops]:
    others: tuple[NodeRecord, ...] = ()
    chosen = []
    for slot in range(4):
        hops = choose(relays, SetUse(slot, others, target=use.get("target")), seed + slot)
        if hops is not None:
            chosen.append(hops)
            others += hops.relays
    return chosen


@given(SEEDS, st.integers(12, 40))
def test_no_relay_is_twice_in_a_set(seed: int, count: int) -> None:
    paths = whole_set([relay(number) for number in range(count)], seed)
    ids = [node for hops in paths for node in hops.ids]
    assert len(paths) == 4
    assert len(set(ids)) == 12


@given(SEEDS)
def test_three_disjoint_paths_out_of_nine_relays(seed: int) -> None:
    assert len(whole_set([relay(number) for number in range(9)], seed)) == 3


@given(SEEDS)
def test_the_own_relay_and_the_target_are_never_in_a_path(seed: int) -> None:
    relays = [relay(number) for number in range(8)]
    for guards in (None, guards_of(*relays)):
        hops = choose(relays, SetUse(0, own=relays[0].id, target=relays[5]), seed, guards)
        assert hops is not None
        assert not {relays[0].id, relays[5].id} & set(hops.ids)


@given(SEEDS)
def test_young_relays_wait_where_there_are_enough_old_ones(seed: int) -> None:
    old = [relay(number, registered=100) for number in range(36)]
    young = [relay(number, registered=9_500) for number in range(36, 80)]
    hops = choose(old + young, SetUse(0), seed)
    assert hops is not None
    assert all(item.registered == 100 for item in hops.relays)
    hops = choose(old[:35] + young, SetUse(0), seed)
    assert hops is not None  # too few are old: those of 9,500 count too


@given(SEEDS)
def test_operators_and_networks_are_once_a_set_where_there_are_enough(seed: int) -> None:
    relays = [relay(number, f"operator-{number // 2}", f"8.{number}.0.1") for number in range(40)]
    paths = whole_set(relays[::2] + relays[1::2], seed)
    operators = [item.operator for hops in paths for item in hops.relays]
    assert len(set(operators)) == 12
    relays = [relay(number, host=f"8.{number // 2}.0.1") for number in range(40)]
    paths = whole_set(relays[::2] + relays[1::2], seed)
    networks = [item.endpoints["overlay"].split(".")[1] for hops in paths for item in hops.relays]
    assert len(set(networks)) == 12
    assert all(hops.relaxed == Conflicts() for hops in paths)


@given(SEEDS)
def test_an_operator_is_rather_twice_in_a_set_than_twice_in_a_path(seed: int) -> None:
    relays = [relay(number, f"operator-{number % 4}") for number in range(16)]
    for hops in whole_set(relays, seed):
        assert len({item.operator for item in hops.relays}) == 3
        assert hops.relaxed.path_operator == 0


@given(SEEDS)
def test_relays_of_one_operator_are_better_than_no_path_and_it_is_told(seed: int) -> None:
    relays = [relay(number, "one") for number in range(7)]
    hops = choose(relays, SetUse(0), seed)
    assert hops is not None
    assert hops.relaxed == Conflicts(path_operator=2, set_operator=3)


def test_among_equals_the_choice_is_uniform() -> None:
    relays = [relay(number) for number in range(14)]
    counts: dict[bytes, list[int]] = {item.id: [0, 0] for item in relays}
    draw = Random(7).randrange
    for _ in range(4_000):
        hops = choose_set_hops(relays, 10_000, guards_of(*relays[:4]), SetUse(0), RULES, draw, 0.0)
        assert hops is not None
        counts[hops.ids[1]][0] += 1
        counts[hops.ids[2]][1] += 1
    # 400 each; five standard deviations are 95.
    assert all(abs(n - 400) < 95 for item in relays[4:] for n in counts[item.id])


@given(SEEDS)
def test_slot_i_uses_the_guard_i_in_line(seed: int) -> None:
    relays = [relay(number) for number in range(30)]
    guards = guards_of(*relays[20:26])
    for slot in range(4):
        hops = choose(relays, SetUse(slot), seed, guards)
        assert hops is not None
        assert hops.ids[0] == relays[20 + slot].id
        assert not {item.id for item in relays[20:24]} & set(hops.ids[1:])
    hops = choose(relays, SetUse(1, others=(relays[21],)), seed, guards)
    assert hops is not None
    assert hops.ids[0] == relays[22].id


@given(SEEDS)
def test_a_guard_that_waits_is_taken_last(seed: int) -> None:
    relays = [relay(number) for number in range(30)]
    guards = unreachable(guards_of(*relays[20:25]), relays[20].id, 0.0)
    for slot in range(4):
        hops = choose(relays, SetUse(slot), seed, guards)
        assert hops is not None
        assert hops.ids[0] == relays[21 + slot].id
        assert relays[20].id not in hops.ids
    # The one that is ready is in line before the slot's, which are all on other paths.
    hops = choose(relays, SetUse(3, others=tuple(relays[22:25])), seed, guards)
    assert hops is not None
    assert hops.ids[0] == relays[21].id
    hops = choose(relays, SetUse(3, others=tuple(relays[21:25])), seed, guards)
    assert hops is not None
    assert hops.ids[0] == relays[20].id


def test_without_a_guard_there_is_no_path() -> None:
    relays = [relay(number) for number in range(12)]
    assert choose(relays, SetUse(0), 1, GuardList()) is None
    assert choose(relays, SetUse(0), 1, guards_of(relay(99))) is None


@given(SEEDS)
def test_blamed_relays_are_left_out_under_their_guard_only(seed: int) -> None:
    relays = [relay(number) for number in range(8)]
    shuns = tuple(Shun(relays[0].id, relays[number].id, 30.0) for number in (4, 5))
    guards = GuardList(guards_of(*relays[:4]).guards, shuns=shuns)
    hops = choose(relays, SetUse(0), seed, guards)
    assert hops is not None
    assert set(hops.ids[1:]) == {relays[6].id, relays[7].id}
    hops = choose(relays, SetUse(1, others=(relays[6], relays[7])), seed, guards)
    assert hops is not None
    assert set(hops.ids[1:]) == {relays[4].id, relays[5].id}
    hops = choose(relays, SetUse(0, others=(relays[6], relays[7])), seed, guards)
    assert hops is not None  # better one that failed lately than no path
    assert set(hops.ids[1:]) == {relays[4].id, relays[5].id}


@given(SEEDS)
def test_the_last_relay_shares_nothing_with_the_target_where_it_can(seed: int) -> None:
    target = relay(90, "one", "8.8.4.4")
    relays = [relay(number) for number in range(4)]
    relays += [relay(number, "one") for number in range(4, 8)]
    relays += [relay(number, host="8.8.9.9") for number in range(8, 12)]
    relays += [relay(12)]
    hops = choose(relays, SetUse(0, target=target), seed)
    assert hops is not None
    assert hops.ids[2] == relays[12].id
    hops = choose(relays[:8], SetUse(0, target=target), seed)
    assert hops is not None
    assert hops.relaxed.target_operator == 1


def test_paths_of_other_lengths() -> None:
    relays = [relay(number) for number in range(12)]
    for count in (1, 2, 4):
        hops = choose(relays, SetUse(0), 1, rules=Rules(hops=count))
        assert hops is not None
        assert len(set(hops.ids)) == count
    assert choose(relays[:3], SetUse(0), 1, rules=Rules(hops=4)) is None

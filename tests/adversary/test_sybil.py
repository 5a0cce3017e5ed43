"""One operator brings three tenths of the relays: declared, in one network, or well disguised."""

from __future__ import annotations

from random import Random

import pytest

from overlay.core.choice import Hops, Rules, SetUse, choose_set_hops
from overlay.core.guards import GuardList, GuardRules, maintained
from planetserve.records import NodeRecord
from tests.overlay.relays import relay

COUNT, SYBILS = 60, 18
RULES = Rules()
HONEST = [relay(number, f"operator-{number}", f"8.{number}.0.1") for number in range(SYBILS, COUNT)]


def path_set(relays: list[NodeRecord], seed: int) -> list[Hops]:
    """The four paths of a client that comes to the network as it is."""
    draw = Random(seed).randrange
    guards = maintained(GuardList(), relays, 100_000, 0, 0.0, GuardRules(), draw)
    chosen: list[Hops] = []
    for slot in range(RULES.n):
        others = tuple(item for hops in chosen for item in hops.relays)
        hops = choose_set_hops(relays, 100_000, guards, SetUse(slot, others), RULES, draw, 0.0)
        assert hops is not None
        chosen.append(hops)
    return chosen


def of_the_sybils(hops: Hops) -> int:
    return sum(item.key < SYBILS.to_bytes(32, "big") for item in hops.relays)


@pytest.mark.parametrize("traces", ["one operator", "one network", "one operator and network"])
def test_relays_that_show_their_kinship_are_once_in_a_set(traces: str) -> None:
    sybils = [
        relay(
            number,
            "sybil" if "operator" in traces else f"operator-{number}",
            f"9.9.{number}.1" if "network" in traces else f"9.{number}.0.1",
        )
        for number in range(SYBILS)
    ]
    for seed in range(100):
        assert sum(of_the_sybils(hops) for hops in path_set(sybils + HONEST, seed)) <= 1


def test_what_money_buys_in_spite_of_the_rules_is_its_share() -> None:
    sybils = [relay(number, f"operator-{number}", f"9.{number}.0.1") for number in range(SYBILS)]
    sets = [path_set(sybils + HONEST, seed) for seed in range(300)]
    fraction = SYBILS / COUNT
    relays = sum(of_the_sybils(hops) for paths in sets for hops in paths) / (12 * len(sets))
    first = sum(any(hops.relays[0] in sybils for hops in paths) for paths in sets) / len(sets)
    expected = 1 - (1 - fraction) ** RULES.n
    print(f"share of places {relays:.3f}, of the relays {fraction:.3f}")
    print(f"clients with a first hop of theirs {first:.3f}, 1 - (1 - f)^4 = {expected:.3f}")
    assert relays == pytest.approx(fraction, abs=0.04)
    # Drawn without repetition, so a little more often than by the formula.
    assert first == pytest.approx(expected, abs=0.1)

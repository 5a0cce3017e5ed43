"""Withholding VRF outputs wins the liars little."""

from __future__ import annotations

import pytest

from planetserve.assignment import contributor_of
from tests.adversary.seed_bias import SeedGame


@pytest.mark.parametrize(("verifiers", "liars"), [(16, 5), (25, 8), (40, 13), (100, 33)])
def test_bending_the_seed_wins_a_tenth_more_assignments(verifiers: int, liars: int) -> None:
    games = [SeedGame(seed, [10] * verifiers, liars).play(300) for seed in range(3)]
    growth = sum(game.growth for game in games) / len(games)
    assert 0.95 <= growth <= 1.2, growth
    plain = [SeedGame(seed, [10] * verifiers, liars).play(300, choosing=False) for seed in range(3)]
    captured = sum(game.captured for game in games) / len(games)
    before = sum(game.captured for game in plain) / len(plain)
    assert captured <= before + 0.1, (captured, before)


def test_the_contributor_is_drawn_by_power() -> None:
    powers = [(b"a", 10), (b"b", 30), (b"c", 60)]
    everyone = {b"a", b"b", b"c"}
    drawn = [contributor_of(n.to_bytes(32, "big"), powers, everyone) for n in range(4_000)]
    for prober, power in powers:
        assert drawn.count(prober) / 4_000 == pytest.approx(power / 100, abs=0.03)


def test_who_did_not_reveal_is_passed_over() -> None:
    powers = [(b"a", 10), (b"b", 30), (b"c", 60)]
    for number in range(200):
        seed = number.to_bytes(32, "big")
        first = contributor_of(seed, powers, {b"a", b"b", b"c"})
        assert first is not None
        assert contributor_of(seed, powers, {first}) == first
        rest = {b"a", b"b", b"c"} - {first}
        assert contributor_of(seed, powers, rest) in rest
    assert contributor_of(bytes(32), powers, set()) is None
    assert contributor_of(bytes(32), [], {b"a"}) is None

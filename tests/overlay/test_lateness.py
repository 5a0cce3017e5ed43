"""How late dummies begin: like questions, and never as late as one did."""

from __future__ import annotations

import math
from bisect import bisect
from collections import Counter
from random import Random
from statistics import fmean, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.effects import Entropy, Neighbour
from overlay.core.lateness import FIRST_S, KEPT, Lateness

DRAWS = 1000


def filled(delays_s: list[float]) -> Lateness:
    lateness = Lateness()
    for number, delay_s in enumerate(delays_s):
        lateness.seen(Neighbour(True, number.to_bytes(2, "big")), delay_s)
    return lateness


def drawn(lateness: Lateness, count: int = DRAWS) -> list[float]:
    """Evenly over what the entropy may be."""
    return [lateness.draw_s(giving((2 * number + 1 << 47) // count)) for number in range(count)]


def giving(part: int) -> Entropy:
    return lambda size: part.to_bytes(size, "big")


@given(st.lists(st.integers(1, 60_000), min_size=2, max_size=KEPT, unique=True))
@settings(max_examples=30, deadline=None)
def test_a_draw_is_as_likely_between_any_two_that_were_seen(delays_ms: list[int]) -> None:
    delays_s = [delay_ms / 1000 for delay_ms in delays_ms]
    known = sorted(delays_s)
    places = Counter(bisect(known, delay_s) for delay_s in drawn(filled(delays_s)))
    wanted = DRAWS / (len(known) + 1)
    assert all(abs(places[gap] - wanted) <= 3 for gap in range(len(known) + 1))


@pytest.mark.parametrize("spread", [0.05, 0.5, 1.5])
def test_draws_are_spread_as_wide_as_what_was_seen(spread: float) -> None:
    """The middle and the spread of sixty, over sixty nodes: nearer than a tenth of one."""
    random = Random(1)
    middles, spreads = [], []
    for _ in range(60):
        seen_s = [random.lognormvariate(math.log(0.4), spread) for _ in range(60)]
        logs = [math.log(delay_s) for delay_s in drawn(filled(seen_s), 300)]
        middles.append(fmean(logs) - math.log(0.4))
        spreads.append(pstdev(logs) / spread)
    assert abs(fmean(middles)) < 0.1 * spread
    assert abs(fmean(spreads) - 1) < 0.1


def test_what_is_empty_between_two_groups_stays_nearly_so() -> None:
    """A cache that holds the question, or does not."""
    random = Random(1)
    seen_s = [random.uniform(0.04, 0.06) + 0.9 * (number % 2) for number in range(60)]
    between = [delay_s for delay_s in drawn(filled(seen_s)) if 0.07 < delay_s < 0.9]
    assert len(between) <= DRAWS / 60


@pytest.mark.parametrize("delays_s", [[], [0.25]])
def test_where_little_is_known_draws_are_spread_around_it(delays_s: list[float]) -> None:
    draws = drawn(filled(delays_s))
    assert sorted(draws)[DRAWS // 2] == pytest.approx(FIRST_S, rel=0.01)
    assert (min(draws) > FIRST_S / 4, max(draws) < FIRST_S * 4) == (True, True)
    assert len(set(draws)) == DRAWS


def test_an_engine_that_answers_at_once_is_no_fault() -> None:
    assert all(0 < delay_s < 1e-3 for delay_s in drawn(filled([0.0] * 9)))


def test_the_last_neighbours_have_one_say_each() -> None:
    lateness = Lateness()
    for number in range(3 * KEPT):
        for delay_s in (5.0, 0.1 + number / 1000):
            lateness.seen(Neighbour(True, number.to_bytes(2, "big")), delay_s)
    assert len(lateness._delays_s) == KEPT
    assert min(lateness._delays_s.values()) == pytest.approx(0.1 + 2 * KEPT / 1000)

"""How late dummies begin: like questions, and never as late as one did."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable
from itertools import pairwise
from random import Random
from statistics import fmean, pstdev

import pytest

from overlay.core.effects import Neighbour
from overlay.core.lateness import FIRST_S, KEPT, Lateness

DRAWS = 1000


def filled(delays_s: list[float]) -> Lateness:
    lateness = Lateness()
    for number, delay_s in enumerate(delays_s):
        lateness.seen(Neighbour(True, number.to_bytes(2, "big")), delay_s)
    return lateness


def drawn(lateness: Lateness, count: int = DRAWS) -> list[float]:
    entropy = Random(7).randbytes
    return [lateness.draw_s(entropy) for _ in range(count)]


def two_groups(random: Random) -> float:
    """A cache that holds the question, or does not."""
    return random.uniform(0.04, 0.06) + 0.9 * random.randrange(2)


ENGINES: list[Callable[[Random], float]] = [
    lambda random: random.gammavariate(4.0, 0.1),
    lambda random: random.lognormvariate(-1.0, 1.0),
    two_groups,
]


def nearness(known: list[float], delays_s: list[float]) -> list[float]:
    """To the nearest of `known`, as who remembers those would look at it."""
    return [min(abs(math.log(delay_s / before)) for before in known) for delay_s in delays_s]


def told(engine: Callable[[Random], float], draws: Callable[[list[float]], list[float]]) -> float:
    """How often one who knows all that is kept is right, with the best threshold of nearness."""
    random = Random(3)
    questions: list[float] = []
    dummies: list[float] = []
    for _ in range(80):
        known = [engine(random) for _ in range(60)]
        questions += nearness(known, [engine(random) for _ in range(50)])
        dummies += nearness(known, draws(known))
    questions.sort()
    dummies.sort()
    return max(
        0.5 + abs(bisect(questions, at) / len(questions) - bisect(dummies, at) / len(dummies)) / 2
        for at in (*questions, *dummies)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_who_knows_all_that_is_kept_hardly_tells_a_dummy(
    engine: Callable[[Random], float],
) -> None:
    """Of 8,000; the standard error is .006. Delays that are repeated it tells always, and those
    that lie between two neighbours in nearly three cases of five."""
    random = Random(4)

    def between(known: list[float]) -> list[float]:
        pairs = list(pairwise(sorted(known)))
        return [random.uniform(*random.choice(pairs)) for _ in range(50)]

    assert told(engine, lambda known: drawn(filled(known), 50)) < 0.56
    assert told(engine, between) > 0.57
    assert told(engine, lambda known: random.sample(known, 50)) > 0.95


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
    random = Random(1)
    draws = drawn(filled([two_groups(random) for _ in range(60)]))
    assert len([delay_s for delay_s in draws if 0.07 < delay_s < 0.85]) <= DRAWS / 60


@pytest.mark.parametrize("delays_s", [[], [0.25]])
def test_where_little_is_known_draws_are_spread_around_it(delays_s: list[float]) -> None:
    draws = drawn(filled(delays_s))
    assert sorted(draws)[DRAWS // 2] == pytest.approx(FIRST_S, rel=0.1)
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

"""What scores come to, who was to judge, and what becomes of a node."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.upgrades import UPGRADES
from planetserve.scoring import VERSION
from planetserve.scoring.credit import (
    Score,
    agreed_credit,
    is_alarming,
    quorum_ppm,
    reaches_quorum,
    weighted_median,
)
from planetserve.scoring.judgement import chance_ppm, judge_epoch
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import (
    ALARMED,
    KEPT,
    SMOOTHED,
    Reputation,
    alarmed,
    kept,
    updated,
)

MILLION = 1_000_000
PARAMETERS = Parameters()
GOOD = Reputation(900_000, (900_000,) * 5, admitted=True)


def scores_of(*scores_ppm: int) -> list[Score]:
    """One prober of power 10 each."""
    return [Score(bytes([n]), 10, score, 1, b"") for n, score in enumerate(scores_ppm)]


@given(st.lists(st.tuples(st.integers(0, 1_000_000), st.integers(1, 50)), min_size=1, max_size=9))
def test_median_halves_the_weight(scores: list[tuple[int, int]]) -> None:
    median = weighted_median(scores)
    total = sum(weight for _, weight in scores)
    below = sum(weight for score, weight in scores if score < median)
    upto = sum(weight for score, weight in scores if score <= median)
    assert Fraction(below, total) < Fraction(1, 2) <= Fraction(upto, total)
    assert median == weighted_median(scores[::-1])


@given(
    st.lists(st.tuples(st.integers(600_000, 700_000), st.integers(1, 50)), min_size=1, max_size=8),
    st.data(),
)
def test_less_than_a_third_moves_the_median_only_among_honest_scores(
    honest: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Even when, of the honest, only the quorum's share has revealed: with f liars of power
    below 1/3 and a quorum of 2/3 of all, the honest part of what was revealed exceeds half."""
    power = sum(weight for _, weight in honest)
    lies = data.draw(st.lists(st.tuples(st.integers(0, MILLION), st.integers(1, 50)), max_size=5))
    while lies and sum(weight for _, weight in lies) >= power:
        lies.pop()
    median = weighted_median([*honest, *lies])
    scores = [score for score, _ in honest]
    assert min(scores) <= median <= max(scores)


@given(
    st.lists(st.integers(0, 30), max_size=6),
    st.integers(1, 200),
    st.integers(1, MILLION) | st.just(MILLION),
    st.integers(500_000, MILLION),
)
def test_the_quorum_is_a_share_of_the_power_that_was_to_judge(
    powers: list[int], rest: int, chance: int, quorum: int
) -> None:
    scores = [Score(bytes([n]), power, 500_000, 1, b"") for n, power in enumerate(powers)]
    total = sum(powers) + rest
    share = quorum if chance == MILLION else MILLION // 2
    needed = Fraction(share, MILLION) * Fraction(chance, MILLION) * total
    reached = sum(powers) >= needed and sum(powers) > 0
    # All scores equal R, so that less than the quorum decides nothing.
    credit = agreed_credit(scores, total, chance, 500_000, Parameters(quorum_ppm=quorum))
    assert (credit is not None) == reached


@pytest.mark.parametrize(
    ("revealed", "credit"),
    [
        ([(100_000, 30), (200_000, 21)], 200_000),
        ([(100_000, 30), (200_000, 20)], None),
        ([(900_000, 51)], 900_000),
        ([(700_000, 40), (900_000, 15)], 700_000),
        ([(100_000, 33), (900_000, 33)], None),
        ([(500_000, 20), (100_000, 40)], None),
        ([(100_000, 33), (900_000, 34)], 900_000),
    ],
)
def test_without_quorum_more_than_half_of_all_power_decides(
    revealed: list[tuple[int, int]], credit: int | None
) -> None:
    """As if all of the missing had spoken for R, here .5; the last row has the quorum."""
    scores = [Score(bytes([n]), power, s, 1, b"") for n, (s, power) in enumerate(revealed)]
    assert agreed_credit(scores, 100, MILLION, 500_000, Parameters()) == credit


@given(
    st.lists(st.integers(0, 30), max_size=6),
    st.integers(1, 200),
    st.sampled_from([80_000, 500_000, MILLION]),
)
def test_a_sample_needs_half_of_its_expected_power(
    powers: list[int], total: int, chance: int
) -> None:
    scores = [Score(bytes([n]), power, 500_000, 1, b"") for n, power in enumerate(powers)]
    share = 666_667 if chance == MILLION else 500_000
    assert quorum_ppm(chance, PARAMETERS) == share
    due = Fraction(share * chance * total, MILLION**2)
    reached = sum(powers) > 0 and sum(powers) >= due
    assert reaches_quorum(scores, total, chance, PARAMETERS) == reached


def test_a_median_needs_scores() -> None:
    with pytest.raises(ValueError, match="at least one"):
        weighted_median([])
    assert not is_alarming([], PARAMETERS)


@pytest.mark.parametrize(
    "reputation",
    [
        replace(GOOD, admitted=False),
        replace(GOOD, trusted=False),
        replace(GOOD, alarm=1),
        replace(GOOD, ppm=599_999),
    ],
)
def test_everyone_judges_a_node_of_which_much_is_at_stake(reputation: Reputation) -> None:
    assert chance_ppm(reputation, 600_000, 80_000) == MILLION


def test_a_sample_judges_a_node_in_good_standing() -> None:
    assert chance_ppm(GOOD, 600_000, 80_000) == 80_000
    assert chance_ppm(replace(GOOD, ppm=600_000), 600_000, 80_000) == 80_000


@pytest.mark.parametrize(
    ("scores", "sample_ppm", "credit", "reason"),
    [
        ([800_000] * 4, MILLION, 800_000, SMOOTHED),
        ([800_000], MILLION, None, KEPT),
        ([800_000], 250_000, 800_000, SMOOTHED),
        ([499_999], 250_000, 499_999, ALARMED),
        ([499_999] * 4, MILLION, 499_999, SMOOTHED),
        ([100_000], 750_000, None, ALARMED),
    ],
)
def test_an_epoch_is_judged_by_who_was_drawn_for_it(
    scores: list[int], sample_ppm: int, credit: int | None, reason: str
) -> None:
    judgement = judge_epoch(GOOD, scores_of(*scores), 40, sample_ppm, PARAMETERS)
    assert (judgement.chance_ppm, judgement.credit_ppm) == (sample_ppm, credit)
    assert judgement.update.reason == reason
    if reason == ALARMED:
        assert judgement.update == alarmed(GOOD, PARAMETERS)
    elif credit is None:
        assert judgement.update == kept(GOOD, PARAMETERS)
    else:
        assert judgement.update == updated(GOOD, credit, PARAMETERS)


def test_no_scores_decide_nothing() -> None:
    for sample_ppm in (250_000, MILLION):
        assert judge_epoch(GOOD, [], 40, sample_ppm, PARAMETERS).update.reason == KEPT


def test_the_newest_rules_are_those_that_readers_know() -> None:
    assert max(UPGRADES) == VERSION

"""The reputation rule against the paper's figures and against fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.parameters import Parameters
from abci_app.core.reputation import (
    PUNISHED,
    SMOOTHED,
    Reputation,
    initial_reputation,
    is_trusted,
    punished_ppm,
    updated,
)

PPM = st.integers(0, 1_000_000)
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("tolerance_ppm", "expected"),
    [
        (1_000_000, [380, 332, 313, 305, 302]),
        (200_000, [350, 246, 180, 139, 112]),
    ],
)
def test_reference_values_of_a_node_with_credit_03(tolerance_ppm: int, expected: list[int]) -> None:
    """The reference's evaluation divides c by the epochs seen so far, we by W; its values are
    those of each step once the same branch is taken."""
    parameters = Parameters(tolerance_ppm=tolerance_ppm)
    reputation = initial_reputation(parameters)
    for epoch, thousandths in enumerate(expected, start=1):
        if tolerance_ppm < MILLION:
            ppm = punished_ppm(reputation.ppm, 300_000, epoch, parameters)
            reputation = Reputation(ppm, (*reputation.window_ppm, 300_000))
        else:
            update = updated(reputation, 300_000, parameters)
            assert update.reason == SMOOTHED
            reputation = update.reputation
        # The published figures are rounded to three digits.
        assert abs(reputation.ppm - thousandths * 1_000) <= 501


def test_punishment_needs_more_than_the_tolerated_share() -> None:
    """One abnormal epoch of five is 1/5, which is not more than gamma = 1/5."""
    parameters = Parameters()
    first = updated(Reputation(500_000), 300_000, parameters)
    assert (first.abnormal, first.reason, first.reputation.ppm) == (1, SMOOTHED, 380_000)
    second = updated(first.reputation, 300_000, parameters)
    assert (second.abnormal, second.reason) == (2, PUNISHED)
    assert second.reputation.ppm == 257_882  # .152 + 1.8 / 17
    assert is_trusted(first.reputation, parameters)
    assert not is_trusted(second.reputation, parameters)


def test_an_honest_node_approaches_its_credit() -> None:
    reputation = initial_reputation(Parameters())
    for _ in range(5):
        reputation = updated(reputation, 600_000, Parameters()).reputation
    assert reputation.ppm // 1_000 == 598


def test_the_way_back() -> None:
    """An untrusted node that answers honestly is trusted again once its window is clean."""
    parameters = Parameters()
    reputation = Reputation(100_000, (200_000,) * 5)
    epochs = 0
    while not is_trusted(reputation, parameters):
        reputation = updated(reputation, 700_000, parameters).reputation
        epochs += 1
    assert 2 <= epochs <= 5


@given(PPM, st.lists(PPM, max_size=8), PPM, st.integers(1, MILLION), st.integers(1, 9), PPM)
def test_equals_the_formula_in_fractions_rounded_down_once(
    ppm: int, window: list[int], credit: int, gamma: int, epochs: int, smoothing: int
) -> None:
    parameters = Parameters(tolerance_ppm=gamma, window_epochs=epochs, smoothing_ppm=smoothing)
    before = Reputation(ppm, tuple(window[-epochs:]))
    update = updated(before, credit, parameters)
    kept = (*before.window_ppm, credit)[-epochs:]
    abnormal = sum(Fraction(c, MILLION) < Fraction(4, 10) for c in kept)
    share, weight = Fraction(gamma, MILLION), Fraction(smoothing, MILLION)
    if Fraction(abnormal, epochs) > share:
        gain = Fraction(credit * (epochs + 1)) / (epochs + Fraction(abnormal) / share + 2)
        exact = weight * ppm + gain
    else:
        exact = weight * ppm + (1 - weight) * credit
    assert update.reputation.ppm == min(int(exact), MILLION)
    assert update.reputation.window_ppm == kept
    assert update.abnormal == abnormal

"""The reputation rules against the paper's figures and against fractions."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import (
    ADMITTED,
    ALARMED,
    KEPT,
    LOST_CUSUM,
    LOST_REPUTATION,
    PUNISHED,
    REGAINED,
    SMOOTHED,
    Reputation,
    Update,
    alarmed,
    convicted,
    cusum_after,
    initial_reputation,
    kept,
    punished_ppm,
    reputation_from,
    rotated,
    updated,
    with_another_model,
)

PPM = st.integers(0, 1_000_000)
MILLION = 1_000_000
PARAMETERS = Parameters()
IN_GOOD_STANDING = Reputation(900_000, (900_000,) * 5, admitted=True)


def after(before: Reputation, *credits_ppm: int) -> Update:
    """The update that the last of `credits_ppm` brings."""
    update = kept(before, PARAMETERS)
    for credit in credits_ppm:
        update = updated(update.reputation, credit, PARAMETERS)
    return update


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
    before = Reputation(500_000, admitted=True)
    first = updated(before, 300_000, PARAMETERS)
    assert (first.abnormal, first.reason, first.reputation.ppm) == (1, SMOOTHED, 380_000)
    assert first.reputation.trusted
    second = updated(first.reputation, 300_000, PARAMETERS)
    assert (second.abnormal, second.reason) == (2, PUNISHED)
    assert second.reputation.ppm == 257_882  # .152 + 1.8 / 17
    assert (second.reputation.trusted, second.verdict) == (False, LOST_REPUTATION)


def test_an_honest_node_approaches_its_credit() -> None:
    reputation = initial_reputation(PARAMETERS)
    for _ in range(5):
        reputation = updated(reputation, 600_000, PARAMETERS).reputation
    assert reputation.ppm // 1_000 == 598


@given(PPM, st.lists(PPM, max_size=8), PPM, st.integers(1, MILLION), st.integers(1, 9), PPM)
def test_equals_the_formula_in_fractions_rounded_down_once(
    ppm: int, window: list[int], credit: int, gamma: int, epochs: int, smoothing: int
) -> None:
    parameters = Parameters(tolerance_ppm=gamma, window_epochs=epochs, smoothing_ppm=smoothing)
    before = Reputation(ppm, tuple(window[-epochs:]))
    update = updated(before, credit, parameters)
    seen = (*before.window_ppm, credit)[-epochs:]
    abnormal = sum(Fraction(c, MILLION) < Fraction(4, 10) for c in seen)
    share, weight = Fraction(gamma, MILLION), Fraction(smoothing, MILLION)
    if Fraction(abnormal, epochs) > share:
        gain = Fraction(credit * (epochs + 1)) / (epochs + Fraction(abnormal) / share + 2)
        exact = weight * ppm + gain
    else:
        exact = weight * ppm + (1 - weight) * credit
    assert update.reputation.ppm == min(int(exact), MILLION)
    assert update.reputation.window_ppm == seen
    assert update.abnormal == abnormal


@given(st.integers(0, 5 * MILLION), PPM)
def test_the_cusum_is_page_s_with_clipped_forgiveness(before: int, credit: int) -> None:
    limit, drop = Fraction(1, 2), Fraction(1, 20)
    step = max(limit - Fraction(credit, MILLION), -drop)
    exact = max(Fraction(0), Fraction(before, MILLION) + step)
    assert Fraction(cusum_after(before, credit, PARAMETERS), MILLION) == exact


@pytest.mark.parametrize(("bad_ppm", "within"), [(0, 15), (100_000, 20), (200_000, 50)])
def test_one_bad_epoch_in_five_is_caught(bad_ppm: int, within: int) -> None:
    """The paper's rule alone forgives such a node for good: its window never holds two abnormal
    epochs. How soon the CUSUM ends it depends on how bad the bad epochs are."""
    reputation = IN_GOOD_STANDING
    for epoch in range(1, within + 1):
        credit = bad_ppm if epoch % 5 == 0 else 900_000
        update = updated(reputation, credit, PARAMETERS)
        assert update.reason == SMOOTHED
        assert update.reputation.ppm >= PARAMETERS.untrusted_below_ppm
        reputation = update.reputation
        if not reputation.trusted:
            break
    assert (update.verdict, reputation.trusted) == (LOST_CUSUM, False)


@pytest.mark.parametrize("phase", range(5))
def test_it_is_caught_in_any_phase(phase: int) -> None:
    reputation = IN_GOOD_STANDING
    lost = None
    for epoch in range(25):
        reputation = after(reputation, 0 if epoch % 5 == phase else 900_000).reputation
        if lost is None and not reputation.trusted:
            lost = epoch
    assert lost is not None
    assert lost <= 15


@given(st.lists(st.integers(500_000, MILLION), min_size=1, max_size=300))
def test_credits_from_the_reference_value_up_never_raise_the_cusum(credits: list[int]) -> None:
    reputation = IN_GOOD_STANDING
    for credit in credits:
        update = updated(reputation, credit, PARAMETERS)
        reputation = update.reputation
        assert (reputation.cusum_ppm, reputation.trusted, update.verdict) == (0, True, "")


@given(st.lists(st.sampled_from([450_000, 620_000, 700_000, 800_000]), max_size=300), st.data())
def test_the_noise_of_an_honest_node_never_ends_its_trust(
    credits: list[int], data: st.DataObject
) -> None:
    """Even with a dip below the reference value before every good epoch."""
    reputation = IN_GOOD_STANDING
    last = MILLION
    for drawn in credits:
        credit = 700_000 if last < 500_000 and drawn < 500_000 else drawn
        reputation = updated(reputation, credit, PARAMETERS).reputation
        assert reputation.trusted
        last = credit


def test_a_node_is_trusted_once_its_admission_probes_pass() -> None:
    parameters = replace(PARAMETERS, admission_epochs=3)
    reputation = initial_reputation(parameters)
    assert not reputation.admitted
    verdicts = []
    for credit in (700_000, 700_000, 499_999, 500_000, 700_000, 700_000):
        update = updated(reputation, credit, parameters)
        reputation = update.reputation
        verdicts.append((update.verdict, reputation.admitted))
    assert verdicts == [("", False)] * 5 + [(ADMITTED, True)]
    assert reputation.streak == 0


def test_genesis_vouches_for_its_nodes() -> None:
    assert initial_reputation(PARAMETERS, admitted=True).admitted


def test_the_way_back_takes_both_reputation_and_probation() -> None:
    lost = after(IN_GOOD_STANDING, 100_000, 100_000, 100_000)
    assert not lost.reputation.trusted
    reputation, history = lost.reputation, []
    for _ in range(8):
        update = updated(reputation, 700_000, PARAMETERS)
        reputation = update.reputation
        history.append((update.verdict, reputation.trusted, reputation.streak))
    back = history.index((REGAINED, True, 0))
    assert back + 1 >= PARAMETERS.probation_epochs
    assert reputation.ppm >= PARAMETERS.trusted_from_ppm
    assert all(not trusted for _, trusted, _ in history[:back])


def test_one_abnormal_epoch_starts_probation_anew() -> None:
    reputation = Reputation(490_000, (700_000,) * 5, trusted=False, admitted=True, streak=4)
    assert after(reputation, 700_000).verdict == REGAINED
    assert after(reputation, 399_999).reputation.streak == 0
    assert after(reputation, 399_999, *[700_000] * 4).verdict == ""
    assert after(reputation, 399_999, *[700_000] * 5).verdict == REGAINED


def test_probation_alone_is_not_enough() -> None:
    reputation = Reputation(400_000, (450_000,) * 5, trusted=False, admitted=True, streak=40)
    update = after(reputation, 450_000)
    assert (update.reputation.trusted, update.reputation.streak) == (False, 41)


def test_one_who_is_back_has_half_of_the_limit_on_record() -> None:
    limit = PARAMETERS.cusum_limit_ppm
    reputation = Reputation(
        700_000, (700_000,) * 5, cusum_ppm=3 * limit, trusted=False, admitted=True, streak=4
    )
    back = after(reputation, 700_000)
    assert (back.verdict, back.reputation.cusum_ppm) == (REGAINED, limit // 2)
    again = replace(back.reputation, ppm=900_000, window_ppm=(900_000,) * 5)
    assert after(again, 0).verdict == LOST_CUSUM


def test_a_conviction_takes_everything_and_the_way_back_doubles() -> None:
    before = Reputation(900_000, (900_000,) * 5, 200_000, True, True, 7, 1, (bytes(20), 3), 1)
    once = convicted(before, PARAMETERS)
    assert once == replace(
        before, ppm=0, trusted=False, streak=0, cusum_ppm=1_000_000, alarm=8, convictions=2
    )
    assert convicted(replace(before, cusum_ppm=3 * MILLION), PARAMETERS).cusum_ppm == 3 * MILLION
    verdicts = [after(once, *[900_000] * epochs).verdict for epochs in range(1, 21)]
    assert verdicts == [*[""] * 19, REGAINED]


def test_everyone_judges_a_node_under_a_new_key() -> None:
    assert rotated(IN_GOOD_STANDING, PARAMETERS) == replace(IN_GOOD_STANDING, alarm=8)
    under_alarm = replace(IN_GOOD_STANDING, alarm=9)
    assert rotated(under_alarm, PARAMETERS) == under_alarm


def test_another_model_passes_the_probes_anew_from_the_next_epoch_on() -> None:
    changed = with_another_model(IN_GOOD_STANDING)
    assert changed == replace(IN_GOOD_STANDING, admitted=False, streak=-1)
    assert [after(changed, *[900_000] * n).verdict for n in (1, 2)] == ["", ADMITTED]


def test_the_status_says_what_the_conduct_comes_to() -> None:
    words = [
        Reputation(0, trusted=trusted, admitted=admitted).status
        for admitted in (False, True)
        for trusted in (False, True)
    ]
    assert words == [CANDIDATE, CANDIDATE, UNTRUSTED, TRUSTED]


def test_an_epoch_without_quorum_changes_nothing() -> None:
    before = Reputation(700_000, (100_000, 900_000), 30_000, True, True, 2, alarm=3)
    update = kept(before, PARAMETERS)
    assert (update.reputation, update.abnormal, update.reason) == (before, 1, KEPT)


def test_a_sample_s_alarm_is_no_judgement() -> None:
    before = IN_GOOD_STANDING
    update = alarmed(before, PARAMETERS)
    assert (update.reputation, update.reason) == (replace(before, alarm=8), ALARMED)


def test_an_alarm_ends_with_as_many_good_epochs() -> None:
    reputation = alarmed(IN_GOOD_STANDING, PARAMETERS).reputation
    assert after(reputation, *[900_000] * 7).reputation.alarm == 1
    assert after(reputation, *[900_000] * 8).reputation.alarm == 0
    assert after(reputation, *[900_000] * 7, 499_999).reputation.alarm == 8
    assert after(IN_GOOD_STANDING, 499_999).reputation.alarm == 8


@given(
    st.builds(
        Reputation,
        PPM,
        st.lists(PPM, max_size=5).map(tuple),
        st.integers(0, 10 * MILLION),
        st.booleans(),
        st.booleans(),
        st.integers(0, 100),
        st.integers(0, 100),
        st.none() | st.tuples(st.binary(min_size=20, max_size=20), st.integers(0, 99)),
    )
)
def test_a_reputation_survives_its_record(reputation: Reputation) -> None:
    assert reputation_from(reputation.to_wire()) == reputation


@given(st.lists(st.sampled_from([0, 300_000, 399_999, 400_000, 500_000, 900_000]), max_size=60))
def test_who_is_trusted_passes_both_limits(credits: list[int]) -> None:
    reputation = initial_reputation(PARAMETERS)
    for credit in credits:
        before = reputation
        reputation = updated(reputation, credit, PARAMETERS).reputation
        if before.admitted:
            assert reputation.admitted
        if reputation.admitted and reputation.trusted:
            assert reputation.ppm >= PARAMETERS.untrusted_below_ppm
            assert reputation.cusum_ppm < PARAMETERS.cusum_limit_ppm

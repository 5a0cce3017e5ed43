"""The reader's copy of the ledger's rule, held against the ledger's own."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core import reputation as reference
from abci_app.core import settlement
from abci_app.core.codes import MEANINGS
from abci_app.core.genesis import FIRST_VERSION
from abci_app.core.parameters import LIMITS, Parameters
from abci_app.core.reputation import Reputation
from abci_app.core.routes import standing as status_of
from abci_app.core.state import EMPTY, View
from planetserve.ledger_cli import codes, rule
from planetserve.ledger_cli.rule import Score, Standing

PPM = st.integers(0, 1_000_000)
CHANCES = st.sampled_from([1_000_000, 1_000_000, 80_000, 500_000])
RULED = [
    name
    for name in (field.name for field in fields(Parameters))
    if name.endswith(("_ppm", "_epochs"))
]


@st.composite
def parameters(draw: st.DrawFn) -> Parameters:
    values = {}
    for name in RULED:
        low, high = LIMITS[name]
        values[name] = draw(st.integers(low, min(high, 2_000_000 if "ppm" in name else 8)))
    return Parameters(**values)


@st.composite
def reputations(draw: st.DrawFn) -> Reputation:
    return Reputation(
        ppm=draw(PPM),
        window_ppm=tuple(draw(st.lists(PPM, max_size=9))),
        cusum_ppm=draw(st.integers(0, 3_000_000)),
        trusted=draw(st.booleans()),
        admitted=draw(st.booleans()),
        streak=draw(st.integers(-1, 20)),
        alarm=draw(st.integers(0, 8)),
        convictions=draw(st.integers(0, 2)),
    )


def scores() -> st.SearchStrategy[list[Score]]:
    score = st.builds(
        Score,
        st.binary(min_size=20, max_size=20),
        st.integers(0, 50),
        PPM,
        st.just(3),
        st.just(b""),
    )
    return st.lists(score, min_size=1, max_size=7)


def as_standing(reputation: Reputation) -> Standing:
    return Standing(
        ppm=reputation.ppm,
        window_ppm=reputation.window_ppm,
        whole=True,
        cusum_ppm=reputation.cusum_ppm,
        admitted=reputation.admitted,
        trusted=reputation.trusted,
        streak=reputation.streak,
        alarm=reputation.alarm,
        convictions=reputation.convictions,
    )


@given(reputations(), scores(), st.integers(1, 400), CHANCES, parameters())
def test_one_epoch_comes_out_as_on_the_ledger(
    before: Reputation, found: list[Score], total_power: int, chance: int, numbers: Parameters
) -> None:
    ledgers = [settlement.Score(s.prober, s.power, s.score_ppm, s.samples, s.digest) for s in found]
    credit = settlement.agreed_credit(ledgers, total_power, chance, before.ppm, numbers)
    if chance < 1_000_000 and settlement.is_alarming(ledgers, numbers):
        update = reference.alarmed(before, numbers)
    elif credit is None:
        update = reference.kept(before, numbers)
    else:
        update = reference.updated(before, credit, numbers)

    values = numbers.to_wire()
    shown = rule.credit_of(found, total_power, chance, before.ppm, values)
    outcome = rule.settle(as_standing(before), found, shown, chance, values, update.abnormal)
    assert shown == credit
    assert outcome.after == as_standing(update.reputation)
    assert (outcome.abnormal, outcome.reason) == (update.abnormal, update.reason)
    assert outcome.verdict == update.verdict
    assert outcome.after.status == status_of(update.reputation)


@given(reputations(), PPM, parameters())
def test_with_part_of_the_window_the_recorded_count_is_used(
    before: Reputation, credit: int, numbers: Parameters
) -> None:
    update = reference.updated(before, credit, numbers)
    unknown = Standing(
        ppm=before.ppm,
        window_ppm=(),
        whole=False,
        cusum_ppm=before.cusum_ppm,
        admitted=before.admitted,
        trusted=before.trusted,
        streak=before.streak,
        alarm=None,
        convictions=before.convictions,
    )
    score = Score(bytes(20), 1, credit, 1, b"")
    outcome = rule.settle(unknown, [score], credit, 1_000_000, numbers.to_wire(), update.abnormal)
    assert outcome.after.ppm == update.reputation.ppm
    assert outcome.abnormal is None or numbers.window_epochs == 1


@given(reputations(), parameters(), st.integers(1, 400), st.lists(PPM, min_size=1))
def test_what_happens_between_epochs_comes_out_as_on_the_ledger(
    before: Reputation, numbers: Parameters, power: int, credits: list[int]
) -> None:
    view = View(EMPTY)
    reference.save_reputation(view, bytes(20), before)
    reference.convict(view, bytes(20), numbers)
    convicted = reference.load_reputation(view, bytes(20))
    assert convicted is not None
    values = numbers.to_wire()
    assert rule.convicted(as_standing(before), values) == as_standing(convicted)
    other = reference.with_another_model(before)
    assert rule.with_another_model(as_standing(before)) == as_standing(other)
    # The way back is as long as on the ledger.
    standing, update = as_standing(convicted), reference.Update(convicted, 0, "")
    for credit in credits * 8:
        update = reference.updated(update.reputation, credit, numbers)
        score = Score(bytes(20), power, credit, 1, b"")
        outcome = rule.settle(standing, [score], credit, 1_000_000, values, update.abnormal)
        standing = outcome.after
        assert standing == as_standing(update.reputation)


@given(scores(), st.integers(1, 400), st.sampled_from([80_000, 500_000, 1_000_000]), parameters())
def test_a_sample_needs_half_of_its_expected_power(
    found: list[Score], total_power: int, chance: int, numbers: Parameters
) -> None:
    revealed, due = sum(score.power for score in found), total_power * chance
    quorum = numbers.quorum_ppm if chance == 1_000_000 else 500_000
    reached = revealed > 0 and revealed * 10**12 >= quorum * due
    assert rule.reveals_enough(found, total_power, chance, numbers.to_wire()) == reached
    assert settlement.SAMPLE_QUORUM_PPM == rule.SAMPLE_QUORUM_PPM
    assert reference.MAX_DOUBLINGS == rule.MAX_DOUBLINGS


def test_words_and_version_are_the_ledgers() -> None:
    assert (rule.KEPT, rule.ALARMED, rule.SMOOTHED, rule.PUNISHED) == reference.REASONS
    assert (
        "",
        rule.ADMITTED,
        rule.LOST_REPUTATION,
        rule.LOST_CUSUM,
        rule.REGAINED,
    ) == reference.VERDICTS
    assert rule.VERSION == FIRST_VERSION


def test_every_result_code_of_a_transaction_is_explained() -> None:
    assert {int(code): text for code, text in MEANINGS.items() if code < 70} == codes.MEANINGS
    assert codes.meaning(999) == "a code of a newer version"


def test_a_median_needs_scores() -> None:
    with pytest.raises(ValueError, match="at least one"):
        rule.median([])

"""Real relays that die and return while questions are asked."""

from __future__ import annotations

from bench import churn


def test_every_question_is_answered_whole_while_relays_die_and_return() -> None:
    outcome, _ = churn.figures(requests=80, seconds=40.0)
    assert outcome.killed >= 3
    assert (outcome.whole, outcome.failures) == (80, [])

"""Colluding relays against askers: what their logs give away, beside the paper's formulas."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from math import sqrt
from random import Random

import pytest

from tests.adversary.anonymity import (
    FRACTIONS,
    Question,
    ask_questions,
    chances_of_askers,
    confidentiality,
    measure,
    paper_anonymity,
    table,
)

NODES = 500
QUESTIONS = 1_000
ERROR = 4 / (2 * sqrt(QUESTIONS))
"""Four standard errors of a share of the questions."""


@lru_cache(maxsize=1)
def logs() -> list[Question]:
    return ask_questions(NODES, QUESTIONS, seed=1)


def test_the_formulas_are_the_papers() -> None:
    """Its figures for N = 10,000, f = .1 and paths of four relays, and for one path of five."""
    assert round(paper_anonymity(0.1, 10_000, hops=4), 3) == 0.929
    assert round(paper_anonymity(0.1, 10_000, paths=1, hops=5), 3) == 0.911
    assert round(confidentiality(1 - 0.9**4), 3) == 0.879
    assert round(confidentiality(1 - 0.9**3), 3) == 0.937


def test_logs_agree_with_the_formulas_and_say_more_to_who_knows_the_protocol() -> None:
    rows = [measure(logs(), NODES, f, seed=2) for f in FRACTIONS]
    print(f"{QUESTIONS} questions, {NODES} nodes, 4 paths of 3 relays, seeds 1 and 2")
    print(table(rows))
    for row in rows:
        # Which nodes collude is one draw for all questions, so that these errors are a bit wide.
        assert row.anonymity_paper_logs == pytest.approx(row.anonymity_paper, abs=ERROR)
        assert row.confidentiality_paper_logs == pytest.approx(
            row.confidentiality_paper, abs=2 * ERROR
        )
        assert row.cloves_below_k == pytest.approx(row.cloves_below_k_formula, abs=ERROR)
        assert row.anonymity < row.anonymity_paper_logs
        assert row.cloves_below_k >= row.confidentiality_paper_logs
    assert [row.anonymity for row in rows] == sorted((r.anonymity for r in rows), reverse=True)


@pytest.mark.parametrize("f", [0.05, 0.1, 0.3])
def test_the_second_adversary_is_as_often_right_as_it_thinks(f: float) -> None:
    """So its entropy is that of the truth: it neither misses nor imagines anything."""
    rng = Random(3)
    named: Counter[float] = Counter()
    right: Counter[float] = Counter()
    for _ in range(5):
        colluders = {n.to_bytes(20, "big") for n in rng.sample(range(1, NODES + 1), int(f * NODES))}
        for question in logs():
            if question.asker in colluders:
                continue
            seen = [[p for p in path if p.relay in colluders] for path in question.paths]
            for suspect, chance in chances_of_askers(seen).items():
                named[chance] += 1
                right[chance] += suspect == question.asker
    assert right[1.0] == named[1.0] > 0
    for chance, times in named.items():
        if times >= 100:
            error = 4 * sqrt(chance * (1 - chance) / times)
            assert right[chance] / times == pytest.approx(chance, abs=error + 1e-9)

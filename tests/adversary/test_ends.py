"""End-to-end timing by relays of one party: how often they are at both ends of a path, measured
with the product's own choice and compared with the formula; what guards are worth over rebuilds."""

from __future__ import annotations

from math import sqrt

import pytest

from tests.adversary.ends import measure, once, rebuilt, table, with_guards

CLIENTS = 80


def test_both_ends_are_met_as_often_as_the_formula_says_and_guards_stop_the_growth() -> None:
    rows = measure(CLIENTS, seed=1)
    print(f"{CLIENTS} clients, seed 1")
    print(table(rows))
    for row in rows:
        for found, formula in ((row.first_set, once(row.f)), (row.fresh, rebuilt(row.f))):
            error = 4 * sqrt(formula * (1 - formula) / CLIENTS)
            assert found == pytest.approx(formula, abs=error)
        most = with_guards(row.f)
        assert row.kept <= most + 4 * sqrt(most * (1 - most) / CLIENTS)
        assert row.kept < row.fresh

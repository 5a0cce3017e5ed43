"""The order in which choices of cloves are tried."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.choices import Choices


def tries(n: int, k: int, bad: frozenset[int]) -> list[frozenset[int]]:
    """All choices up to the one that has none of `bad`, or until there are no more."""
    choices = Choices(k)
    for index in range(n):
        choices.add(index)
    tried: list[frozenset[int]] = []
    while (choice := choices.best()) is not None:
        assert len(choice) == k
        assert choice not in tried
        tried.append(choice)
        if not choice & bad:
            break
        choices.failed(choice)
    return tried


@pytest.mark.parametrize("n", range(2, 17))
def test_one_is_avoided_within_k_plus_one_tries_and_within_two_where_two_k_are_there(
    n: int,
) -> None:
    for k in range(1, n):
        most = max(len(tries(n, k, frozenset({bad}))) for bad in range(n))
        assert most <= (2 if n >= 2 * k else k + 1) <= n


@pytest.mark.parametrize(("n", "k"), [(5, 3), (6, 4), (8, 5), (10, 6), (16, 3), (16, 8), (16, 9)])
def test_two_are_avoided_within_twenty(n: int, k: int) -> None:
    bad = combinations(range(n), 2)
    assert max(len(tries(n, k, frozenset(two))) for two in bad) <= 20


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.data())
def test_whatever_is_bad_every_choice_that_may_be_good_is_made(
    threshold: tuple[int, int], data: st.DataObject
) -> None:
    n, k = threshold
    bad = data.draw(st.frozensets(st.integers(0, n - 1)))
    tried = tries(n, k, bad)
    assert tried[-1].isdisjoint(bad) == (len(bad) <= n - k)
    assert len(tried) <= comb(n, k)
    if len(bad) > n - k:
        assert len(tried) == comb(n, k)


def test_what_comes_later_is_chosen_too() -> None:
    choices = Choices(2)
    choices.add(4)
    assert choices.best() is None
    choices.add(1)
    first = choices.best()
    assert first == frozenset({1, 4})
    choices.failed(first)
    assert choices.best() is None
    choices.add(9)
    second = choices.best()
    assert second is not None
    assert 9 in second

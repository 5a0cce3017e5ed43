"""The order of transactions in a block."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.context import Window
from abci_app.core.ordering import Rank, Waiting, is_ordered, order, rank_of
from planetserve.transactions import COMMIT, ENDORSE, REVEAL

WAITING = st.lists(
    st.builds(
        Waiting,
        sender=st.sampled_from([b"a", b"b", b"c", b"d"]),
        nonce=st.integers(0, 6),
        rank=st.sampled_from(Rank),
    ),
    max_size=20,
)


def ordered(waiting: list[Waiting]) -> list[Waiting]:
    return [waiting[position] for position in order(waiting)]


@given(WAITING)
def test_ordering_loses_nothing_and_twice_is_once(waiting: list[Waiting]) -> None:
    once = ordered(waiting)
    assert sorted(order(waiting)) == list(range(len(waiting)))
    assert ordered(once) == once
    assert is_ordered(once)


@given(WAITING)
def test_every_key_keeps_the_order_of_its_nonces(waiting: list[Waiting]) -> None:
    nonces: defaultdict[bytes, list[int]] = defaultdict(list)
    for item in ordered(waiting):
        nonces[item.sender].append(item.nonce)
    assert all(found == sorted(found) for found in nonces.values())


@given(WAITING)
def test_nobody_waits_for_a_lower_rank_except_behind_its_own(waiting: list[Waiting]) -> None:
    behind: defaultdict[bytes, Rank] = defaultdict(lambda: Rank.DUE)
    effective = []
    for item in ordered(waiting):
        behind[item.sender] = max(behind[item.sender], item.rank)
        effective.append(behind[item.sender])
    assert effective == sorted(effective)


def test_the_order_of_arrival_stays_within_a_rank() -> None:
    waiting = [Waiting(bytes([sender]), 0, Rank.KNOWN) for sender in (5, 3, 9, 1)]
    assert ordered(waiting) == waiting


def test_a_reveal_behind_something_else_of_its_key_waits_with_it() -> None:
    first, second = Waiting(b"a", 0, Rank.VERIFIER), Waiting(b"a", 1, Rank.DUE)
    other = Waiting(b"b", 0, Rank.DUE)
    assert ordered([second, first, other]) == [other, first, second]


WINDOW = Window(epoch=0, start=1, commit_end=10, reveal_end=20, end=21)


@pytest.mark.parametrize(
    ("kind", "height", "rank"),
    [
        (COMMIT, 9, Rank.DUE),
        (REVEAL, 9, Rank.VERIFIER),
        (COMMIT, 10, Rank.VERIFIER),
        (REVEAL, 10, Rank.DUE),
        (REVEAL, 20, Rank.VERIFIER),
        (ENDORSE, 5, Rank.VERIFIER),
    ],
)
def test_what_an_epoch_asks_of_verifiers_comes_first(kind: str, height: int, rank: Rank) -> None:
    assert rank_of(kind, WINDOW, height, is_verifier=True, is_known=True) is rank
    assert rank_of(kind, WINDOW, height, is_verifier=False, is_known=True) is Rank.KNOWN
    assert rank_of(kind, WINDOW, height, is_verifier=False, is_known=False) is Rank.UNKNOWN

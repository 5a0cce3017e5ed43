"""The order of transactions in a block."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.context import Window
from abci_app.core.ordering import Rank, Standing, Waiting, is_ordered, order, rank_of
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
    effective = [rank for rank, _ in turns(ordered(waiting))]
    assert effective == sorted(effective)


def turns(waiting: list[Waiting]) -> list[tuple[Rank, int]]:
    """Of transactions in order: the rank at which each waits, and how many of its key go before
    it there."""
    behind: defaultdict[bytes, Rank] = defaultdict(lambda: Rank.DUE)
    taken: Counter[tuple[bytes, Rank]] = Counter()
    found = []
    for item in waiting:
        behind[item.sender] = rank = max(behind[item.sender], item.rank)
        found.append((rank, taken[item.sender, rank]))
        taken[item.sender, rank] += 1
    return found


@given(WAITING)
def test_within_a_rank_keys_take_turns(waiting: list[Waiting]) -> None:
    found = turns(ordered(waiting))
    assert found == sorted(found)


@given(WAITING, st.data())
def test_what_remains_when_a_keys_last_ones_are_left_out_is_in_order(
    waiting: list[Waiting], data: st.DataObject
) -> None:
    once = ordered(waiting)
    for sender in {item.sender for item in once}:
        kept = data.draw(st.integers(0, len(once)))
        own = [item for item in once if item.sender == sender]
        left_out = {id(item) for item in own[kept:]}
        once = [item for item in once if id(item) not in left_out]
    assert is_ordered(once)


def test_the_order_of_arrival_stays_within_a_turn() -> None:
    waiting = [Waiting(bytes([sender]), 0, Rank.KNOWN) for sender in (5, 3, 9, 1)]
    assert ordered(waiting) == waiting


def test_a_long_backlog_holds_up_nobody_else() -> None:
    backlog = [Waiting(b"a", nonce, Rank.KNOWN) for nonce in range(50)]
    other = Waiting(b"b", 7, Rank.KNOWN)
    assert ordered([*backlog, other])[:2] == [backlog[0], other]


def test_a_reveal_behind_something_else_of_its_key_waits_with_it() -> None:
    first, second = Waiting(b"a", 0, Rank.KNOWN), Waiting(b"a", 1, Rank.DUE)
    other = Waiting(b"b", 0, Rank.DUE)
    assert ordered([second, first, other]) == [other, first, second]


WINDOW = Window(epoch=0, start=1, commit_end=10, reveal_end=20, end=21)


@pytest.mark.parametrize(
    ("kind", "height", "rank"),
    [
        (COMMIT, 9, Rank.DUE),
        (REVEAL, 9, Rank.KNOWN),
        (COMMIT, 10, Rank.KNOWN),
        (REVEAL, 10, Rank.DUE),
        (REVEAL, 20, Rank.KNOWN),
        (ENDORSE, 5, Rank.KNOWN),
    ],
)
def test_what_an_epoch_asks_of_verifiers_comes_first(kind: str, height: int, rank: Rank) -> None:
    assert rank_of(kind, WINDOW, height, Standing.VERIFIER) is rank
    assert rank_of(kind, WINDOW, height, Standing.KNOWN) is Rank.KNOWN
    assert rank_of(kind, WINDOW, height, Standing.UNKNOWN) is Rank.UNKNOWN

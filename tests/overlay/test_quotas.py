from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.core.quotas import Buckets, Rate, Room, Shares

SLOW = Rate(2.0, 3)


def test_a_burst_and_then_the_rate() -> None:
    buckets: Buckets[str] = Buckets()
    assert [buckets.take("a", SLOW, 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [buckets.take("a", SLOW, 1.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", SLOW, 1.0)


@given(st.lists(st.floats(0, 60), max_size=300))
def test_no_more_than_burst_and_rate_pass(times: list[float]) -> None:
    buckets: Buckets[str] = Buckets()
    passed = sum(buckets.take("a", SLOW, now_s) for now_s in sorted(times))
    assert passed <= SLOW.burst + SLOW.per_s * 60
    assert passed >= min(len(times), SLOW.burst)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets: Buckets[str] = Buckets()
    for _ in range(3):
        assert buckets.take("a", SLOW, 100.0)
    assert not buckets.take("a", SLOW, 0.0)
    assert not buckets.take("a", SLOW, 0.1)


def test_full_buckets_are_forgotten_and_the_table_is_bounded() -> None:
    buckets: Buckets[int] = Buckets(max_neighbours=2)
    assert buckets.take(1, SLOW, 0.0)
    for _ in range(3):
        assert buckets.take(2, SLOW, 0.0)
    assert not buckets.take(3, SLOW, 0.0)
    buckets.tick(0.5)
    assert len(buckets) == 1
    assert buckets.take(3, SLOW, 0.5)
    buckets.tick(10.0)
    assert len(buckets) == 0


def test_a_share_bounds_a_neighbour() -> None:
    shares: Shares[str, int] = Shares(100)
    for item in range(5):
        assert shares.room("a", 5) == Room(True)
        shares.add("a", item)
    assert shares.room("a", 5) == Room(False)
    assert shares.room("b", 5) == Room(True)


def test_a_full_table_takes_from_who_has_most() -> None:
    shares: Shares[str, int] = Shares(8)
    for item in range(6):
        shares.add("greedy", item)
    shares.add("modest", 10)
    shares.add("modest", 11)
    assert shares.room("greedy", 100) == Room(False)
    assert shares.room("new", 100) == Room(True, "greedy")
    assert list(shares.newest("greedy")) == [5, 4, 3, 2, 1, 0]
    shares.remove("greedy", 5)
    shares.add("new", 20)
    assert shares.room("modest", 100) == Room(True, "greedy")


def test_one_neighbour_cannot_keep_others_out() -> None:
    """A flood takes what it can get, others ask now and then: they end with as many as it has."""
    shares: Shares[str, int] = Shares(64)
    number = 0
    for turn in range(400):
        for neighbour in ("flood", "flood", "flood", "a" if turn % 2 else "b"):
            room = shares.room(neighbour, 64)
            if not room.found:
                continue
            if room.instead_of is not None:
                shares.remove(room.instead_of, next(shares.newest(room.instead_of)))
            number += 1
            shares.add(neighbour, number)
    assert len(shares) == 64
    assert all(shares.count(neighbour) in (21, 22) for neighbour in ("flood", "a", "b"))


def test_what_is_renewed_is_the_oldest_no_more() -> None:
    shares: Shares[str, int] = Shares(8)
    for item in (1, 2, 3):
        shares.add("a", item)
    assert shares.oldest("a") == 1
    shares.renew("a", 1)
    assert shares.oldest("a") == 2
    shares.remove("a", 2)
    assert (shares.oldest("a"), list(shares.newest("a"))) == (3, [1, 3])
    with pytest.raises(KeyError):
        shares.oldest("b")
    with pytest.raises(KeyError):
        shares.renew("a", 2)


def test_our_own_mistakes_are_errors() -> None:
    shares: Shares[str, int] = Shares(8)
    shares.add("a", 1)
    with pytest.raises(ValueError, match="already"):
        shares.add("a", 1)
    with pytest.raises(KeyError):
        shares.remove("a", 2)
    with pytest.raises(KeyError):
        shares.remove("b", 1)
    assert len(shares) == 1


class SharesMachine(RuleBasedStateMachine):
    """`Shares` against a plain dictionary of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: Shares[int, int] = Shares(12)
        self.model: dict[int, list[int]] = {}
        self.number = 0

    @rule(neighbour=st.integers(0, 4), share=st.integers(1, 8))
    def ask(self, neighbour: int, share: int) -> None:
        room = self.shares.room(neighbour, share)
        own = len(self.model.get(neighbour, []))
        most = max(map(len, self.model.values()), default=0)
        total = sum(map(len, self.model.values()))
        assert room.found == (own < share and (total < 12 or most > own))
        if not room.found:
            return
        assert (room.instead_of is not None) == (total == 12)
        if room.instead_of is not None:
            loser = self.model[room.instead_of]
            assert len(loser) == most
            assert list(self.shares.newest(room.instead_of)) == loser[::-1]
            self.shares.remove(room.instead_of, loser.pop())
        self.number += 1
        self.shares.add(neighbour, self.number)
        self.model.setdefault(neighbour, []).append(self.number)

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        neighbour = data.draw(st.sampled_from([n for n, items in self.model.items() if items]))
        item = data.draw(st.sampled_from(self.model[neighbour]))
        self.shares.remove(neighbour, item)
        self.model[neighbour].remove(item)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.shares) == sum(map(len, self.model.values())) <= 12
        for neighbour, items in self.model.items():
            assert self.shares.count(neighbour) == len(items)


TestSharesMachine = SharesMachine.TestCase

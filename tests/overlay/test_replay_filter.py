from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.replay_filter import FILTER_BITS, ReplayFilter

SECRET = b"s" * 16


@given(st.lists(st.tuples(st.integers(9, 11), st.binary(min_size=32, max_size=32)), unique=True))
def test_what_was_taken_is_never_taken_again(setups: list[tuple[int, bytes]]) -> None:
    filter_ = ReplayFilter(SECRET, 10, bits=1 << 16)
    for period, ephemeral in setups:
        was_seen = filter_.seen(period, ephemeral)
        assert filter_.take(period, ephemeral) is not was_seen
    for period, ephemeral in setups:
        assert filter_.seen(period, ephemeral)
        assert not filter_.take(period, ephemeral)
        assert not filter_.take(period, ephemeral[:16])
    assert filter_.taken <= len(setups)


def test_periods_are_remembered_while_they_count() -> None:
    filter_ = ReplayFilter(SECRET, 10, bits=1 << 12)
    assert filter_.take(11, b"a" * 32)
    for now in (11, 12):
        filter_.advance(now)
        assert not filter_.take(11, b"a" * 32)
    assert [p for p in range(8, 16) if filter_.covers(p)] == [11, 12, 13]
    filter_.advance(13)
    assert not filter_.covers(11)
    assert filter_.taken == 0
    with pytest.raises(KeyError):
        filter_.take(11, b"a" * 32)


def test_a_clock_set_back_does_not_open_what_was_given_up() -> None:
    filter_ = ReplayFilter(SECRET, 10, bits=1 << 12)
    filter_.advance(20)
    assert filter_.take(20, b"a" * 32)
    filter_.advance(10)
    assert [p for p in range(8, 24) if filter_.covers(p)] == [19, 20, 21]
    assert not filter_.take(20, b"a" * 32)


@pytest.mark.parametrize(
    ("entries", "least", "most"), [(150_000, 0.0, 3e-4), (600_000, 0.04, 0.08)]
)
def test_false_refusals_are_as_rare_as_stated(entries: int, least: float, most: float) -> None:
    """On a filter a sixteenth as large with a sixteenth of the entries: the rate depends on
    their ratio alone."""
    rng = Random(entries)
    filter_ = ReplayFilter(SECRET, 10, bits=FILTER_BITS // 16)
    for _ in range(entries // 16):
        filter_.take(10, rng.randbytes(32))
    refused = sum(filter_.seen(10, rng.randbytes(32)) for _ in range(20_000))
    assert least <= refused / 20_000 <= most


def test_nobody_without_the_secret_can_tell_what_collides() -> None:
    ours = ReplayFilter(SECRET, 10, bits=1 << 12)
    theirs = ReplayFilter(b"t" * 16, 10, bits=1 << 12)
    rng = Random(1)
    for _ in range(5000):
        theirs.take(10, rng.randbytes(32))
    rng = Random(2)
    full = [e for e in (rng.randbytes(32) for _ in range(200)) if theirs.seen(10, e)]
    assert full
    assert all(ours.take(10, ephemeral) for ephemeral in full[:20])


@pytest.mark.parametrize(("secret", "bits"), [(b"short", 1 << 12), (SECRET, 1000), (SECRET, 4)])
def test_our_own_mistakes_are_value_errors(secret: bytes, bits: int) -> None:
    with pytest.raises(ValueError, match="filter"):
        ReplayFilter(secret, 10, bits)

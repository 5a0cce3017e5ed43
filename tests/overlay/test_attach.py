"""Only who made a request takes its answer up again, each time once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import attach
from overlay.core.attach import AttachError

KEYS = attach.derive(b"p" * 32)


@given(st.integers(0, 1 << 40), st.integers(0, (1 << 32) - 1), st.integers(0, attach.MAX_LOST))
def test_round_trip_although_some_were_lost(number: int, next_frame: int, lost: int) -> None:
    received = attach.decode(attach.encode(KEYS, number + lost, next_frame))
    assert (received.id, received.next_frame) == (KEYS.id, next_frame)
    assert attach.verify(KEYS, received, number) == number + lost + 1


def test_each_is_taken_once_and_none_before_it() -> None:
    received = [attach.decode(attach.encode(KEYS, number, 5)) for number in range(3)]
    expected = attach.verify(KEYS, received[1], 0)
    for old in received[:2]:
        with pytest.raises(AttachError):
            attach.verify(KEYS, old, expected)
    assert attach.verify(KEYS, received[2], expected) == 3


def test_one_beyond_those_that_may_be_lost_is_refused() -> None:
    received = attach.decode(attach.encode(KEYS, attach.MAX_LOST + 1, 5))
    with pytest.raises(AttachError):
        attach.verify(KEYS, received, 0)


@pytest.mark.parametrize("bit", range(8 * attach.ATTACH_BYTES))
def test_every_flipped_bit_is_refused(bit: int) -> None:
    damaged = bytearray(attach.encode(KEYS, 3, 77))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AttachError):
        attach.verify(KEYS, attach.decode(bytes(damaged)), 3)


@pytest.mark.parametrize("length", [*range(attach.ATTACH_BYTES), attach.ATTACH_BYTES + 1])
def test_every_other_length_is_refused(length: int) -> None:
    with pytest.raises(AttachError):
        attach.decode((attach.encode(KEYS, 0, 0) + b"!")[:length])


def test_two_cloves_have_nothing_in_common() -> None:
    other = attach.derive(b"q" * 32)
    assert other.id != KEYS.id
    with pytest.raises(AttachError):
        attach.verify(other, attach.decode(attach.encode(KEYS, 0, 0)), 0)

"""Only who made a request takes its answer up again, each time once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import attach
from overlay.core.attach import MAX_ATTACHES, AttachError, Verified

KEYS = attach.derive(b"p" * 32)
NUMBERS = range(MAX_ATTACHES)


@given(st.sampled_from(NUMBERS), st.integers(0, (1 << 32) - 1), st.sampled_from(NUMBERS))
def test_round_trip_although_some_were_lost(number: int, next_frame: int, expected: int) -> None:
    received = attach.decode(attach.encode(KEYS, number, next_frame))
    if expected <= number:
        assert attach.verify(KEYS, received, expected) == Verified(number, next_frame)
    else:
        with pytest.raises(AttachError):
            attach.verify(KEYS, received, expected)


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


def test_attaches_of_one_clove_and_of_two_have_nothing_in_common() -> None:
    other = attach.derive(b"q" * 32)
    streams = [attach.encode(keys, number, 5) for keys in (KEYS, other) for number in NUMBERS]
    pieces = [{s[i : i + 4] for i in range(2, len(s) - 3)} for s in streams]
    assert len(set.union(*pieces)) == sum(map(len, pieces))
    with pytest.raises(AttachError):
        attach.verify(other, attach.decode(streams[0]), 0)

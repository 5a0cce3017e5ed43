"""The layer of cells: what comes out, and that nothing but what was sealed comes out."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.layer import (
    MAX_CELLS,
    MAX_HOPS,
    PAYLOAD_BYTES,
    originate,
    peel,
    seal_back,
    unwrap,
    wrap,
)
from overlay.core.wire import BODY_BYTES, CellError

hop_counts = st.integers(1, MAX_HOPS)
seeds = st.integers(0, 2**32)
counters = st.integers(0, MAX_CELLS - 1)


def keys_of(rng: Random, hops: int) -> list[bytes]:
    return [rng.randbytes(32) for _ in range(hops)]


def backward_body(keys: list[bytes], counter: int, payload: bytes) -> bytes:
    body = originate(keys[-1], counter, payload)
    for key in reversed(keys[:-1]):
        body = seal_back(key, counter, body)
    return body


@given(hop_counts, seeds, counters)
def test_what_the_owner_wraps_reaches_the_last_hop(hops: int, seed: int, counter: int) -> None:
    rng = Random(seed)
    keys, payload, filler = keys_of(rng, hops), rng.randbytes(PAYLOAD_BYTES), rng.randbytes(48)
    body = wrap(keys, counter, payload, filler)
    for key in keys:
        assert len(body) == BODY_BYTES
        body = peel(key, counter, body)
    assert len(body) == BODY_BYTES
    assert body[:PAYLOAD_BYTES] == payload
    assert body[PAYLOAD_BYTES:].startswith(filler[: 16 * (MAX_HOPS - hops)])


@given(hop_counts, seeds, counters)
def test_what_a_hop_says_reaches_the_owner(hops: int, seed: int, counter: int) -> None:
    rng = Random(seed)
    keys, payload = keys_of(rng, hops), rng.randbytes(PAYLOAD_BYTES)
    assert unwrap(keys, counter, backward_body(keys, counter, payload)) == payload


@given(st.integers(1, MAX_HOPS - 1), seeds)
def test_a_nearer_hop_is_heard_at_its_own_depth_only(depth: int, seed: int) -> None:
    rng = Random(seed)
    keys, payload = keys_of(rng, MAX_HOPS), rng.randbytes(PAYLOAD_BYTES)
    body = backward_body(keys[:depth], 3, payload)
    for tried in range(1, MAX_HOPS + 1):
        if tried == depth:
            assert unwrap(keys[:tried], 3, body) == payload
        else:
            with pytest.raises(CellError):
                unwrap(keys[:tried], 3, body)


def test_every_bit_is_authenticated_at_the_next_hop() -> None:
    rng = Random(1)
    keys = keys_of(rng, 3)
    body = peel(keys[0], 9, wrap(keys, 9, rng.randbytes(PAYLOAD_BYTES), rng.randbytes(48)))
    back = backward_body(keys, 9, rng.randbytes(PAYLOAD_BYTES))
    for bit in range(8 * BODY_BYTES):
        mask = 1 << bit
        with pytest.raises(CellError):
            peel(keys[1], 9, (int.from_bytes(body, "big") ^ mask).to_bytes(BODY_BYTES, "big"))
        with pytest.raises(CellError):
            unwrap(keys, 9, (int.from_bytes(back, "big") ^ mask).to_bytes(BODY_BYTES, "big"))


def test_a_change_behind_the_first_relay_reaches_the_owner_as_one() -> None:
    rng = Random(2)
    keys = keys_of(rng, 3)
    body = bytearray(seal_back(keys[1], 0, originate(keys[2], 0, rng.randbytes(PAYLOAD_BYTES))))
    body[BODY_BYTES - 1] ^= 1
    with pytest.raises(CellError):
        unwrap(keys, 0, seal_back(keys[0], 0, bytes(body)))


def test_every_truncation_is_refused() -> None:
    rng = Random(3)
    (key,) = keys = keys_of(rng, 1)
    body = wrap(keys, 0, rng.randbytes(PAYLOAD_BYTES), rng.randbytes(48))
    for size in range(BODY_BYTES):
        for step in (peel, seal_back):
            with pytest.raises(CellError):
                step(key, 0, body[:size])
        with pytest.raises(CellError):
            unwrap(keys, 0, body[:size])
    with pytest.raises(CellError):
        peel(key, 0, body + b"\0")


@given(st.integers(0, 5), st.integers(0, 5))
def test_a_cell_opens_under_its_own_counter_only(sealed_at: int, opened_at: int) -> None:
    rng = Random(4)
    keys = keys_of(rng, 2)
    body = wrap(keys, sealed_at, rng.randbytes(PAYLOAD_BYTES), rng.randbytes(48))
    back = backward_body(keys, sealed_at, rng.randbytes(PAYLOAD_BYTES))
    if sealed_at == opened_at:
        peel(keys[0], opened_at, body)
        unwrap(keys, opened_at, back)
        return
    with pytest.raises(CellError):
        peel(keys[0], opened_at, body)
    with pytest.raises(CellError):
        unwrap(keys, opened_at, back)


def test_the_end_of_a_backward_payload_must_be_zeros() -> None:
    rng = Random(5)
    (key,) = keys = keys_of(rng, 1)
    inner = rng.randbytes(PAYLOAD_BYTES) + b"\1" + bytes(63)
    with pytest.raises(CellError):
        unwrap(keys, 0, seal_back(key, 0, inner))


def test_keys_end_before_their_nonces_do() -> None:
    for counter in (-1, MAX_CELLS):
        with pytest.raises(CellError):
            peel(bytes(32), counter, bytes(BODY_BYTES))
        with pytest.raises(CellError):
            seal_back(bytes(32), counter, bytes(BODY_BYTES))


def test_our_own_mistakes_are_value_errors() -> None:
    payload, filler = bytes(PAYLOAD_BYTES), bytes(48)
    for keys, inner, free in (
        ([], payload, filler),
        ([bytes(32)] * 5, payload, filler),
        ([bytes(32)], payload[1:], filler),
        ([bytes(32)], payload, filler[1:]),
    ):
        with pytest.raises(ValueError, match="wrong number"):
            wrap(keys, 0, inner, free)
    with pytest.raises(ValueError, match="wrong size"):
        originate(bytes(32), 0, payload + b"\0")
    with pytest.raises(ValueError, match="one to four"):
        unwrap([], 0, bytes(BODY_BYTES))


@pytest.mark.parametrize("hops", range(1, MAX_HOPS + 1))
def test_no_position_shows_in_what_a_hop_sees(hops: int) -> None:
    """Chi-square of the values of the last 64 bytes, where filler stands, against the uniform
    distribution, of what each hop receives and what it makes of that. For 255 degrees of freedom
    less than one run of uniform bytes in ten thousand is above 347."""
    rng = Random(6)
    bodies = 2000
    seen = [bytearray() for _ in range(hops + 1)]
    for number in range(bodies):
        keys = keys_of(rng, hops)
        body = wrap(keys, number, bytes(PAYLOAD_BYTES), rng.randbytes(48))
        seen[0] += body[PAYLOAD_BYTES:]
        for position, key in enumerate(keys, start=1):
            body = peel(key, number, body)
            seen[position] += body[PAYLOAD_BYTES:]
    expected = bodies * 64 / 256
    for ends in seen:
        assert sum((ends.count(v) - expected) ** 2 / expected for v in range(256)) < 347

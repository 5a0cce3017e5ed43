"""S-IDA and Shamir: any k restore, fewer say nothing, damage is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import shamir, sida

THRESHOLDS = st.integers(1, 16).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def seeded(size: int, seed: int = 7) -> bytes:
    return bytes((seed * 31 + i * i * 17 + i) % 256 for i in range(size))


@given(THRESHOLDS, st.binary(max_size=3000), st.randoms(use_true_random=False), st.binary())
def test_any_k_cloves_restore_the_message(
    threshold: tuple[int, int], message: bytes, rng: object, salt: bytes
) -> None:
    n, k = threshold
    randomness = seeded(sida.random_bytes_needed(k), len(salt))
    cloves = sida.split(message, n, k, randomness)
    chosen = rng.sample(cloves, k)  # type: ignore[attr-defined]
    received = [sida.decode_clove(clove.encode()) for clove in chosen]
    assert sida.combine(received) == message


@given(THRESHOLDS.filter(lambda t: t[1] > 1))
def test_fewer_than_k_are_refused(threshold: tuple[int, int]) -> None:
    n, k = threshold
    cloves = sida.split(b"secret", n, k, seeded(sida.random_bytes_needed(k)))
    with pytest.raises(sida.SidaError):
        sida.combine(cloves[: k - 1])


@given(st.integers(0, 391 * 8 - 1))
def test_every_flipped_bit_is_found(bit: int) -> None:
    cloves = sida.split(b"m" * 1040, 4, 3, seeded(96))
    damaged = bytearray(cloves[1].encode())
    if bit // 8 >= len(damaged):
        return
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(sida.SidaError):
        sida.combine([cloves[0], sida.decode_clove(bytes(damaged)), cloves[2]])


@pytest.mark.parametrize("length", range(0, 392, 13))
def test_every_truncation_is_refused(length: int) -> None:
    cloves = sida.split(b"m" * 1040, 4, 3, seeded(96))
    with pytest.raises(sida.SidaError):
        sida.combine([cloves[0], sida.decode_clove(cloves[1].encode()[:length]), cloves[2]])


def test_cloves_of_two_messages_do_not_mix() -> None:
    first = sida.split(b"one message here", 4, 3, seeded(96, 1))
    other = sida.split(b"one message here", 4, 3, seeded(96, 2))
    with pytest.raises(sida.SidaError):
        sida.combine([first[0], first[1], other[2]])


def test_four_cloves_cost_at_most_half_more_than_the_message() -> None:
    cloves = sida.split(b"m" * 1040, 4, 3, seeded(96))
    assert sum(len(clove.encode()) for clove in cloves) <= 1.5 * 1056


def test_k_minus_one_shares_fit_every_secret() -> None:
    """For two shares of three there is, for each secret, exactly one third that gives it."""
    shares = shamir.split(b"\x2a", 3, 3, b"\x11\x99")
    secrets = {
        shamir.combine({1: shares[0], 2: shares[1], 3: bytes((guess,))}) for guess in range(256)
    }
    assert secrets == {bytes((value,)) for value in range(256)}


def test_shamir_follows_the_polynomial() -> None:
    """f(x) = 0x42 + 0x05 x over GF(2^8): shares worked out by hand."""
    assert shamir.split(b"\x42", 3, 2, b"\x05") == (b"\x47", b"\x48", b"\x4d")


@given(st.binary(min_size=1, max_size=64), THRESHOLDS)
def test_shamir_round_trip(secret: bytes, threshold: tuple[int, int]) -> None:
    n, k = threshold
    shares = shamir.split(secret, n, k, seeded((k - 1) * len(secret)))
    assert shamir.combine({n - i: shares[n - i - 1] for i in range(k)}) == secret

"""S-IDA and Shamir: any k restore, fewer say nothing, damage is found."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import shamir, sida

THRESHOLDS = st.integers(1, 16).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def seeded(size: int, seed: int = 7) -> bytes:
    return bytes((seed * 31 + i * i * 17 + i) % 256 for i in range(size))


@given(THRESHOLDS, st.binary(max_size=3000), st.randoms(use_true_random=False), st.binary())
def test_any_k_cloves_restore_the_message(
    threshold: tuple[int, int], message: bytes, rng: random.Random, salt: bytes
) -> None:
    n, k = threshold
    randomness = seeded(sida.random_bytes_needed(k), len(salt))
    cloves = sida.split(message, n, k, randomness)
    chosen = rng.sample(cloves, k)
    received = [sida.decode_clove(clove.encode()) for clove in chosen]
    assert sida.combine(received) == message


def test_the_header_has_five_bytes() -> None:
    last = sida.split(b"m" * 1040, 16, 5, seeded(160))[15]
    assert last.encode()[:5].hex() == "2ff4000420"
    assert sida.decode_clove(last.encode()) == last


@given(THRESHOLDS.filter(lambda t: t[1] > 1))
def test_fewer_than_k_are_refused(threshold: tuple[int, int]) -> None:
    n, k = threshold
    cloves = sida.split(b"secret", n, k, seeded(sida.random_bytes_needed(k)))
    with pytest.raises(sida.SidaError):
        sida.combine(cloves[: k - 1])


@given(st.integers(0, 389 * 8 - 1))
def test_every_flipped_bit_is_found(bit: int) -> None:
    cloves = sida.split(b"m" * 1040, 4, 3, seeded(96))
    damaged = bytearray(cloves[1].encode())
    if bit // 8 >= len(damaged):
        return
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(sida.SidaError):
        sida.combine([cloves[0], sida.decode_clove(bytes(damaged)), cloves[2]])


@pytest.mark.parametrize("length", range(0, 389, 13))
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


SMALL_THRESHOLDS = st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(SMALL_THRESHOLDS, st.binary(max_size=2000), st.data())
def test_polluted_cloves_are_found_while_k_are_good(
    threshold: tuple[int, int], message: bytes, data: st.DataObject
) -> None:
    """Whatever is changed of up to n - k cloves: the share, the fragment or the length. Changes of
    several shares may cancel out; a good clove is blamed in no case."""
    n, k = threshold
    cloves = list(sida.split(message, n, k, seeded(sida.random_bytes_needed(k))))
    polluted = data.draw(st.sets(st.integers(0, n - 1), max_size=n - k))
    for index in polluted:
        damaged = bytearray(cloves[index].encode())
        places = [2, *range(sida.HEADER_BYTES, len(damaged))]  # 2: a length that decodes or not
        damaged[data.draw(st.sampled_from(places))] ^= data.draw(st.integers(1, 255))
        try:
            cloves[index] = sida.decode_clove(bytes(damaged))
        except sida.SidaError:
            cloves[index] = replace(cloves[index], key_share=bytes(32))
    combined = sida.combine_any(cloves)
    assert combined.message == message
    assert combined.polluted <= polluted
    assert len(combined.polluted) == len(polluted) or len(polluted) > 1


def test_shares_whose_changes_cancel_out_bring_blame_on_nobody() -> None:
    cloves = list(sida.split(b"m" * 100, 5, 3, seeded(96)))
    for index in (0, 1):
        share = bytes((cloves[index].key_share[0] ^ 1,)) + cloves[index].key_share[1:]
        cloves[index] = replace(cloves[index], key_share=share)
    assert sida.combine_any(cloves) == sida.Combined(b"m" * 100, frozenset())


def test_with_fewer_than_k_good_cloves_two_that_agree_stand_against_the_others() -> None:
    cloves = list(sida.split(b"m" * 100, 4, 3, seeded(96)))
    for index in (0, 1):
        share = bytes((cloves[index].key_share[0] ^ 1,)) + cloves[index].key_share[1:]
        cloves[index] = replace(cloves[index], key_share=share)
    assert sida.combine_any(cloves) == sida.Combined(b"m" * 100, frozenset({3}))


@pytest.mark.parametrize("shares", [(14,), (2,), (9, 14)])
def test_of_many_one_bad_share_is_named_and_several_bring_blame_on_nobody(
    shares: tuple[int, ...],
) -> None:
    """There are too many choices of eight to try them all; a bad fragment is named anyway."""
    cloves = list(sida.split(b"m" * 100, 16, 8, seeded(sida.random_bytes_needed(8))))
    for index in shares:
        cloves[index] = replace(cloves[index], key_share=bytes(32))
    cloves[15] = replace(cloves[15], fragment=bytes(len(cloves[15].fragment)))
    named = {15, *shares} if len(shares) == 1 else {15}
    assert sida.combine_any(cloves) == sida.Combined(b"m" * 100, frozenset(named))


@pytest.mark.parametrize("n", range(2, 17))
def test_one_polluted_clove_is_found_wherever_it_is(n: int) -> None:
    """Whatever k is; none is taken for it, and no more than n choices are tried."""
    for k in range(1, n):
        cloves = sida.split(b"m" * 100, n, k, seeded(sida.random_bytes_needed(k)))
        for bad in range(n):
            search = sida.Search()
            for clove in cloves:
                damaged = replace(clove, fragment=b"\xff" * len(clove.fragment))
                search.add(damaged if clove.index == bad else clove)
            combined = None
            for _ in range(n):
                try:
                    combined = search.attempt()
                    break
                except sida.SidaError:
                    continue
            assert combined == sida.Combined(b"m" * 100, frozenset({bad})), (k, bad)


def test_cloves_may_come_between_the_tries() -> None:
    cloves = list(sida.split(b"m" * 100, 6, 3, seeded(96)))
    for bad in (0, 2):
        cloves[bad] = replace(cloves[bad], fragment=bytes(len(cloves[bad].fragment)))
    search = sida.Search()
    tries = 0
    for clove in cloves:
        search.add(clove)
        assert (search.next_bytes > 0) == (clove.index >= 2)
        while search.next_bytes:
            tries += 1
            try:
                assert search.attempt() == sida.Combined(b"m" * 100, frozenset({0, 2}))
                assert clove.index == 5 - 1
                return
            except sida.SidaError:
                pass
    pytest.fail(f"not found in {tries} tries")


@pytest.mark.parametrize("bad", list(combinations(range(4), 2)))
def test_fewer_than_k_good_cloves_give_nothing(bad: tuple[int, int]) -> None:
    cloves = list(sida.split(b"m" * 1040, 4, 3, seeded(96)))
    for index in bad:
        cloves[index] = replace(cloves[index], key_share=bytes(32))
    with pytest.raises(sida.SidaError, match="no choice of cloves"):
        sida.combine_any(cloves)


def test_cloves_of_another_message_of_the_same_length_are_the_polluted_ones() -> None:
    cloves = list(sida.split(b"asked" * 99, 6, 3, seeded(96, 1)))
    cloves[1:4] = sida.split(b"other" * 99, 6, 3, seeded(96, 2))[1:4]
    cloves[1] = replace(cloves[1], fragment=b"short")
    combined = sida.combine_any(cloves)
    assert combined == sida.Combined(b"asked" * 99, frozenset({1, 2, 3}))


def test_how_often_choices_are_tried_is_bounded() -> None:
    cloves = sida.split(b"m", 16, 8, seeded(sida.random_bytes_needed(8)))
    with pytest.raises(sida.SidaError, match="too many"):
        sida.combine_any(replace(clove, key_share=bytes(32)) for clove in cloves)


def test_a_length_that_a_clove_only_claims_costs_nothing() -> None:
    sida._fragment_headers.cache_clear()
    claimed = [
        sida.Clove(16, 2, index, sida.MAX_MESSAGE_BYTES, bytes(32), b"short") for index in (14, 15)
    ]
    with pytest.raises(sida.SidaError):
        sida.combine_any(claimed)
    assert sida._fragment_headers.cache_info().misses == 0


@given(st.integers(16, 20_000), THRESHOLDS)
def test_a_fragment_is_the_ciphertext_over_k(size: int, threshold: tuple[int, int]) -> None:
    n, k = threshold
    assert {len(fragment) for fragment in sida._disperse(bytes(size), n, k)} == {-(-size // k)}


def test_no_cloves_at_all() -> None:
    with pytest.raises(sida.SidaError):
        sida.combine_any([])


@pytest.mark.parametrize("size", [200, 1000, 5461, 65_536, 262_144])
@pytest.mark.parametrize(("n", "k"), [(2, 1), (4, 3), (4, 4), (16, 5)])
def test_fragments_are_slices_of_the_ciphertext_and_parity(size: int, n: int, k: int) -> None:
    """Nothing is added for alignment, and the first k fragments are the ciphertext itself."""
    cloves = sida.split(b"m" * size, n, k, seeded(sida.random_bytes_needed(k)))
    length = size + sida.TAG_BYTES
    assert {len(clove.fragment) for clove in cloves} == {-(-length // k)}
    without_parity = sida.combine(cloves[:k])
    assert without_parity == sida.combine(cloves[n - k :]) == b"m" * size


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

"""The code by which cloves are dispersed is the one that docs/protocol.md writes down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.core import sida

POLYNOMIAL = 0x11D


def times(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a, b = a << 1 ^ (POLYNOMIAL if a & 0x80 else 0), b >> 1
    return product


ONE_OVER = {x: next(y for y in range(256) if times(x, y) == 1) for x in range(1, 256)}


@given(st.integers(2, 16), st.data(), st.binary(min_size=1, max_size=100))
def test_fragments_are_those_of_the_page(n: int, data: st.DataObject, message: bytes) -> None:
    k = data.draw(st.integers(2, n))
    cloves = sida.split(message, n, k, bytes(sida.random_bytes_needed(k)))
    parts = [clove.fragment for clove in cloves[:k]]
    assert len({len(clove.fragment) for clove in cloves}) == 1
    assert 0 <= k * len(parts[0]) - (len(message) + 16) < k
    for i, clove in enumerate(cloves[k:], k):
        expected = bytes(len(parts[0]))
        for j, part in enumerate(parts):
            scaled = bytes(times(ONE_OVER[i ^ j], byte) for byte in part)
            expected = bytes(a ^ b for a, b in zip(expected, scaled, strict=True))
        assert clove.fragment == expected


def test_the_factors_that_the_page_names() -> None:
    assert [ONE_OVER[3 ^ j] for j in range(3)] == [244, 142, 1]

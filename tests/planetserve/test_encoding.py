"""Canonical MessagePack: one value, one encoding."""

from __future__ import annotations

import tracemalloc
from types import MappingProxyType
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.encoding import EncodingError, decode, encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)


@given(VALUES)
def test_round_trip(value: Any) -> None:
    assert decode(encode(value)) == value


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 9), min_size=2), st.randoms())
def test_insertion_order_does_not_matter(value: dict[str, int], rng: Any) -> None:
    items = list(value.items())
    rng.shuffle(items)
    assert encode(dict(items)) == encode(value)


@given(st.binary(max_size=64))
def test_bytes_decode_to_what_encodes_to_them_or_are_refused(data: bytes) -> None:
    try:
        value = decode(data)
    except EncodingError:
        return
    assert encode(value) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(1.5),
        msgpack.packb({"b": 1, "a": 2}),
        b"\x82\xa1a\x01\xa1a\x02",  # a key twice
        b"\xcd\x00\x05",  # 5 in three bytes
        b"\x81\x01\x02",  # a key that is no string
        b"\xd4\x01\x00",  # an extension type
        b"\xa1\xff",  # a string that is not UTF-8
        b"\x01\x02",  # bytes after the value
        b"\x91" * 40 + b"\xc0",
        b"\x91" * 17 + b"\xc0",
        b"\x91\xcb" + bytes(8),  # a float in a list
        b"\x81\xa1a\xca" + bytes(4),  # a single float in a map
        b"\x81\xa1a\xcf" + b"\xff" * 8,  # an integer beyond 63 bits
        b"\x91\x82\xa1b\x01\xa1a\x02",  # an inner map out of order
        b"\xd6\xff" + bytes(4),  # a timestamp
    ],
    ids=lambda data: data.hex()[:16] or "empty",
)
def test_what_is_not_canonical_is_refused(data: bytes) -> None:
    with pytest.raises(EncodingError):
        decode(data)


@pytest.mark.parametrize("value", [1.0, {1: 2}, {1, 2}, 1 << 64, object(), "\ud800"])
def test_values_without_canonical_form_are_refused(value: Any) -> None:
    with pytest.raises(EncodingError):
        encode(value)


@pytest.mark.parametrize("value", [{"": 1, "a": 2}, [[]] * 3, {"a": {}, "b": []}])
def test_empty_keys_lists_and_maps_have_a_form(value: Any) -> None:
    assert decode(encode(value)) == value


def test_sixteen_levels_are_the_limit() -> None:
    assert decode(b"\x91" * 16 + b"\xc0") is not None
    assert decode(b"\x91" * 16 + b"\x90") is not None
    assert decode(b"\x81\xa1a" * 16 + b"\x05") is not None
    with pytest.raises(EncodingError):
        decode(b"\x81\xa1a" * 17 + b"\x05")


def test_values_of_other_types_that_mean_the_same_are_encoded() -> None:
    class Number(int):
        pass

    assert encode({"b": (Number(1),), "a": MappingProxyType({"y": 1, "x": 2})}) == encode(
        {"a": {"x": 2, "y": 1}, "b": [1]}
    )


def test_too_many_bytes_are_refused_before_they_are_read() -> None:
    with pytest.raises(EncodingError, match="more than the 10"):
        decode(b"\xc4\xff" + bytes(255), max_bytes=10)


@pytest.mark.parametrize("header", [b"\xdd\x00\x00\x7f\xff", b"\xdf\x00\x00\x7f\xff"])
def test_no_room_is_made_for_what_does_not_follow(header: bytes) -> None:
    """A thousand levels that each announce a long list or map."""
    data = header * 1_000 + b"\xc0" * 30_000
    tracemalloc.start()
    with pytest.raises(EncodingError):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * len(data)


def test_a_large_value_of_empty_maps_is_refused_early() -> None:
    data = b"\xdd" + (1 << 20).to_bytes(4, "big") + b"\x80" * (1 << 20)
    tracemalloc.start()
    with pytest.raises(EncodingError, match="too many lists"):
        decode(data, max_bytes=2 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * len(data)
    pairs = [[b"accounts/%d" % number, b"\x80"] for number in range(10_000)]
    assert decode(encode(pairs)) == pairs

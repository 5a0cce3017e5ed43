"""What a reader verifies: records against roots, whole stores, items of lists."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.merkle import (
    EMPTY_HASH,
    list_proof,
    list_root,
    map_root,
    root_of,
    verify_item,
    verify_record,
)

KEYS = st.integers(0, 60).map(lambda number: b"key-%d" % number)
RECORDS = st.dictionaries(KEYS, st.binary(max_size=4), max_size=24)
ITEMS = st.lists(st.binary(max_size=4), max_size=20)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def naive_root(leaves: dict[bytes, bytes], depth: int = 0) -> bytes:
    """The definition: leaves by key hash, split bit by bit until one or none is left."""
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        ((path, value_hash),) = leaves.items()
        return sha256(b"\0" + path + value_hash)
    left, right = split(leaves, depth)
    return sha256(b"\1" + naive_root(left, depth + 1) + naive_root(right, depth + 1))


def split(leaves: dict[bytes, bytes], depth: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    for path, value_hash in leaves.items():
        sides[path[depth // 8] >> (7 - depth % 8) & 1][path] = value_hash
    return sides


def hashed(records: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {sha256(key): sha256(value) for key, value in records.items()}


def naive_proof(
    records: dict[bytes, bytes], key: bytes
) -> tuple[list[bytes], tuple[bytes, bytes] | None]:
    """The siblings on the way to `key`, and what other leaf is there."""
    leaves, path = hashed(records), sha256(key)
    siblings: list[bytes] = []
    while len(leaves) > 1:
        depth = len(siblings)
        sides = split(leaves, depth)
        side = path[depth // 8] >> (7 - depth % 8) & 1
        siblings.append(naive_root(sides[1 - side], depth + 1))
        leaves = sides[side]
    other = next((leaf for leaf in leaves.items() if leaf[0] != path), None)
    return siblings, other


@given(RECORDS, st.randoms(use_true_random=False))
def test_a_stores_root_depends_on_its_records_alone(
    records: dict[bytes, bytes], order: random.Random
) -> None:
    pairs = list(records.items())
    order.shuffle(pairs)
    assert root_of(pairs) == naive_root(hashed(records))


@given(RECORDS.filter(bool), st.data())
def test_nothing_can_be_left_out_of_a_store(
    records: dict[bytes, bytes], data: st.DataObject
) -> None:
    root = root_of(records.items())
    left_out = data.draw(st.sampled_from(sorted(records)))
    assert root_of(pair for pair in records.items() if pair[0] != left_out) != root
    assert root_of({**records, left_out: records[left_out] + b"!"}.items()) != root
    with pytest.raises(ValueError, match="once"):
        root_of([*records.items(), (left_out, b"")])


@given(RECORDS, KEYS)
def test_each_key_is_proven_to_hold_its_value_or_nothing(
    records: dict[bytes, bytes], key: bytes
) -> None:
    root = root_of(records.items())
    siblings, other = naive_proof(records, key)
    assert verify_record(root, key, records.get(key), siblings, other)


@given(RECORDS, KEYS, KEYS, st.none() | st.binary(max_size=4), st.data())
def test_nothing_else_is(
    records: dict[bytes, bytes],
    key: bytes,
    shown: bytes,
    value: bytes | None,
    data: st.DataObject,
) -> None:
    """Whatever true proof of whichever key is cut, extended or shown for another."""
    root = root_of(records.items())
    siblings, other = naive_proof(records, shown)
    leaves = st.sampled_from(sorted(hashed(records).items()) or [(bytes(32), bytes(32))])
    leaf = data.draw(st.none() | st.just(other) | leaves)
    siblings = siblings[: data.draw(st.integers(0, len(siblings)))]
    siblings += [EMPTY_HASH] * data.draw(st.integers(0, 2))
    if verify_record(root, key, value, siblings, leaf):
        assert value == records.get(key)


@pytest.mark.parametrize(
    ("siblings", "leaf"),
    [
        ([b""], None),
        ([b"x" * 31], None),
        ([EMPTY_HASH] * 257, None),
        ([], (b"", b"")),
        ([], (sha256(b"other"), b"short")),
        ([], (sha256(b"key"), sha256(b"value"))),
    ],
)
def test_malformed_proofs_are_refused(
    siblings: list[bytes], leaf: tuple[bytes, bytes] | None
) -> None:
    assert not verify_record(EMPTY_HASH, b"key", None, siblings, leaf)


def test_a_value_that_is_there_is_not_shown_absent_by_its_own_leaf() -> None:
    leaf = (sha256(b"key"), sha256(b"value"))
    root = root_of([(b"key", b"value")])
    assert verify_record(root, b"key", b"value", [], None)
    assert not verify_record(root, b"key", None, [], leaf)
    assert not verify_record(root, b"key", b"value", [], leaf)
    assert verify_record(root, b"other", None, [], leaf)


def naive_list_root(items: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word by word."""
    if not items:
        return sha256(b"")
    if len(items) == 1:
        return sha256(b"\0" + items[0])
    split_at = max(1 << power for power in range(8) if 1 << power < len(items))
    left, right = naive_list_root(items[:split_at]), naive_list_root(items[split_at:])
    return sha256(b"\1" + left + right)


@given(ITEMS)
def test_a_lists_root_is_the_rfcs(items: list[bytes]) -> None:
    assert list_root(items) == naive_list_root(items)


@given(ITEMS.filter(bool), st.data())
def test_an_item_is_proven_at_its_index_only(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    root, total, proof = list_root(items), len(items), list_proof(items, index)
    assert verify_item(root, items[index], index, total, proof)
    assert not verify_item(root, items[index] + b"!", index, total, proof)
    assert not verify_item(root, items[index], index, total, [*proof, bytes(32)])
    assert not verify_item(root, items[index], total, total, proof)
    assert not verify_item(root, items[index], -1, total, proof)
    assert not proof or not verify_item(root, items[index], index, total, proof[1:])
    elsewhere = data.draw(st.integers(0, len(items) - 1))
    if items[elsewhere] != items[index]:
        assert not verify_item(root, items[index], elsewhere, total, proof)


def test_a_map_is_cometbfts_simple_map() -> None:
    """By hand: two pairs, each length-prefixed, the value by its hash."""

    def leaf(name: bytes, root: bytes) -> bytes:
        return sha256(b"\0" + bytes([len(name)]) + name + b"\x20" + sha256(root))

    roots = {"b": b"2" * 32, "a": b"1" * 32}
    expected = sha256(b"\1" + leaf(b"a", b"1" * 32) + leaf(b"b", b"2" * 32))
    assert map_root(roots) == expected
    with pytest.raises(ValueError, match="shorter"):
        map_root({"x" * 128: b""})

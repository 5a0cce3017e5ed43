"""The Merkle tree against a naive rebuild, and its proofs against tampering."""

from __future__ import annotations

import dataclasses
import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.core.apphash import app_hash
from abci_app.core.merkle import EMPTY_HASH, root_of, update
from abci_app.core.proofs import (
    AbsenceProof,
    ExistenceProof,
    prove,
    verify_absence,
    verify_existence,
)

KEYS = st.integers(0, 40).map(lambda number: b"key-%d" % number)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=4), max_size=12)
HISTORIES = st.lists(CHANGES, max_size=8)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def naive_root(leaves: dict[bytes, bytes], depth: int = 0) -> bytes:
    """The definition: leaves by key hash, split bit by bit until one or none is left."""
    if not leaves:
        return bytes(32)
    if len(leaves) == 1:
        ((path, value_hash),) = leaves.items()
        return sha256(b"\0" + path + value_hash)
    sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    for path, value_hash in leaves.items():
        sides[path[depth // 8] >> (7 - depth % 8) & 1][path] = value_hash
    return sha256(b"\1" + naive_root(sides[0], depth + 1) + naive_root(sides[1], depth + 1))


class Tree:
    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.values: dict[bytes, bytes] = {}
        self.root = EMPTY_HASH

    def apply(self, changes: dict[bytes, bytes | None]) -> None:
        self.root, writes = update(self.nodes.get, changes)
        for path, node in writes.items():
            if node is None:
                self.nodes.pop(path, None)
            else:
                self.nodes[path] = node
        for key, value in changes.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value

    def prove(self, key: bytes) -> ExistenceProof | AbsenceProof:
        return prove(self.nodes.get, self.values.get, key)


def tree_of(history: list[dict[bytes, bytes | None]]) -> Tree:
    tree = Tree()
    for changes in history:
        tree.apply(changes)
    return tree


@given(HISTORIES)
def test_root_and_stored_nodes_do_not_depend_on_history(
    history: list[dict[bytes, bytes | None]],
) -> None:
    tree = tree_of(history)
    expected = naive_root({sha256(key): sha256(value) for key, value in tree.values.items()})
    assert tree.root == expected == root_of(tree.nodes.get)
    afresh = tree_of([dict(tree.values)])
    assert afresh.nodes == tree.nodes


@given(HISTORIES, KEYS)
def test_every_key_is_proven_present_or_absent(
    history: list[dict[bytes, bytes | None]], key: bytes
) -> None:
    tree = tree_of(history)
    proof = tree.prove(key)
    if isinstance(proof, ExistenceProof):
        assert proof.value == tree.values[key]
        assert verify_existence(tree.root, proof)
        forged = dataclasses.replace(proof, value=proof.value + b"!")
        assert not verify_existence(tree.root, forged)
    else:
        assert key not in tree.values
        assert verify_absence(tree.root, proof)


@given(HISTORIES, KEYS, KEYS)
@settings(max_examples=200)
def test_no_absence_proof_of_another_key_hides_a_present_one(
    history: list[dict[bytes, bytes | None]], key: bytes, other: bytes
) -> None:
    tree = tree_of(history)
    proof = tree.prove(other)
    if key in tree.values and isinstance(proof, AbsenceProof):
        assert not verify_absence(tree.root, dataclasses.replace(proof, key=key))
        neighbours = [tree.prove(present) for present in sorted(tree.values)]
        existing = [item for item in neighbours if isinstance(item, ExistenceProof)]
        for left in (None, *existing):
            for right in (None, *existing):
                assert not verify_absence(tree.root, AbsenceProof(key, left, right))


def test_depth_grows_with_the_logarithm() -> None:
    tree = tree_of([{b"%d" % number: b"x" for number in range(4_096)}])
    proofs = [tree.prove(b"%d" % number) for number in range(0, 4_096, 64)]
    depths = [len(item.siblings) for item in proofs if isinstance(item, ExistenceProof)]
    assert len(depths) == 64
    assert max(depths) <= 32
    _, writes = update(tree.nodes.get, {b"7": b"y"})
    assert len(writes) <= 33


def test_app_hash_is_cometbfts_simple_map() -> None:
    """By hand from RFC 6962: two pairs, each length-prefixed, the value by its hash."""

    def leaf(name: bytes, root: bytes) -> bytes:
        return sha256(b"\0" + bytes([len(name)]) + name + b"\x20" + sha256(root))

    roots = {"b": b"2" * 32, "a": b"1" * 32}
    expected = sha256(b"\1" + leaf(b"a", b"1" * 32) + leaf(b"b", b"2" * 32))
    assert app_hash(roots) == expected

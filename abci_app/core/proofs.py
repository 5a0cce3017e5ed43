"""Proofs of what a Merkle tree holds and does not hold, in the shape of ICS-23.

An existence proof is the leaf and the siblings up to the root. A key is absent when its nearest
neighbours on either side, in the order of key hashes, are present and adjacent in the tree.
"""

from __future__ import annotations

from dataclasses import dataclass

from abci_app.core.merkle import ReadNode, decode_leaf, flipped, path_of
from planetserve.merkle import EMPTY_HASH, LEAF, bit, sha256


@dataclass(frozen=True, slots=True)
class ExistenceProof:
    """`siblings` are the hashes beside the path, the root's child first."""

    key: bytes
    value: bytes
    siblings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AbsenceProof:
    """`left` and `right` are None where no leaf lies on that side. ICS-23 has no proof that an
    empty tree lacks a key; its root, 32 zero bytes, says so."""

    key: bytes
    left: ExistenceProof | None
    right: ExistenceProof | None


@dataclass(frozen=True, slots=True)
class Descent:
    """The way to a key's place: the siblings passed, and the leaf that is there if any."""

    siblings: tuple[bytes, ...]
    leaf_key: bytes | None


def descend(read: ReadNode, key_hash: bytes) -> Descent:
    siblings: list[bytes] = []
    while True:
        depth = len(siblings)
        stored = read(path_of(key_hash, depth))
        if stored is None:
            return Descent(tuple(siblings), None)
        if stored[:1] == LEAF:
            return Descent(tuple(siblings), decode_leaf(stored).key)
        left, right = stored[1:33], stored[33:65]
        siblings.append(left if bit(key_hash, depth) else right)


def prove(read: ReadNode, value_of: ReadNode, key: bytes) -> ExistenceProof | AbsenceProof:
    """Prove the key's value, or that it has none. `value_of` reads values by key."""
    descent = descend(read, sha256(key))
    if descent.leaf_key == key:
        return _existence(read, value_of, key)
    return AbsenceProof(
        key,
        _neighbour(read, value_of, descent, sha256(key), side=0),
        _neighbour(read, value_of, descent, sha256(key), side=1),
    )


def _existence(read: ReadNode, value_of: ReadNode, key: bytes) -> ExistenceProof:
    value = value_of(key)
    if value is None:
        raise LookupError("the tree holds a key that the state does not")
    return ExistenceProof(key, value, descend(read, sha256(key)).siblings)


def _neighbour(
    read: ReadNode, value_of: ReadNode, descent: Descent, key_hash: bytes, side: int
) -> ExistenceProof | None:
    """The nearest leaf whose key hash is less (side 0) or greater (side 1)."""
    if descent.leaf_key is not None and (sha256(descent.leaf_key) > key_hash) == bool(side):
        return _existence(read, value_of, descent.leaf_key)
    for depth in reversed(range(len(descent.siblings))):
        if bit(key_hash, depth) != side and descent.siblings[depth] != EMPTY_HASH:
            key = _outermost(read, flipped(key_hash, depth), depth + 1, 1 - side)
            return _existence(read, value_of, key)
    return None


def _outermost(read: ReadNode, key_hash: bytes, depth: int, side: int) -> bytes:
    """The key of the first (side 0) or last (side 1) leaf below a node that is not empty."""
    while True:
        stored = read(path_of(key_hash, depth))
        if stored is None:
            raise LookupError("the tree names a node that is not stored")
        if stored[:1] == LEAF:
            return decode_leaf(stored).key
        hashes = (stored[1:33], stored[33:65])
        towards = side if hashes[side] != EMPTY_HASH else 1 - side
        if bit(key_hash, depth) != towards:
            key_hash = flipped(key_hash, depth)
        depth += 1

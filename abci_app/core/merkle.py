"""A compact sparse Merkle tree, as ICS-23's `SmtSpec` describes it.

A leaf's place is the SHA-256 of its key, read bit by bit from the root; it sits at the shallowest
depth where its path is unique, so a tree of n leaves is about log2(n) deep. The root depends only
on the leaves, not on the order of their changes.

    leaf  = SHA256(0x00 || SHA256(key) || SHA256(value))
    inner = SHA256(0x01 || left || right)
    empty = 32 zero bytes

Nodes are stored by path; a stored leaf is 0x00 || SHA256(value) || key, a stored inner node is
0x01 || left || right. An empty place stores nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

EMPTY_HASH = bytes(32)
MAX_DEPTH = 256
LEAF, INNER = b"\0", b"\1"

ReadNode = Callable[[bytes], "bytes | None"]
"""The stored node at a path, or None."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key's new value by their hashes; no value hash deletes the key."""

    key: bytes
    key_hash: bytes
    value_hash: bytes | None

    @property
    def encoded(self) -> bytes:
        return LEAF + (self.value_hash or b"") + self.key


@dataclass(frozen=True, slots=True)
class Subtree:
    """What an update made of a subtree; `leaf` is set when that is one leaf alone."""

    hash: bytes
    leaf: Change | None = None


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def leaf_hash(key_hash: bytes, value_hash: bytes) -> bytes:
    return sha256(LEAF + key_hash + value_hash)


def inner_hash(left: bytes, right: bytes) -> bytes:
    return sha256(INNER + left + right)


def path_of(key_hash: bytes, depth: int) -> bytes:
    """The storage path of the node at `depth` on the way to `key_hash`: the depth in two bytes,
    then the bits so far, padded with zeros to whole bytes."""
    whole, rest = divmod(depth, 8)
    bits = key_hash[:whole]
    if rest:
        bits += bytes([key_hash[whole] & (0xFF << (8 - rest)) & 0xFF])
    return depth.to_bytes(2, "big") + bits


def bit(key_hash: bytes, depth: int) -> int:
    return key_hash[depth >> 3] >> (7 - (depth & 7)) & 1


def flipped(key_hash: bytes, depth: int) -> bytes:
    """`key_hash` with the bit at `depth` inverted: a key on the sibling's side."""
    changed = bytearray(key_hash)
    changed[depth >> 3] ^= 0x80 >> (depth & 7)
    return bytes(changed)


def decode_leaf(stored: bytes) -> Change:
    key = stored[33:]
    return Change(key, sha256(key), stored[1:33])


def update(
    read: ReadNode, changes: Mapping[bytes, bytes | None]
) -> tuple[bytes, dict[bytes, bytes | None]]:
    """Set or delete (None) keys. Returns the new root and the nodes to store by path, None where
    one is to be deleted. Reads and writes O(log n) nodes a change."""
    batch = [
        Change(key, sha256(key), None if value is None else sha256(value))
        for key, value in changes.items()
    ]
    writes: dict[bytes, bytes | None] = {}
    root = _update(read, bytes(32), 0, batch, writes)
    return root.hash, writes


def root_of(read: ReadNode) -> bytes:
    """The root of a stored tree."""
    return _stored_hash(read(path_of(bytes(32), 0)))


def _stored_hash(stored: bytes | None) -> bytes:
    if stored is None:
        return EMPTY_HASH
    if stored[:1] == INNER:
        return inner_hash(stored[1:33], stored[33:65])
    leaf = decode_leaf(stored)
    return leaf_hash(leaf.key_hash, leaf.value_hash or b"")


def _update(
    read: ReadNode,
    prefix: bytes,
    depth: int,
    batch: list[Change],
    writes: dict[bytes, bytes | None],
) -> Subtree:
    """Apply `batch` below the node at `depth` on the way to `prefix`."""
    path = path_of(prefix, depth)
    stored = read(path)
    if stored is None or stored[:1] == LEAF:
        leaves = [change for change in batch if change.value_hash is not None]
        if stored is not None:
            present = decode_leaf(stored)
            if all(change.key_hash != present.key_hash for change in batch):
                leaves.append(present)
        return _build(prefix, depth, leaves, writes, stored is not None)
    hashes = [stored[1:33], stored[33:65]]
    subtrees: list[Subtree | None] = [None, None]
    for side in (0, 1):
        part = [change for change in batch if bit(change.key_hash, depth) == side]
        if part:
            towards = part[0].key_hash
            updated = _update(read, towards, depth + 1, part, writes)
            subtrees[side] = updated
            hashes[side] = updated.hash
    lone = _lone_leaf(read, prefix, depth, hashes, subtrees)
    if lone is not None:
        side = bit(lone.key_hash, depth)
        writes[path_of(lone.key_hash, depth + 1)] = None
        writes[path] = lone.encoded
        return Subtree(hashes[side], lone)
    if hashes == [EMPTY_HASH, EMPTY_HASH]:
        writes[path] = None
        return Subtree(EMPTY_HASH)
    writes[path] = INNER + hashes[0] + hashes[1]
    return Subtree(inner_hash(hashes[0], hashes[1]))


def _lone_leaf(
    read: ReadNode,
    prefix: bytes,
    depth: int,
    hashes: list[bytes],
    subtrees: list[Subtree | None],
) -> Change | None:
    """The one leaf that is left below an inner node, which then moves up in its place."""
    for side in (0, 1):
        if hashes[side] == EMPTY_HASH or hashes[1 - side] != EMPTY_HASH:
            continue
        subtree = subtrees[side]
        if subtree is not None:
            return subtree.leaf
        towards = prefix if bit(prefix, depth) == side else flipped(prefix, depth)
        stored = read(path_of(towards, depth + 1))
        if stored is not None and stored[:1] == LEAF:
            return decode_leaf(stored)
    return None


def _build(
    prefix: bytes,
    depth: int,
    leaves: list[Change],
    writes: dict[bytes, bytes | None],
    occupied: bool = False,
) -> Subtree:
    """Store `leaves` as a new subtree in a place that held a leaf (`occupied`) or nothing."""
    path = path_of(prefix, depth)
    if not leaves:
        if occupied:
            writes[path] = None
        return Subtree(EMPTY_HASH)
    if len(leaves) == 1:
        leaf = leaves[0]
        writes[path] = leaf.encoded
        return Subtree(leaf_hash(leaf.key_hash, leaf.value_hash or b""), leaf)
    sides: tuple[list[Change], list[Change]] = ([], [])
    for leaf in leaves:
        sides[bit(leaf.key_hash, depth)].append(leaf)
    left, right = (
        _build(side[0].key_hash, depth + 1, side, writes) if side else Subtree(EMPTY_HASH)
        for side in sides
    )
    writes[path] = INNER + left.hash + right.hash
    return Subtree(inner_hash(left.hash, right.hash))

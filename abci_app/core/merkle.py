"""How the compact sparse Merkle trees of `planetserve.merkle` are stored, changed and read.

Nodes are stored by path; a stored leaf is 0x00 || SHA256(value) || key, a stored inner node is
0x01 || left || right. An empty place stores nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from planetserve.merkle import (
    EMPTY_HASH,
    INNER,
    LEAF,
    MAX_DEPTH,
    bit,
    inner_hash,
    leaf_hash,
    sha256,
)

ReadNode = Callable[[bytes], "bytes | None"]
"""The stored node at a path, or None."""
Writes: TypeAlias = "dict[bytes, bytes | None]"

_DEPTHS = [depth.to_bytes(2, "big") for depth in range(MAX_DEPTH + 1)]
# The first `count` bits of each byte, for counts from 0 to 7.
_HEADS = [
    [bytes([byte & (0xFF << (8 - count)) & 0xFF]) if count else b"" for byte in range(256)]
    for count in range(8)
]


@dataclass(frozen=True, slots=True)
class Change:
    """A key's new value by their hashes; no value hash deletes the key."""

    key: bytes
    key_hash: bytes
    value_hash: bytes | None

    @property
    def encoded(self) -> bytes:
        return LEAF + (self.value_hash or b"") + self.key


Subtree: TypeAlias = tuple[bytes, Change | None]
"""The hash of a subtree that was changed, and its leaf when that is all of it."""
NOTHING: Subtree = (EMPTY_HASH, None)


def path_of(key_hash: bytes, depth: int) -> bytes:
    """The storage path of the node at `depth` on the way to `key_hash`: the depth in two bytes,
    then the bits so far, padded with zeros to whole bytes."""
    rest = depth & 7
    if rest:
        whole = depth >> 3
        return _DEPTHS[depth] + key_hash[:whole] + _HEADS[rest][key_hash[whole]]
    return _DEPTHS[depth] + key_hash[: depth >> 3]


def flipped(key_hash: bytes, depth: int) -> bytes:
    """`key_hash` with the bit at `depth` inverted: a key on the sibling's side."""
    changed = bytearray(key_hash)
    changed[depth >> 3] ^= 0x80 >> (depth & 7)
    return bytes(changed)


def decode_leaf(stored: bytes) -> Change:
    key = stored[33:]
    return Change(key, sha256(key), stored[1:33])


def root_of(read: ReadNode) -> bytes:
    """The root of a stored tree."""
    stored = read(path_of(EMPTY_HASH, 0))
    if stored is None:
        return EMPTY_HASH
    if stored[:1] == INNER:
        return inner_hash(stored[1:33], stored[33:65])
    leaf = decode_leaf(stored)
    return leaf_hash(leaf.key_hash, leaf.value_hash or b"")


def compact_proof(
    read: ReadNode, key: bytes
) -> tuple[tuple[bytes, ...], tuple[bytes, bytes] | None]:
    """The siblings on the way to `key`'s place, and the hashes of the key and value of another
    leaf that lies there, if one does: what `planetserve.merkle.verify_record` takes."""
    key_hash = sha256(key)
    siblings: list[bytes] = []
    while True:
        stored = read(path_of(key_hash, len(siblings)))
        if stored is None:
            return tuple(siblings), None
        if stored[:1] == LEAF:
            leaf = decode_leaf(stored)
            other = leaf.key != key
            return tuple(siblings), (leaf.key_hash, leaf.value_hash or b"") if other else None
        right = bit(key_hash, len(siblings))
        siblings.append(stored[1:33] if right else stored[33:65])


def update(read: ReadNode, changes: Mapping[bytes, bytes | None]) -> tuple[bytes, Writes]:
    """Set or delete (None) keys. Returns the new root and the nodes to store by path, None where
    one is to be deleted. Reads and writes O(log n) nodes a change."""
    batch = sorted(
        (
            Change(key, sha256(key), None if value is None else sha256(value))
            for key, value in changes.items()
        ),
        key=lambda change: change.key_hash,
    )
    if not batch:
        return root_of(read), {}
    work = _Update(read, batch)
    root, _ = work.apply(0, len(batch), 0)
    return root, work.writes


class _Update:
    """One batch of changes, in ascending order of key hashes, on its way through a tree. Every
    subtree's changes are a range of the batch."""

    def __init__(self, read: ReadNode, batch: list[Change]) -> None:
        self._read = read
        self._batch = batch
        self._paths = [int.from_bytes(change.key_hash, "big") for change in batch]
        self.writes: Writes = {}

    def apply(self, start: int, end: int, depth: int) -> Subtree:
        """Apply the changes from `start` to before `end` below the node at `depth` that is on the
        way to all of them."""
        towards = self._batch[start].key_hash
        trail: list[tuple[bytes, bytes]] = []
        result: Subtree
        while True:
            path = path_of(towards, depth)
            stored = self._read(path)
            if stored is None or stored[0] == 0:
                result = self._replace(stored, start, end, depth)
                break
            middle = self._middle(start, end, depth)
            if start < middle < end:
                left = self.apply(start, middle, depth + 1)
                right = self.apply(middle, end, depth + 1)
                result = self._join(path, towards, depth, left, right)
                break
            trail.append((path, stored))
            depth += 1
        while trail:
            path, stored = trail.pop()
            depth -= 1
            if bit(towards, depth):
                result = self._join(path, towards, depth, stored[1:33], result)
            else:
                result = self._join(path, towards, depth, result, stored[33:65])
        return result

    def _middle(self, start: int, end: int, depth: int) -> int:
        """Where in a range the changes on the right of a fork at `depth` begin."""
        if end - start == 1:
            return start if bit(self._batch[start].key_hash, depth) else end
        below = MAX_DEPTH - 1 - depth
        pivot = (self._paths[start] >> below | 1) << below
        return bisect_left(self._paths, pivot, start, end)

    def _replace(self, stored: bytes | None, start: int, end: int, depth: int) -> Subtree:
        """Put the changes where one leaf or nothing was."""
        batch = self._batch[start:end]
        leaves = [change for change in batch if change.value_hash is not None]
        towards = batch[0].key_hash
        if stored is not None:
            present = decode_leaf(stored)
            if all(change.key_hash != present.key_hash for change in batch):
                leaves.append(present)
        if not leaves:
            if stored is not None:
                self.writes[path_of(towards, depth)] = None
            return NOTHING
        return self._build(leaves, depth)

    def _build(self, leaves: list[Change], depth: int) -> Subtree:
        """Store a new subtree of at least one leaf."""
        first = leaves[0]
        path = path_of(first.key_hash, depth)
        if len(leaves) == 1:
            self.writes[path] = first.encoded
            return leaf_hash(first.key_hash, first.value_hash or b""), first
        sides: tuple[list[Change], list[Change]] = ([], [])
        for leaf in leaves:
            sides[bit(leaf.key_hash, depth)].append(leaf)
        hashes = [self._build(side, depth + 1)[0] if side else EMPTY_HASH for side in sides]
        content = INNER + hashes[0] + hashes[1]
        self.writes[path] = content
        return sha256(content), None

    def _join(
        self, path: bytes, towards: bytes, depth: int, left: Subtree | bytes, right: Subtree | bytes
    ) -> Subtree:
        """Store the node at `depth` on the way to `towards` from its children: what an update
        made of them, or the mere hash of one that it did not touch."""
        left_hash = left if isinstance(left, bytes) else left[0]
        right_hash = right if isinstance(right, bytes) else right[0]
        if left_hash == EMPTY_HASH or right_hash == EMPTY_HASH:
            if left_hash == right_hash:
                self.writes[path] = None
                return NOTHING
            side = 0 if right_hash == EMPTY_HASH else 1
            leaf = self._lone_leaf(towards, depth, side, (left, right)[side])
            if leaf is not None:
                self.writes[path_of(leaf.key_hash, depth + 1)] = None
                self.writes[path] = leaf.encoded
                return (left_hash, right_hash)[side], leaf
        content = INNER + left_hash + right_hash
        self.writes[path] = content
        return sha256(content), None

    def _lone_leaf(
        self, towards: bytes, depth: int, side: int, child: Subtree | bytes
    ) -> Change | None:
        """The leaf that is all of an only child, and then moves up in its parent's place."""
        if not isinstance(child, bytes):
            return child[1]
        below = towards if bit(towards, depth) == side else flipped(towards, depth)
        stored = self._read(path_of(below, depth + 1))
        return None if stored is None or stored[:1] == INNER else decode_leaf(stored)

"""The hash trees of the ledger, and what a reader needs to verify what it is shown.

Records lie in compact sparse Merkle trees as ICS-23's `SmtSpec` describes them. A leaf's place is
the SHA-256 of its key, read bit by bit from the root; it sits at the shallowest depth where its
path is unique, so a tree of n leaves is about log2(n) deep, and its root depends on nothing but
its leaves.

    leaf  = SHA256(0x00 || SHA256(key) || SHA256(value))
    inner = SHA256(0x01 || left || right)
    empty = 32 zero bytes

Lists (a block's transactions and results, a header's fields, the map of the stores' roots) are
hashed as CometBFT does, by RFC 6962 section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

EMPTY_HASH = bytes(32)
HASH_BYTES = 32
MAX_DEPTH = 256
LEAF, INNER = b"\0", b"\1"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def leaf_hash(key_hash: bytes, value_hash: bytes) -> bytes:
    return sha256(LEAF + key_hash + value_hash)


def inner_hash(left: bytes, right: bytes) -> bytes:
    return sha256(INNER + left + right)


def bit(key_hash: bytes, depth: int) -> int:
    """The side that the path to `key_hash` takes at `depth`: 0 is left."""
    return key_hash[depth >> 3] >> (7 - (depth & 7)) & 1


def verify_record(
    root: bytes,
    key: bytes,
    value: bytes | None,
    siblings: Sequence[bytes],
    leaf: tuple[bytes, bytes] | None = None,
) -> bool:
    """Whether the tree with `root` holds `value` under `key`, or nothing when `value` is None.

    `siblings` are the hashes beside the path to the key's place, the root's child first. That an
    absent key's place is taken by another one's leaf is shown by `leaf`: the hashes of that key
    and of its value. Never raises for bytes of any length.
    """
    depth = len(siblings)
    if depth > MAX_DEPTH or any(len(sibling) != HASH_BYTES for sibling in siblings):
        return False
    key_hash = sha256(key)
    if value is not None:
        if leaf is not None:
            return False
        current = leaf_hash(key_hash, sha256(value))
    elif leaf is None:
        current = EMPTY_HASH
    else:
        other, value_hash = leaf
        if len(other) != HASH_BYTES or len(value_hash) != HASH_BYTES:
            return False
        if other == key_hash or common_bits(other, key_hash) < depth:
            return False
        current = leaf_hash(other, value_hash)
    return climb(current, key_hash, siblings) == root


def climb(current: bytes, key_hash: bytes, siblings: Sequence[bytes]) -> bytes:
    """The root above a node with hash `current` that lies `len(siblings)` deep on the way to
    `key_hash`."""
    path = int.from_bytes(key_hash, "big") >> (MAX_DEPTH - len(siblings))
    for sibling in reversed(siblings):
        pair = sibling + current if path & 1 else current + sibling
        current = sha256(INNER + pair)
        path >>= 1
    return current


def common_bits(one: bytes, other: bytes) -> int:
    """How many bits two hashes share before the first that differs."""
    difference = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    return MAX_DEPTH - difference.bit_length()


def root_of(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The root of the tree that holds just these keys and values.

    Raises `ValueError` when a key comes twice.
    """
    leaves = []
    for key, value in records:
        key_hash = sha256(key)
        leaves.append((int.from_bytes(key_hash, "big"), leaf_hash(key_hash, sha256(value))))
    if not leaves:
        return EMPTY_HASH
    leaves.sort()
    # Left subtrees that wait for the right one, each with the depth of the fork above both.
    waiting: list[tuple[int, bytes]] = []
    last = len(leaves) - 1
    before = -1
    for position, (path, current) in enumerate(leaves):
        after = -1 if position == last else _fork(path, leaves[position + 1][0])
        depth = max(before, after) + 1
        while waiting and waiting[-1][0] > after:
            fork, left = waiting.pop()
            current = sha256(INNER + left + _lifted(current, path, depth, fork + 1))
            depth = fork
        if position < last:
            waiting.append((after, _lifted(current, path, depth, after + 1)))
            before = after
        else:
            current = _lifted(current, path, depth, 0)
    return current


def _fork(one: int, other: int) -> int:
    """The depth of the node where two paths part."""
    if one == other:
        raise ValueError("a tree holds a key once")
    return MAX_DEPTH - (one ^ other).bit_length()


def _lifted(current: bytes, path: int, depth: int, target: int) -> bytes:
    """What a node at `depth` becomes at `target`, alone below everything in between."""
    while depth > target:
        right = path >> (MAX_DEPTH - depth) & 1
        current = sha256(INNER + (EMPTY_HASH + current if right else current + EMPTY_HASH))
        depth -= 1
    return current


def list_root(items: Sequence[bytes]) -> bytes:
    """RFC 6962's tree head of a list; an empty one's is the hash of nothing."""
    if not items:
        return sha256(b"")
    level = [sha256(LEAF + item) for item in items]
    # Pairing neighbours and carrying an odd one up gives the RFC's split at powers of two.
    while len(level) > 1:
        paired = [
            sha256(INNER + level[place] + level[place + 1]) for place in range(0, len(level) - 1, 2)
        ]
        level = paired if len(level) % 2 == 0 else [*paired, level[-1]]
    return level[0]


def list_proof(items: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from an item to the list's root, the item's sibling first."""
    level = [sha256(LEAF + item) for item in items]
    aunts = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            aunts.append(level[sibling])
        paired = [
            sha256(INNER + level[place] + level[place + 1]) for place in range(0, len(level) - 1, 2)
        ]
        level = paired if len(level) % 2 == 0 else [*paired, level[-1]]
        index >>= 1
    return aunts


def verify_item(root: bytes, item: bytes, index: int, total: int, aunts: Sequence[bytes]) -> bool:
    """Whether a list of `total` items with this root holds `item` at `index`; see `list_proof`."""
    if not 0 <= index < total or any(len(aunt) != HASH_BYTES for aunt in aunts):
        return False
    current = sha256(LEAF + item)
    remaining = list(reversed(aunts))
    while total > 1:
        sibling = index ^ 1
        if sibling < total:
            if not remaining:
                return False
            aunt = remaining.pop()
            current = sha256(INNER + (aunt + current if index & 1 else current + aunt))
        index >>= 1
        total = (total + 1) // 2
    return not remaining and current == root


def map_items(entries: Mapping[str, bytes]) -> list[bytes]:
    """A map as the list that stands for it: ascending names, each with its value's hash, both
    length-prefixed (CometBFT's simple map)."""
    return [
        _length_prefixed(name.encode()) + _length_prefixed(sha256(value))
        for name, value in sorted(entries.items())
    ]


def map_root(entries: Mapping[str, bytes]) -> bytes:
    """The simple map's root: the app hash, when given the stores' roots by name."""
    return list_root(map_items(entries))


def _length_prefixed(data: bytes) -> bytes:
    if len(data) >= 128:
        raise ValueError("store names and hashes are shorter than 128 bytes")
    return bytes([len(data)]) + data

"""The app hash: a Merkle tree for each store, and one simple Merkle map over their roots.

The map is CometBFT's own (RFC 6962 hashing over length-prefixed pairs, in ascending order of
names), which its light clients and ICS-23's `TendermintSpec` verify.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial

from abci_app.core.merkle import EMPTY_HASH, update
from abci_app.core.state import STORES, Writes

ReadStoreNode = Callable[[str, bytes], "bytes | None"]
"""The stored tree node of a store at a path, or None."""


def store_of(key: bytes) -> str:
    """The store that a state key belongs to."""
    name, _, _ = key.partition(b"/")
    return name.decode()


def advance(
    read: ReadStoreNode, roots: Mapping[str, bytes], writes: Writes
) -> tuple[dict[str, bytes], dict[tuple[str, bytes], bytes | None]]:
    """Bring the stores' trees up to date with `writes`. Returns the new roots by store and the
    tree nodes to store by store and path."""
    by_store: dict[str, dict[bytes, bytes | None]] = {}
    for key, value in writes.items():
        by_store.setdefault(store_of(key), {})[key] = value
    new_roots = {store: roots.get(store, EMPTY_HASH) for store in STORES}
    nodes: dict[tuple[str, bytes], bytes | None] = {}
    for store, changes in sorted(by_store.items()):
        if store not in new_roots:
            raise ValueError("a key names no store")
        root, changed = update(partial(read, store), changes)
        new_roots[store] = root
        nodes.update({(store, path): node for path, node in changed.items()})
    return new_roots, nodes


def app_hash(roots: Mapping[str, bytes]) -> bytes:
    """The root of the simple map from store names to their trees' roots."""
    leaves = [
        _length_prefixed(name.encode()) + _length_prefixed(hashlib.sha256(root).digest())
        for name, root in sorted(roots.items())
    ]
    return _simple_root(leaves)


def _simple_root(leaves: list[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    # RFC 6962 splits at the largest power of two below the number of leaves.
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = _simple_root(leaves[:split]), _simple_root(leaves[split:])
    return hashlib.sha256(b"\1" + left + right).digest()


def _length_prefixed(data: bytes) -> bytes:
    if len(data) >= 128:
        raise ValueError("store names and hashes are shorter than 128 bytes")
    return bytes([len(data)]) + data

"""The app hash: a Merkle tree for each store, and one simple Merkle map over their roots.

The map is CometBFT's own (RFC 6962 hashing over length-prefixed pairs, in ascending order of
names), which its light clients and ICS-23's `TendermintSpec` verify.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

from abci_app.core.merkle import update
from planetserve.merkle import EMPTY_HASH, map_root
from planetserve.statekeys import STORES, store_of

ReadStoreNode = Callable[[str, bytes], "bytes | None"]
"""The stored tree node of a store at a path, or None."""


def advance(
    read: ReadStoreNode,
    roots: Mapping[str, bytes],
    writes: Mapping[bytes, bytes | None],
    cleared: Collection[str] = (),
) -> tuple[dict[str, bytes], dict[tuple[str, bytes], bytes | None]]:
    """Bring the stores' trees up to date with `writes`. Returns the new roots by store and the
    tree nodes to store by store and path.

    Stores in `cleared` lose all that they held but what `writes` puts there: whoever stores the
    nodes first drops every node of theirs, which costs nothing here for each record that goes.
    """
    by_store: dict[str, dict[bytes, bytes | None]] = {}
    for key, value in writes.items():
        store = store_of(key)
        if value is not None or store not in cleared:
            by_store.setdefault(store, {})[key] = value
    new_roots = {
        store: EMPTY_HASH if store in cleared else roots.get(store, EMPTY_HASH) for store in STORES
    }
    nodes: dict[tuple[str, bytes], bytes | None] = {}
    for store, changes in sorted(by_store.items()):
        if store not in new_roots:
            raise ValueError("a key names no store")
        source = _nothing if store in cleared else partial(read, store)
        new_roots[store], changed = update(source, changes)
        nodes.update({(store, path): node for path, node in changed.items()})
    return new_roots, nodes


def app_hash(roots: Mapping[str, bytes]) -> bytes:
    """The root of the simple map from store names to their trees' roots."""
    return map_root(roots)


def _nothing(path: bytes) -> None:
    """The nodes of an empty tree."""

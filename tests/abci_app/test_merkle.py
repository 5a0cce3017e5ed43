"""The stored Merkle tree: its root, its nodes and its proofs, whatever changed in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.apphash import advance, app_hash
from abci_app.core.merkle import compact_proof, root_of, update
from planetserve import merkle
from planetserve.merkle import EMPTY_HASH, map_root, verify_record

KEYS = st.integers(0, 40).map(lambda number: b"key-%d" % number)
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=4), max_size=12)
HISTORIES = st.lists(CHANGES, max_size=8)


class Tree:
    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.values: dict[bytes, bytes] = {}
        self.root = EMPTY_HASH

    def apply(self, changes: dict[bytes, bytes | None]) -> None:
        self.root, writes = update(self.nodes.get, changes)
        store(self.nodes, writes)
        store(self.values, changes)


def store(stored: dict[bytes, bytes], writes: dict[bytes, bytes | None]) -> None:
    for key, value in writes.items():
        if value is None:
            stored.pop(key, None)
        else:
            stored[key] = value


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
    assert tree.root == merkle.root_of(tree.values.items()) == root_of(tree.nodes.get)
    afresh = tree_of([dict(tree.values)])
    assert afresh.nodes == tree.nodes


@given(HISTORIES, KEYS)
def test_every_key_is_proven_present_or_absent(
    history: list[dict[bytes, bytes | None]], key: bytes
) -> None:
    tree = tree_of(history)
    siblings, leaf = compact_proof(tree.nodes.get, key)
    assert verify_record(tree.root, key, tree.values.get(key), siblings, leaf)
    assert not verify_record(tree.root, key, b"wrong", siblings, leaf)


def test_depth_grows_with_the_logarithm() -> None:
    tree = tree_of([{b"%d" % number: b"x" for number in range(4_096)}])
    depths = [len(compact_proof(tree.nodes.get, b"%d" % number)[0]) for number in range(4_096)]
    assert max(depths) <= 32
    _, writes = update(tree.nodes.get, {b"7": b"y"})
    assert len(writes) <= 33


def test_each_store_has_its_tree() -> None:
    nodes: dict[tuple[str, bytes], bytes] = {}
    writes = {b"nodes/a": b"1", b"nodes/b": b"2", b"models/a": b"3"}
    roots, changed = advance(lambda name, path: nodes.get((name, path)), {}, writes)
    assert roots["nodes"] == merkle.root_of([(b"nodes/a", b"1"), (b"nodes/b", b"2")])
    assert roots["models"] == merkle.root_of([(b"models/a", b"3")])
    assert roots["reveals"] == EMPTY_HASH
    assert {name for name, _ in changed} == {"nodes", "models"}
    assert app_hash(roots) == map_root(roots)
    with pytest.raises(ValueError, match="names no store"):
        advance(lambda name, path: None, {}, {b"elsewhere/a": b"1"})


def test_a_cleared_store_keeps_only_what_comes_with_it() -> None:
    """Its old nodes are not looked at: they are dropped whole."""
    before = {b"reveals/%d" % number: b"x" for number in range(50)}
    roots, nodes = advance(lambda name, path: None, {}, {**before, b"nodes/a": b"1"})

    def read(name: str, path: bytes) -> bytes | None:
        assert name != "reveals"
        return nodes.get((name, path))

    gone = {key: None for key in before}
    emptied, changed = advance(read, roots, {**gone, b"nodes/b": b"2"}, {"reveals", "commits"})
    assert emptied["reveals"] == emptied["commits"] == EMPTY_HASH
    assert emptied["nodes"] == merkle.root_of([(b"nodes/a", b"1"), (b"nodes/b", b"2")])
    assert {name for name, _ in changed} == {"nodes"}
    renewed, changed = advance(read, roots, {**gone, b"reveals/new": b"y"}, {"reveals"})
    assert renewed["reveals"] == merkle.root_of([(b"reveals/new", b"y")])
    assert [name for name, _ in changed] == ["reveals"]

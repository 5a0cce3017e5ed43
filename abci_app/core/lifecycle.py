"""A node's life, and what must change together at each of its turns.

    ──register──▶ waiting ──endorsed──▶ vouched for ──retire──▶ retired
                     ▲                      │                      │
                     └──last credential ends┘                      │
    forgotten ◀──nobody endorsed it for `candidate_blocks`─────────┘

Waiting nodes are counted, for their number is limited, and have a note under `expiries/` of when
they are forgotten, as retired ones have. Only forgetting takes their records away.
"""

from __future__ import annotations

from dataclasses import replace

from abci_app.core.codes import Code, Rejected
from abci_app.core.nodes import Node, is_weak, load_node, save_node
from abci_app.core.state import Reader, View, load
from planetserve.statekeys import (
    CANDIDATES_KEY,
    SUCCESSION,
    credentials_prefix,
    expiry_key,
    holder_key,
    node_key,
    reputation_key,
    rotation_key,
    route_key,
    waiting_key,
)


def candidates(reader: Reader) -> int:
    """How many nodes wait for a credential."""
    return int(load(reader, CANDIDATES_KEY) or 0)


def is_endorsed(reader: Reader, node: bytes) -> bool:
    """Whether any credential of a node is kept."""
    return next(iter(reader.scan(credentials_prefix(node))), None) is not None


def begin_waiting(view: View, node: Node, height: int, patience_blocks: int) -> Node:
    """Nobody endorses the node (any more)."""
    view.save(CANDIDATES_KEY, candidates(view) + 1)
    view.save(expiry_key(height + patience_blocks, node.id), None)
    waiting = replace(node, waiting=height)
    save_node(view, waiting)
    return waiting


def end_waiting(view: View, node: Node) -> Node:
    """Somebody endorses the node; it may be so already."""
    if not node.waiting:
        return node
    view.save(CANDIDATES_KEY, candidates(view) - 1)
    endorsed = replace(node, waiting=0)
    save_node(view, endorsed)
    return endorsed


def hold_keys(view: View, node: Node, *, vouched_for: bool) -> None:
    """Let no other node announce the keys of this one. A node that nobody vouches for gives way
    to one that begins, and is `vouched_for`: otherwise strangers could take the keys that
    somebody is about to announce."""
    for kind, key in node.held_keys:
        if is_weak(key):
            raise Rejected(Code.WEAK_KEY)
        holder = load(view, holder_key(kind, key))
        if holder is not None and holder != node.id:
            other = load_node(view, holder)
            if other is not None and not (vouched_for and other.waiting):
                raise Rejected(Code.KEY_IN_USE)
            if other is not None:
                forget(view, other)
        view.save(holder_key(kind, key), bytes(node.id))


def release_keys(view: View, node: Node) -> None:
    for kind, key in node.held_keys:
        if load(view, holder_key(kind, key)) == node.id:
            view.delete(holder_key(kind, key))


def drop_rotation(view: View, node: bytes) -> None:
    """Call off what the node has asked for in this epoch."""
    pending = load(view, rotation_key(node))
    if pending is not None:
        view.delete(rotation_key(node))
        view.delete(holder_key(SUCCESSION, pending["successor"]))


def retire(view: View, node: Node, height: int, patience_blocks: int) -> None:
    """The node leaves; its credentials are gone already. What is known of its conduct stays until
    it is forgotten."""
    drop_rotation(view, node.id)
    release_keys(view, node)
    view.save(expiry_key(height + patience_blocks, node.id), None)
    save_node(view, replace(node, retired=height, waiting=0))


def forget(view: View, node: Node) -> None:
    """Take away all that is kept of a node without credentials."""
    end_waiting(view, node)
    drop_rotation(view, node.id)
    release_keys(view, node)
    for former, _ in node.former:
        view.delete(holder_key(SUCCESSION, former))
    for key in (
        node_key(node.id),
        reputation_key(node.id),
        route_key(node.id),
        waiting_key(node.id),
    ):
        view.delete(key)


def is_forgotten_at(node: Node, height: int, patience_blocks: int) -> int | None:
    """The height at which the node is forgotten if nothing happens to it, None while it is
    endorsed. A vote may move it after the note under `expiries/` was made."""
    since = node.retired or node.waiting
    return None if not since else max(since + patience_blocks, height)

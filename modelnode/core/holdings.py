"""How much each node's engine holds, as far as its replies show.

An engine that says its capacity is taken at its word. Of another it is learned as TCP learns a
path's: a reply of which less was cached than the tree said shows that the engine has given up what
was used least recently, so the tree is cut back by `BACK_OFF`; each reply that had what it should
lets it hold a little more again.
"""

from __future__ import annotations

from planetserve.keys import NodeId

BACK_OFF = 0.9
GROWTH = 1.002
MIN_CHUNKS = 64
TOLERATED_SHARE = 0.1
"""Of the claimed tokens may be missing: blocks are rounded, and chunks of text are not tokens."""


class Holdings:
    """Of the nodes that `keep` named last. Chunks; None where nothing limits a node."""

    def __init__(self) -> None:
        self._told: dict[NodeId, int] = {}
        self._learned: dict[NodeId, float] = {}

    def keep(self, nodes: frozenset[NodeId]) -> None:
        self._told = {node: held for node, held in self._told.items() if node in nodes}
        self._learned = {node: held for node, held in self._learned.items() if node in nodes}

    def told(self, node: NodeId, chunks: int) -> None:
        self._told[node] = chunks

    def limit(self, node: NodeId) -> int | None:
        if node in self._told:
            return self._told[node]
        learned = self._learned.get(node)
        return None if learned is None else int(learned)

    def saw(self, node: NodeId, claimed_tokens: int, cached_tokens: int, held_chunks: int) -> None:
        """A reply of `node`, of which the tree says that it holds `held_chunks` in all."""
        if cached_tokens < claimed_tokens * (1 - TOLERATED_SHARE):
            self._learned[node] = max(held_chunks * BACK_OFF, MIN_CHUNKS)
        elif node in self._learned:
            self._learned[node] *= GROWTH

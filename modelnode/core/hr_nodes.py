"""The nodes of an HR-tree: a radix tree over fingerprints whose nodes count who holds them.

A node stands for a run of chunks that nothing parts yet. Its key is its parent and its first
fingerprint, its label the rest of the run. A hold is one told prefix of one owner: it counts at
each node from the root to where the prefix ends, which is always the end of a node. What nobody
holds is gone at once; a node that is held just as often as the only one below it is joined with
that one when something passes by.

Source: PlanetServe, section 4 (hash radix tree); radix trees: Morrison 1968.
"""

from __future__ import annotations

from modelnode.core.chunks import FINGERPRINT_BYTES, Path, common_chunks
from modelnode.core.keyed_rows import KeyedRows

ROOT = 0
NODE_BYTES = 48
"""Of a node without its label: four columns, the label's place and its part of the index."""
LABEL_BYTES = 40
"""Of a label that is not empty, without its fingerprints."""
HOLDER_BYTES = 28
MATCH_LIMIT = 16_384
"""Holders that one match looks at, deepest first: a thousandth of a second."""


class Nodes:
    """`secret` is a random number of 64 bits. Owners are integers below 65,535."""

    def __init__(self, secret: int) -> None:
        self._nodes = KeyedRows(secret, "III")
        self._keys = self._nodes.keys
        self._holds, self._children, self._first = self._nodes.columns
        self._rests = [b""]
        # A holder is an owner at a node; those of a node are a list from its `_first` on.
        self._holders = KeyedRows(secret, "II")
        self._owner_holds, self._next = self._holders.columns
        self._label_bytes = 0
        self.owned: dict[int, int] = {}
        """Chunks that each owner holds, none of them twice."""
        self.chunks = 0
        self.work = 0
        self.divergences = 0
        self.expected_false = [0.0, 0.0]

    @property
    def count(self) -> int:
        return self._nodes.count

    @property
    def holders(self) -> int:
        """Pairs of a node and an owner that holds it."""
        return self._holders.count

    @property
    def bytes(self) -> int:
        """About what all this takes in memory."""
        nodes, holders = NODE_BYTES * self.count, HOLDER_BYTES * self.holders
        return nodes + holders + self._label_bytes

    def parent(self, node: int) -> int:
        return self._keys[node] >> 16

    def length(self, node: int) -> int:
        """Chunks of a node."""
        return 1 + len(self._rests[node]) // FINGERPRINT_BYTES

    def match(self, path: Path) -> dict[int, int]:
        """Who holds how many chunks of `path` from its beginning on; those with the most first.
        After `MATCH_LIMIT` holders the search ends, without those who hold least."""
        steps: list[tuple[int, int]] = []
        node, at, end = ROOT, 0, len(path)
        while at < end:
            child = self._nodes.find(node << 16 | path[at] << 8 | path[at + 1])
            if not child:
                self._diverged(node)
                break
            rest = self._rests[child]
            at += FINGERPRINT_BYTES
            if path[at : at + len(rest)] != rest:
                common = common_chunks(rest, path[at : at + len(rest)])
                steps.append((child, at // FINGERPRINT_BYTES + common))
                break
            node = child
            at += len(rest)
            steps.append((node, at // FINGERPRINT_BYTES))
        found: dict[int, int] = {}
        left = MATCH_LIMIT
        keys, following = self._holders.keys, self._next
        for node, depth in reversed(steps):
            holder = self._first[node]
            while holder and left:
                found.setdefault(keys[holder] & 0xFFFF, depth)
                holder = following[holder]
                left -= 1
        return found

    def place(self, path: Path) -> list[int]:
        """The nodes that spell `path`, from the first to the one that it ends with; made where
        there are none. They are gone again unless `hold` follows."""
        nodes: list[int] = []
        node, at, end = ROOT, 0, len(path)
        while at < end:
            child = self._nodes.find(node << 16 | path[at] << 8 | path[at + 1])
            if not child:
                nodes.append(self._grow(node, path[at:]))
                break
            rest = self._rests[child]
            at += FINGERPRINT_BYTES
            following = path[at : at + len(rest)]
            if following != rest:
                child = self._split(child, 1 + common_chunks(rest, following))
                at += FINGERPRINT_BYTES * (self.length(child) - 1)
            elif node and self._holds[node] == self._holds[child]:
                at += len(rest)
                self._join(node, child)
                nodes.pop()
            else:
                at += len(rest)
            nodes.append(child)
            node = child
        self.work += len(nodes)
        return nodes

    def hold(self, nodes: list[int], owner: int) -> int:
        """Count a hold of `owner` at `nodes`, which `place` gave; how many chunks are new to it."""
        new = 0
        self.work += len(nodes)
        for node in nodes:
            self._holds[node] += 1
            key = node << 16 | owner
            holder = self._holders.find(key)
            if not holder:
                holder = self._hold_first(node, key)
                new += self.length(node)
            self._owner_holds[holder] += 1
        if new:
            self.owned[owner] = self.owned.get(owner, 0) + new
        return new

    def release(self, node: int, owner: int) -> None:
        """Give up one hold that ends with `node`."""
        below = ROOT
        while node:
            parent = self.parent(node)
            if self.release_step(node, owner):
                below = ROOT
            elif below and self._holds[below] == self._holds[node]:
                self._join(node, below)
            else:
                below = node
            node = parent

    def release_step(self, node: int, owner: int) -> bool:
        """Give up one hold at `node`, whose end it was, so that it ends with the parent; whether
        the node is gone with it."""
        self.work += 1
        holder = self._holders.find(node << 16 | owner)
        self._owner_holds[holder] -= 1
        if not self._owner_holds[holder]:
            self._forget_holder(node, holder)
            self._lose(owner, self.length(node))
        self._holds[node] -= 1
        if self._holds[node]:
            return False
        self._children[self.parent(node)] -= 1
        self._remove(node)
        return True

    def held_once(self, node: int, owner: int) -> bool:
        """Whether one hold is all that keeps `node` for `owner`."""
        return bool(self._owner_holds[self._holders.find(node << 16 | owner)] == 1)

    def shorten(self, node: int, chunks: int) -> int:
        """Part `node` so that the lower part has `chunks`; the node is the lower one, and the
        upper one is returned."""
        return self._split(node, self.length(node) - chunks)

    def _diverged(self, node: int) -> None:
        """Something new comes below `node`: how likely is it that it was taken for one of the
        node's children? Counted before it is known, with 8 and with 16 bits a fingerprint."""
        self.divergences += 1
        children = self._children[node]
        for place, bits in enumerate((8, 16)):
            self.expected_false[place] += 1 - (1 - 2.0**-bits) ** children

    def _grow(self, parent: int, label: Path) -> int:
        node = self._add(parent, label)
        self._children[parent] += 1
        self.chunks += self.length(node)
        return node

    def _split(self, node: int, chunks: int) -> int:
        """Part a node after `chunks`; the upper part is new and held like the lower one."""
        key, rest = self._keys[node], self._rests[node]
        cut = FINGERPRINT_BYTES * (chunks - 1)
        fingerprint, lower = rest[cut : cut + 2], rest[cut + 2 :]
        self._set_rest(node, lower)
        # The row of the node moves to its new key first, since two rows may not share one.
        upper = self._nodes.add((1 << 63) | node)
        self._nodes.rekey(node, upper << 16 | fingerprint[0] << 8 | fingerprint[1])
        self._nodes.rekey(upper, key)
        self._append_rest(upper)
        self._set_rest(upper, rest[:cut])
        self._holds[upper], self._children[upper] = self._holds[node], 1
        holder = self._first[node]
        while holder:
            owner = self._holders.keys[holder] & 0xFFFF
            copy = self._hold_first(upper, upper << 16 | owner)
            self._owner_holds[copy] = self._owner_holds[holder]
            holder = self._next[holder]
        return upper

    def _join(self, node: int, below: int) -> None:
        """Let `below` take over the label of its parent `node`, whose only child it is and which
        has the same holders."""
        key = self._keys[node]
        first = (self._keys[below] & 0xFFFF).to_bytes(2, "big")
        rest = self._rests[node] + first + self._rests[below]
        holder = self._first[node]
        while holder:
            following = self._next[holder]
            self._holders.remove(holder)
            holder = following
        self._first[node] = 0
        self._set_rest(node, b"")
        self._nodes.remove(node)
        self._nodes.rekey(below, key)
        self._set_rest(below, rest)

    def _add(self, parent: int, label: Path) -> int:
        node = self._nodes.add(parent << 16 | label[0] << 8 | label[1])
        self._append_rest(node)
        self._set_rest(node, label[2:])
        return node

    def _append_rest(self, node: int) -> None:
        if node == len(self._rests):
            self._rests.append(b"")

    def _remove(self, node: int) -> None:
        self.chunks -= self.length(node)
        self._set_rest(node, b"")
        self._nodes.remove(node)

    def _set_rest(self, node: int, rest: Path) -> None:
        old = self._rests[node]
        self._label_bytes += _label_bytes(rest) - _label_bytes(old)
        self._rests[node] = rest

    def _hold_first(self, node: int, key: int) -> int:
        holder = self._holders.add(key)
        self._next[holder] = self._first[node]
        self._first[node] = holder
        return holder

    def _forget_holder(self, node: int, holder: int) -> None:
        before = self._first[node]
        if before == holder:
            self._first[node] = self._next[holder]
        else:
            while self._next[before] != holder:
                before = self._next[before]
            self._next[before] = self._next[holder]
        self._holders.remove(holder)

    def _lose(self, owner: int, chunks: int) -> None:
        left = self.owned[owner] - chunks
        if left:
            self.owned[owner] = left
        else:
            del self.owned[owner]


def _label_bytes(rest: Path) -> int:
    return LABEL_BYTES + len(rest) if rest else 0

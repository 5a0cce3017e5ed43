"""The HR-tree: which node of a group holds which prefix in its cache, as far as was told.

What is told is a prompt with its reply, as a path of fingerprints (`modelnode.core.chunks`), with
the node whose engine holds it (its owner) and who told it (its teller). Each told prefix is one
item; it replaces the longest one of the same owner and teller that it goes on from. Items told
least recently are shortened from their ends, as an engine gives up its blocks, when the owner's
engine holds fewer chunks (`truncate`), and given up when the tree is full.

Chunks are charged to who told them first. Nobody can push out what others told: whose items give
way is decided by charge first, by age then.

Owners and tellers are integers below 65,535 that index tables kept elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelnode.core.chunks import FINGERPRINT_BYTES, Path
from modelnode.core.hr_nodes import Nodes
from modelnode.core.keyed_rows import KeyedRows

MAX_MEMBERS = 65_535
MAX_BYTES = 256 << 20
ITEM_BYTES = 44
ITEM_CHARGE_BYTES = 256
"""Charged for an item beside its chunks: two nodes at most are made for it, with their holders."""


@dataclass(slots=True)
class _Told:
    """Items of one owner from one teller, as a list from the least recently told one on, and the
    chunks charged to them."""

    oldest: int = 0
    newest: int = 0
    items: int = 0
    chunks: int = 0


@dataclass(frozen=True, slots=True)
class TreeStats:
    """`chunks` are distinct ones, `owned_chunks` pairs of a chunk and an owner that holds it,
    `holders` pairs of a node of the tree and an owner. `expected_false_8` and `_16` are the part
    of searches that left the tree at a known prefix and would have taken a wrong chunk for theirs
    with so many bits a fingerprint: 1-(1-2^-bits)^children, on average."""

    nodes: int
    holders: int
    items: int
    chunks: int
    owned_chunks: int
    bytes: int
    divergences: int
    expected_false_8: float
    expected_false_16: float


class HRTree:
    """`secret` is a random number of 64 bits; `max_bytes` bounds about what it takes in memory."""

    def __init__(self, secret: int, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._nodes = Nodes(secret)
        self._items = KeyedRows(secret, "dIII")
        self._told_s, self._older, self._newer, self._charges = self._items.columns
        self._owners: dict[int, dict[int, _Told]] = {}
        self._charged_bytes: dict[int, int] = {}

    @property
    def work(self) -> int:
        """Nodes that changes have passed since the beginning, about a millionth of a second each:
        what a peer's items cost is counted by it."""
        return self._nodes.work

    @property
    def bytes(self) -> int:
        """About what the tree takes in memory."""
        return self._nodes.bytes + ITEM_BYTES * self._items.count

    def match(self, path: Path) -> dict[int, int]:
        """Owners and how many chunks of `path` each holds from its beginning on, most first."""
        _require_path(path)
        return self._nodes.match(path)

    def insert(self, path: Path, owner: int, now_s: float, teller: int = 0) -> int:
        """`teller` says that `owner` holds `path`; how many of its chunks are new to the owner.
        `now_s` must not run backwards."""
        _require_path(path)
        if not (0 <= owner < MAX_MEMBERS and 0 <= teller < MAX_MEMBERS):
            raise ValueError("owners and tellers are integers below 65,535")
        if not path:
            return 0
        told = self._owners.setdefault(owner, {}).setdefault(teller, _Told())
        nodes = self._nodes.place(path)
        member = owner << 48 | teller << 32
        item = self._items.find(member | nodes[-1])
        if item:
            self._unlink(told, item)
            self._link(told, item, now_s)
            return 0
        before = len(nodes) - 2
        while before >= 0 and not item:
            item = self._items.find(member | nodes[before])
            before -= not item
        new = self._nodes.hold(nodes[before + 1 :], owner)
        if item:
            self._unlink(told, item)
            self._items.rekey(item, member | nodes[-1])
        else:
            item = self._items.add(member | nodes[-1])
            told.items += 1
            self._charged(teller, ITEM_CHARGE_BYTES)
        self._link(told, item, now_s)
        self._charge(teller, told, item, self._charges[item] + new)
        self._bound()
        return new

    def drop_owner(self, owner: int) -> None:
        """`owner` holds nothing any more."""
        for teller in list(self._owners.get(owner, ())):
            self.drop_told(owner, teller)

    def drop_teller(self, teller: int) -> None:
        """What `teller` told counts no more; what others told as well stays."""
        for owner in [owner for owner, tellers in self._owners.items() if teller in tellers]:
            self.drop_told(owner, teller)

    def drop_told(self, owner: int, teller: int) -> None:
        """What `teller` told of `owner` counts no more."""
        told = self._owners.get(owner, {}).get(teller)
        while told is not None and told.items:
            self._give_up(owner, teller, told, told.oldest)

    def truncate(self, owner: int, keep_chunks: int) -> None:
        """`owner`'s engine holds `keep_chunks` at most: shorten the items told least recently.

        Half of what it holds is shared out evenly among those who told something of it: items of
        a teller with less than its share are kept while others have more.
        """
        keep_chunks = max(keep_chunks, 0)
        while self.owned_chunks(owner) > keep_chunks:
            tellers = self._owners[owner]
            share = keep_chunks // (2 * len(tellers))
            above = [teller for teller, told in tellers.items() if told.chunks > share]
            victims = above or list(tellers)
            teller = min(victims, key=lambda teller: self._told_s[tellers[teller].oldest])
            self._shorten(owner, teller, self.owned_chunks(owner) - keep_chunks)

    def owned_chunks(self, owner: int) -> int:
        return self._nodes.owned.get(owner, 0)

    def stats(self) -> TreeStats:
        nodes = self._nodes
        false_8, false_16 = (total / max(nodes.divergences, 1) for total in nodes.expected_false)
        return TreeStats(
            nodes=nodes.count,
            holders=nodes.holders,
            items=self._items.count,
            chunks=nodes.chunks,
            owned_chunks=sum(nodes.owned.values()),
            bytes=self.bytes,
            divergences=nodes.divergences,
            expected_false_8=false_8,
            expected_false_16=false_16,
        )

    def _bound(self) -> None:
        """While there is too much, who is charged with most gives up what it told first."""
        while self.bytes > self._max_bytes and self._charged_bytes:
            teller = max(self._charged_bytes, key=lambda teller: self._charged_bytes[teller])
            owner = min(
                (owner for owner, tellers in self._owners.items() if teller in tellers),
                key=lambda owner: self._told_s[self._owners[owner][teller].oldest],
            )
            told = self._owners[owner][teller]
            self._give_up(owner, teller, told, told.oldest)

    def _shorten(self, owner: int, teller: int, chunks: int) -> None:
        """Take up to `chunks` that nothing else holds off the end of the teller's oldest item."""
        told = self._owners[owner][teller]
        item = told.oldest
        node = end = self._end(item)
        freed = 0
        while node and freed < chunks:
            parent = self._nodes.parent(node)
            if self._nodes.held_once(node, owner):
                excess = self._nodes.length(node) + freed - chunks
                if excess > 0:
                    parent = self._nodes.shorten(node, chunks - freed)
                freed += self._nodes.length(node)
            self._nodes.release_step(node, owner)
            node = parent
        left = max(self._charges[item] - freed, 0)
        member = owner << 48 | teller << 32
        if node != end:
            if not node or self._items.find(member | node):
                if node:
                    self._nodes.release(node, owner)
                self._remove(owner, teller, told, item)
                return
            self._items.rekey(item, member | node)
        self._charge(teller, told, item, left)

    def _give_up(self, owner: int, teller: int, told: _Told, item: int) -> None:
        self._nodes.release(self._end(item), owner)
        self._remove(owner, teller, told, item)

    def _remove(self, owner: int, teller: int, told: _Told, item: int) -> None:
        """Forget an item whose hold is given up."""
        self._charge(teller, told, item, 0)
        self._unlink(told, item)
        self._items.remove(item)
        told.items -= 1
        self._charged(teller, -ITEM_CHARGE_BYTES)
        if not told.items:
            del self._owners[owner][teller]
            if not self._owners[owner]:
                del self._owners[owner]

    def _end(self, item: int) -> int:
        return self._items.keys[item] & 0xFFFFFFFF

    def _charge(self, teller: int, told: _Told, item: int, chunks: int) -> None:
        more = chunks - self._charges[item]
        self._charges[item] = chunks
        told.chunks += more
        self._charged(teller, FINGERPRINT_BYTES * more)

    def _charged(self, teller: int, more_bytes: int) -> None:
        charged = self._charged_bytes.get(teller, 0) + more_bytes
        if charged:
            self._charged_bytes[teller] = charged
        else:
            self._charged_bytes.pop(teller, None)

    def _link(self, told: _Told, item: int, now_s: float) -> None:
        self._told_s[item] = now_s
        self._older[item], self._newer[item] = told.newest, 0
        if told.newest:
            self._newer[told.newest] = item
        else:
            told.oldest = item
        told.newest = item

    def _unlink(self, told: _Told, item: int) -> None:
        older, newer = self._older[item], self._newer[item]
        if older:
            self._newer[older] = newer
        else:
            told.oldest = newer
        if newer:
            self._older[newer] = older
        else:
            told.newest = older


def _require_path(path: Path) -> None:
    if len(path) % FINGERPRINT_BYTES:
        raise ValueError("a path has two bytes a chunk")

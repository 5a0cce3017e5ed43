"""What an origin and its readers keep alike of what it told: the last items, which later ones
refer to, and what its indices of owners stand for.

Both sides make the same steps in the same order, so a reference means the same path to both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from modelnode.core.chunks import FINGERPRINT_BYTES, Path, common_chunks
from modelnode.core.sync_messages import DIGEST_BYTES, MAX_BACK, MAX_OWNERS, Told, path_id
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId

MAX_STATE_BYTES = 512 << 10
"""Of the paths of an origin that are kept."""


@dataclass(slots=True)
class Kept:
    """`owner` is an index, None when the node was emptied since."""

    number: int
    owner: int | None
    path: Path


@dataclass(slots=True)
class Named:
    node: NodeId
    emptied: int = 0


@dataclass(slots=True)
class SyncState:
    """The last items in the order told, at most `MAX_BACK` and `MAX_STATE_BYTES` of paths; and by
    their ids twice as many paths, also of items that others took the place of."""

    items: list[Kept] = field(default_factory=list)
    owners: dict[int, Named] = field(default_factory=dict)
    _bytes: int = 0
    _named_paths: dict[bytes, Path] = field(default_factory=dict)
    _named_bytes: int = 0
    _told: int = 0

    def name(self, index: int, node: NodeId, emptied: int = 0) -> None:
        """Raises `RemoteProtocolError` when the index is not below `MAX_OWNERS`."""
        if not 0 <= index < MAX_OWNERS:
            raise RemoteProtocolError("an index of an owner is too high")
        if index in self.owners:
            self._void(index)
        self.owners[index] = Named(node, emptied)

    def empty(self, index: int) -> NodeId:
        """The node holds nothing any more. Raises `RemoteProtocolError` when it has no name."""
        named = self._named(index)
        named.emptied += 1
        self._void(index)
        return named.node

    def node(self, index: int) -> NodeId:
        """Raises `RemoteProtocolError` when the index has no name."""
        return self._named(index).node

    def tell(self, told: Told) -> tuple[Kept, list[Kept]]:
        """Keep one more item, in place of the one that it goes on from to the end. It, and those
        that are kept no more. Raises `RemoteProtocolError` when it refers to none."""
        gone: list[Kept] = []
        path = self._path(told)
        if told.back and replaces(told, self.items[-told.back]):
            gone.append(self.items.pop(-told.back))
            self._bytes -= len(gone[0].path)
        kept, more = self.add(told.owner, path)
        return kept, gone + more

    def add(self, owner: int | None, path: Path) -> tuple[Kept, list[Kept]]:
        """Keep one more item; it, and those that are kept no more. Raises
        `RemoteProtocolError` when its owner has no name."""
        if owner is not None:
            self._named(owner)
        gone: list[Kept] = []
        kept = self._append(owner, path)
        while not self._fits:
            gone.append(self.items.pop(0))
            self._bytes -= len(gone[-1].path)
        return kept, gone

    def path(self, identifier: bytes) -> Path | None:
        """The path of this id, of those told last."""
        return self._named_paths.get(identifier)

    def load(self, told: Told) -> Kept:
        """Keep one more item of a snapshot, beside the one that it goes on from. Raises
        `RemoteProtocolError` when it refers to none or too much is kept."""
        if told.owner is not None:
            self._named(told.owner)
        kept = self._append(told.owner, self._path(told))
        if not self._fits:
            raise RemoteProtocolError("a snapshot is too large")
        return kept

    def held(self) -> set[tuple[NodeId, Path]]:
        """Nodes and the paths that they hold."""
        return {
            (self.owners[item.owner].node, item.path)
            for item in self.items
            if item.owner is not None
        }

    def digest(self, chain: bytes) -> bytes:
        """Of all that is kept, and of the deltas that led to it."""
        hashed = blake2b(chain, digest_size=DIGEST_BYTES)
        for index, named in sorted(self.owners.items()):
            hashed.update(b"%d,%d;" % (index, named.emptied) + named.node)
        for item in self.items:
            owner = MAX_OWNERS if item.owner is None else item.owner
            hashed.update(b"%d,%d;" % (owner, len(item.path)) + item.path)
        return hashed.digest()

    def references(self) -> Iterator[Told]:
        """The items as a snapshot tells them: each refers to the one before it."""
        before = b""
        for item in self.items:
            keep = common_chunks(before, item.path)
            yield Told(item.owner, int(keep > 0), keep, item.path[keep * FINGERPRINT_BYTES :])
            before = item.path

    @property
    def _fits(self) -> bool:
        return len(self.items) <= MAX_BACK and self._bytes <= MAX_STATE_BYTES

    def _path(self, told: Told) -> Path:
        if not told.back:
            return told.new
        if told.back > len(self.items):
            raise RemoteProtocolError("an item refers to none")
        earlier = self.items[-told.back].path
        if told.keep * FINGERPRINT_BYTES > len(earlier):
            raise RemoteProtocolError("an item refers to more than there is")
        return earlier[: told.keep * FINGERPRINT_BYTES] + told.new

    def _append(self, owner: int | None, path: Path) -> Kept:
        self._told += 1
        kept = Kept(self._told, owner, path)
        self.items.append(kept)
        self._bytes += len(path)
        self._name_path(path)
        return kept

    def _name_path(self, path: Path) -> None:
        identifier = path_id(path)
        if self._named_paths.pop(identifier, None) is None:
            self._named_bytes += len(path)
        self._named_paths[identifier] = path
        while len(self._named_paths) > 2 * MAX_BACK or self._named_bytes > 2 * MAX_STATE_BYTES:
            oldest = next(iter(self._named_paths))
            self._named_bytes -= len(self._named_paths.pop(oldest))

    def _named(self, index: int) -> Named:
        named = self.owners.get(index)
        if named is None:
            raise RemoteProtocolError("an index of an owner has no name")
        return named

    def _void(self, index: int) -> None:
        for item in self.items:
            if item.owner == index:
                item.owner = None


def replaces(told: Told, earlier: Kept) -> bool:
    """Whether `told`, which refers to `earlier`, says all that `earlier` did."""
    return told.owner == earlier.owner and told.keep * FINGERPRINT_BYTES == len(earlier.path)

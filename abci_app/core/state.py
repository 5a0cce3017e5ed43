"""The state as a mapping of byte keys to MessagePack records, and views that stage changes to it.

`planetserve.statekeys` says where what is kept. Each store has its own Merkle tree
(`abci_app.core.apphash`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgpack

from planetserve.encoding import encode

Writes = Mapping[bytes, "bytes | None"]
"""New values by key; None deletes."""


class Reader(Protocol):
    """A state that can be read: a database, a snapshot of one, or a view."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix` and their values, in ascending order of keys."""
        ...


class MapReader:
    """A state held in memory."""

    def __init__(self, items: Mapping[bytes, bytes]) -> None:
        self._items = dict(items)

    def get(self, key: bytes) -> bytes | None:
        return self._items.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in sorted(key for key in self._items if key.startswith(prefix)):
            yield key, self._items[key]


EMPTY = MapReader({})


class View:
    """Reads through to `base` and keeps what is written in `writes`; views nest."""

    def __init__(self, base: Reader, writes: Writes | None = None) -> None:
        self._base = base
        self.writes: dict[bytes, bytes | None] = {}
        self._by_store: dict[bytes, list[bytes]] = {}
        self._unsorted: list[bytes] = []
        self.apply(writes or {})

    def get(self, key: bytes) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        return self._base.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """`prefix` begins with the name of a store and its slash."""
        self._sort()
        in_store = self._by_store.get(prefix[: prefix.index(b"/")], ())
        written = [(key, self.writes[key]) for key in in_store if key.startswith(prefix)]
        if not written:
            yield from self._base.scan(prefix)
            return
        written.sort(key=_key)
        below = (item for item in self._base.scan(prefix) if item[0] not in self.writes)
        for key, value in heapq.merge(below, written, key=_key):
            if value is not None:
                yield key, value

    def load(self, key: bytes) -> Any:
        """The record at `key`, or None."""
        return load(self, key)

    def save(self, key: bytes, record: Any) -> None:
        self._write(key, encode(record))

    def save_ordered(self, key: bytes, record: Any) -> None:
        """Like `save`, for what is written by the thousand: the maps of `record` must be built
        with their keys in ascending order, which is then not checked."""
        self._write(key, msgpack.packb(record))

    def delete(self, key: bytes) -> None:
        self._write(key, None)

    def apply(self, writes: Writes) -> None:
        """Take over what a view on top of this one has staged."""
        self._unsorted += [key for key in writes if key not in self.writes]
        self.writes.update(writes)

    def _write(self, key: bytes, value: bytes | None) -> None:
        if key not in self.writes:
            self._unsorted.append(key)
        self.writes[key] = value

    def _sort(self) -> None:
        """File by store what was written since the last scan; most views are never scanned."""
        for key in self._unsorted:
            self._by_store.setdefault(key[: key.index(b"/")], []).append(key)
        self._unsorted.clear()


def _key(item: tuple[bytes, bytes | None]) -> bytes:
    return item[0]


def load(reader: Reader, key: bytes) -> Any:
    """The decoded record at `key`, or None."""
    value = reader.get(key)
    return None if value is None else unpack(value)


def records(reader: Reader, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
    """The rest of each key after `prefix`, and its decoded record."""
    for key, value in reader.scan(prefix):
        yield key[len(prefix) :], unpack(value)


def unpack(value: bytes) -> Any:
    """Decode a record of our own, whose canonical form was settled when it was saved."""
    return msgpack.unpackb(value, raw=False)

"""The state as a mapping of byte keys to MessagePack records, and views that stage changes to it.

A key is `store/` followed by the store's own key, for example `nodes/` and a 20-byte id. Each
store has its own Merkle tree (`abci_app.core.apphash`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import msgpack

from planetserve.encoding import encode

STORES = (
    "accounts",
    "chain",
    "commits",
    "credentials",
    "epochs",
    "nodes",
    "quotas",
    "reputation",
    "results",
    "reveals",
    "verifiers",
)

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
        self.writes: dict[bytes, bytes | None] = dict(writes or {})

    def get(self, key: bytes) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        return self._base.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        written = sorted(
            (key, value) for key, value in self.writes.items() if key.startswith(prefix)
        )
        below = (item for item in self._base.scan(prefix) if item[0] not in self.writes)
        for key, value in heapq.merge(below, written, key=lambda item: item[0]):
            if value is not None:
                yield key, value

    def load(self, key: bytes) -> Any:
        """The record at `key`, or None."""
        return load(self, key)

    def save(self, key: bytes, record: Any) -> None:
        self.writes[key] = encode(record)

    def delete(self, key: bytes) -> None:
        self.writes[key] = None

    def apply(self, writes: Writes) -> None:
        """Take over what a view on top of this one has staged."""
        self.writes.update(writes)


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


# Keys. Epochs are 8 bytes, big-endian, so that scans give them in order.

CHAIN_KEY = b"chain/main"
CANDIDATES_KEY = b"chain/candidates"


def epoch_bytes(epoch: int) -> bytes:
    return epoch.to_bytes(8, "big")


def account_key(account: bytes) -> bytes:
    return b"accounts/" + account


def verifier_key(verifier: bytes) -> bytes:
    return b"verifiers/" + verifier


def node_key(node: bytes) -> bytes:
    return b"nodes/" + node


def credentials_prefix(node: bytes, role: str = "") -> bytes:
    """All credentials of a node, or those for one role."""
    return b"credentials/" + node + (role.encode() + b"/" if role else b"")


def credential_key(node: bytes, role: str, endorser: bytes) -> bytes:
    return credentials_prefix(node, role) + endorser


def quotas_prefix(epoch: int) -> bytes:
    return b"quotas/" + epoch_bytes(epoch)


def quota_key(epoch: int, verifier: bytes) -> bytes:
    return quotas_prefix(epoch) + verifier


def reputation_key(node: bytes) -> bytes:
    return b"reputation/" + node


def commits_prefix(epoch: int, prober: bytes = b"") -> bytes:
    return b"commits/" + epoch_bytes(epoch) + prober


def commit_key(epoch: int, prober: bytes, commitment: bytes) -> bytes:
    return commits_prefix(epoch, prober) + commitment


def reveals_prefix(epoch: int, node: bytes = b"") -> bytes:
    return b"reveals/" + epoch_bytes(epoch) + node


def reveal_key(epoch: int, node: bytes, prober: bytes) -> bytes:
    return reveals_prefix(epoch, node) + prober


def epoch_key(epoch: int) -> bytes:
    return b"epochs/" + epoch_bytes(epoch)


def result_key(node: bytes, epoch: int) -> bytes:
    return b"results/" + node + epoch_bytes(epoch)


def results_prefix(node: bytes) -> bytes:
    return b"results/" + node

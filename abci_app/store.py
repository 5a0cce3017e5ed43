"""The committed state in LevelDB.

    s/ STORE / KEY      a state record
    t/ STORE / PATH     a Merkle tree node
    m/ NAME             chain id, format, height, app hash, store roots

`commit` writes one synced batch, so after a crash the database holds one height, whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import plyvel

from abci_app.core.merkle import EMPTY_HASH
from abci_app.core.state import STORES, Writes
from planetserve.encoding import EncodingError, decode, encode
from planetserve.errors import ConfigurationError

FORMAT = 1
"""Raised when the layout or the meaning of what is stored changes."""
CACHE_BYTES = 8 << 20
WRITE_BUFFER_BYTES = 4 << 20
FORMAT_KEY, CHAIN_KEY, HEAD_KEY = b"m/format", b"m/chain_id", b"m/head"

TreeNodes = Mapping[tuple[str, bytes], "bytes | None"]


@dataclass(frozen=True, slots=True)
class Head:
    """The last committed height, its app hash and each store's root."""

    height: int
    app_hash: bytes
    roots: Mapping[str, bytes]


NOTHING = Head(0, b"", {store: EMPTY_HASH for store in STORES})


class Snapshot:
    """The state and trees of one height; later commits do not change it."""

    def __init__(self, snapshot: plyvel.Snapshot, head: Head) -> None:
        self._snapshot = snapshot
        self.head = head

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._snapshot.get(b"s/" + key)
        return value

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._snapshot.iterator(prefix=b"s/" + prefix) as iterator:
            for key, value in iterator:
                yield key[2:], value

    def tree_node(self, store: str, path: bytes) -> bytes | None:
        value: bytes | None = self._snapshot.get(tree_key(store, path))
        return value

    def close(self) -> None:
        self._snapshot.close()


class Store:
    """One process has it open at a time; `latest` is the state that reads are served from."""

    def __init__(self, database: plyvel.DB, head: Head) -> None:
        self._database = database
        self.latest = Snapshot(database.snapshot(), head)

    @property
    def head(self) -> Head:
        return self.latest.head

    def commit(self, head: Head, writes: Writes, nodes: TreeNodes) -> None:
        """Make `head` the committed state: one batch, on disk before this returns."""
        with self._database.write_batch(transaction=True, sync=True) as batch:
            for key, value in writes.items():
                _put(batch, b"s/" + key, value)
            for (store, path), node in nodes.items():
                _put(batch, tree_key(store, path), node)
            batch.put(HEAD_KEY, _encode_head(head))
        former, self.latest = self.latest, Snapshot(self._database.snapshot(), head)
        former.close()

    def close(self) -> None:
        self.latest.close()
        self._database.close()


def open_store(folder: Path, chain_id: str) -> Store:
    """Open the database in `folder`, or make it for `chain_id`.

    Raises `ConfigurationError`, having changed nothing, when the database belongs to another
    chain, was written by a newer version, is damaged or is open in another process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        database = plyvel.DB(
            str(folder),
            create_if_missing=True,
            lru_cache_size=CACHE_BYTES,
            write_buffer_size=WRITE_BUFFER_BYTES,
            bloom_filter_bits=10,
            max_open_files=64,
        )
    except plyvel.Error as error:
        reason = b" ".join(part for part in error.args if isinstance(part, bytes)).decode()
        raise ConfigurationError(
            f"cannot open the ledger's database {folder}: {reason}. If another ps-node uses it, "
            "stop that one; if it is damaged, move it away and let the node fetch the chain again"
        ) from error
    try:
        return Store(database, _checked_head(database, folder, chain_id))
    except (ConfigurationError, plyvel.Error):
        database.close()
        raise


def _checked_head(database: plyvel.DB, folder: Path, chain_id: str) -> Head:
    stored_format, stored_chain = database.get(FORMAT_KEY), database.get(CHAIN_KEY)
    if stored_format is None and stored_chain is None:
        with database.write_batch(transaction=True, sync=True) as batch:
            batch.put(FORMAT_KEY, str(FORMAT).encode())
            batch.put(CHAIN_KEY, chain_id.encode())
        return NOTHING
    damaged = ConfigurationError(
        f"the ledger's database {folder} is damaged; move it away and let the node fetch the "
        "chain again"
    )
    if stored_format is None or stored_chain is None or not stored_format.isdigit():
        raise damaged
    if int(stored_format) != FORMAT:
        raise ConfigurationError(
            f"the ledger's database {folder} has format {int(stored_format)} and this version of "
            f"PlanetServe reads format {FORMAT}; run the version that wrote it"
        )
    if stored_chain != chain_id.encode():
        raise ConfigurationError(
            f"the ledger's database {folder} belongs to the chain "
            f"{stored_chain.decode(errors='replace')!r}, not to {chain_id!r}; give each chain a "
            "home of its own"
        )
    stored_head = database.get(HEAD_KEY)
    if stored_head is None:
        return NOTHING
    try:
        content = decode(stored_head)
        return Head(content["height"], content["app_hash"], content["roots"])
    except (EncodingError, KeyError, TypeError) as error:
        raise damaged from error


def tree_key(store: str, path: bytes) -> bytes:
    return b"t/" + store.encode() + b"/" + path


def _encode_head(head: Head) -> bytes:
    return encode({"height": head.height, "app_hash": head.app_hash, "roots": dict(head.roots)})


def _put(batch: plyvel.WriteBatch, key: bytes, value: bytes | None) -> None:
    if value is None:
        batch.delete(key)
    else:
        batch.put(key, value)

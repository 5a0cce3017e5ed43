"""The committed state in LevelDB.

    s/ STORE / KEY            a state record
    t/ STORE / GEN PATH       a Merkle tree node; GEN is the height at which the store was last
                              emptied whole, 8 bytes
    m/ NAME                   chain id, format, height, app hash, store roots
    m/ roots/ HEIGHT          the roots of recent heights, to find where two nodes part

`commit` writes one synced batch, so after a crash the database holds one height, whole. A store
that is emptied leaves its tree's nodes behind under an old generation; `sweep` deletes them when
there is time. A database without a height holds nothing: what a broken restore left is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import plyvel

from abci_app.core.apphash import app_hash
from abci_app.core.merkle import root_of
from abci_app.core.state import Writes
from abci_app.crash import crash_point
from planetserve.encoding import EncodingError, decode, encode
from planetserve.errors import ConfigurationError
from planetserve.merkle import EMPTY_HASH
from planetserve.statekeys import STORES, big_endian

FORMAT = 2
"""Raised when the layout or the meaning of what is stored changes."""
CACHE_BYTES = 16 << 20
WRITE_BUFFER_BYTES = 4 << 20
KEPT_ROOTS = 1_000
"""Heights whose roots stay readable."""
SWEPT_AT_ONCE = 1_000
FORMAT_KEY, CHAIN_KEY, HEAD_KEY = b"m/format", b"m/chain_id", b"m/head"
RECORDS, TREES, ROOTS = b"s/", b"t/", b"m/roots/"

TreeNodes = Mapping[tuple[str, bytes], "bytes | None"]


@dataclass(frozen=True, slots=True)
class Head:
    """The last committed height, its app hash, each store's root, and the heights at which
    stores were emptied."""

    height: int
    app_hash: bytes
    roots: Mapping[str, bytes]
    generations: Mapping[str, int] = field(default_factory=dict)


NOTHING = Head(0, b"", {store: EMPTY_HASH for store in STORES})


class Snapshot:
    """The state and trees of one height; later commits do not change it. Any thread may read it,
    and LevelDB releases it when the last reader lets go of it."""

    def __init__(self, snapshot: plyvel.Snapshot, head: Head) -> None:
        self._snapshot = snapshot
        self.head = head

    @property
    def height(self) -> int:
        return self.head.height

    @property
    def roots(self) -> Mapping[str, bytes]:
        return self.head.roots

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._snapshot.get(RECORDS + key)
        return value

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._snapshot.iterator(prefix=RECORDS + prefix) as iterator:
            for key, value in iterator:
                yield key[2:], value

    def everything(self) -> Iterator[tuple[bytes, bytes]]:
        """Every record in ascending order of keys, its checksum verified on the way."""
        with self._snapshot.iterator(
            prefix=RECORDS, verify_checksums=True, fill_cache=False
        ) as iterator:
            for key, value in iterator:
                yield key[2:], value

    def tree_node(self, store: str, path: bytes) -> bytes | None:
        value: bytes | None = self._snapshot.get(tree_key(self.head, store, path))
        return value


class Store:
    """One process has it open at a time. `latest` is the state of the last height and `previous`
    that of the height before, which is None until a block was committed here."""

    def __init__(self, database: plyvel.DB, head: Head) -> None:
        self._database = database
        self._states: tuple[Snapshot, Snapshot | None] = (Snapshot(database.snapshot(), head), None)

    @property
    def latest(self) -> Snapshot:
        return self._states[0]

    @property
    def previous(self) -> Snapshot | None:
        return self._states[1]

    @property
    def states(self) -> tuple[Snapshot, Snapshot | None]:
        """`latest` and `previous`, of one moment."""
        return self._states

    @property
    def head(self) -> Head:
        return self.latest.head

    def commit(self, head: Head, writes: Writes, nodes: TreeNodes) -> None:
        """Make `head` the committed state: one batch, on disk before this returns."""
        with self._database.write_batch(transaction=True, sync=True) as batch:
            _put_state(batch, head, writes, nodes)
            batch.put(HEAD_KEY, _encode_head(head))
            batch.put(
                ROOTS + big_endian(head.height),
                encode({"app_hash": head.app_hash, "roots": dict(head.roots)}),
            )
            if head.height > KEPT_ROOTS:
                batch.delete(ROOTS + big_endian(head.height - KEPT_ROOTS))
            crash_point("before-write")
        crash_point("after-write")
        former = self.latest if self.head.height else None
        self._states = (Snapshot(self._database.snapshot(), head), former)

    def roots_at(self, height: int) -> tuple[bytes, Mapping[str, bytes]] | None:
        """The app hash and roots of a recent height."""
        stored = self._database.get(ROOTS + big_endian(height))
        if stored is None:
            return None
        content = decode(stored)
        return content["app_hash"], content["roots"]

    def load(self, head: Head, writes: Writes, nodes: TreeNodes) -> None:
        """Put part of a restored state in place; `commit` makes it count. `head` tells the trees'
        generations."""
        if self.head.height:
            raise ValueError("a ledger that has a height is not restored over")
        with self._database.write_batch(transaction=True, sync=True) as batch:
            _put_state(batch, head, writes, nodes)
        self._states = (Snapshot(self._database.snapshot(), self.head), None)

    def drop_loaded(self) -> None:
        """Delete what `load` has put in place without a `commit`."""
        if self.head.height:
            raise ValueError("a ledger that has a height is not emptied")
        for prefix in (RECORDS, TREES):
            while self._delete_some(prefix, prefix[:-1] + b"0"):
                pass
        self._states = (Snapshot(self._database.snapshot(), NOTHING), None)

    def sweep(self) -> bool:
        """Delete some of the tree nodes of older generations; whether there may be more."""
        more = False
        for store, generation in self.head.generations.items():
            prefix = TREES + store.encode() + b"/"
            more |= self._delete_some(prefix, prefix + big_endian(generation))
        return more

    def compact(self) -> None:
        """Let LevelDB give back the room of what was deleted; takes seconds."""
        self._database.compact_range()

    def approximate_bytes(self, prefix: bytes) -> int:
        """How much of the disk the keys with `prefix` take."""
        return int(self._database.approximate_size(prefix, prefix + b"\xff"))

    def close(self) -> None:
        self._database.close()

    def _delete_some(self, start: bytes, stop: bytes) -> bool:
        keys = []
        with self._database.iterator(
            start=start, stop=stop, include_value=False, fill_cache=False
        ) as iterator:
            for key in iterator:
                keys.append(key)
                if len(keys) == SWEPT_AT_ONCE:
                    break
        with self._database.write_batch() as batch:
            for key in keys:
                batch.delete(key)
        return len(keys) == SWEPT_AT_ONCE


def open_store(folder: Path, chain_id: str) -> Store:
    """Open the database in `folder`, or make it for `chain_id`.

    Raises `ConfigurationError`, having changed nothing, when the database belongs to another
    chain, was written by another version, is damaged or is open in another process.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        database = plyvel.DB(
            str(folder),
            create_if_missing=True,
            # Of a log with a damaged middle LevelDB would else keep the beginning and go on.
            paranoid_checks=True,
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
        store = Store(database, _checked_head(database, folder, chain_id))
        if store.head.height:
            _check_trees(store, folder)
        else:
            store.drop_loaded()
    except plyvel.Error as error:
        database.close()
        raise _damaged(folder) from error
    except ConfigurationError:
        database.close()
        raise
    return store


def _checked_head(database: plyvel.DB, folder: Path, chain_id: str) -> Head:
    stored_format, stored_chain = database.get(FORMAT_KEY), database.get(CHAIN_KEY)
    if stored_format is None and stored_chain is None:
        with database.iterator(include_value=False) as iterator:
            if next(iterator, None) is not None:
                raise _damaged(folder)
        with database.write_batch(transaction=True, sync=True) as batch:
            batch.put(FORMAT_KEY, str(FORMAT).encode())
            batch.put(CHAIN_KEY, chain_id.encode())
        return NOTHING
    if stored_format is None or stored_chain is None or not stored_format.isdigit():
        raise _damaged(folder)
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
    return NOTHING if stored_head is None else _decode_head(stored_head, folder)


def _check_trees(store: Store, folder: Path) -> None:
    """Whether height, roots and trees belong together, as far as a few reads can tell."""
    latest = store.latest
    roots = {name: root_of(partial(latest.tree_node, name)) for name in STORES}
    if roots != latest.head.roots or app_hash(roots) != latest.head.app_hash:
        raise _damaged(folder)


def _damaged(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"the ledger's database {folder} is damaged; move it away and let the node fetch the "
        "chain again. Nothing was changed"
    )


def tree_key(head: Head, store: str, path: bytes) -> bytes:
    return TREES + store.encode() + b"/" + big_endian(head.generations.get(store, 0)) + path


def _put_state(batch: plyvel.WriteBatch, head: Head, writes: Writes, nodes: TreeNodes) -> None:
    for key, value in writes.items():
        _put(batch, RECORDS + key, value)
    prefixes = {store: tree_key(head, store, b"") for store in STORES}
    for (store, path), node in nodes.items():
        _put(batch, prefixes[store] + path, node)


def _put(batch: plyvel.WriteBatch, key: bytes, value: bytes | None) -> None:
    if value is None:
        batch.delete(key)
    else:
        batch.put(key, value)


def _encode_head(head: Head) -> bytes:
    return encode(
        {
            "height": head.height,
            "app_hash": head.app_hash,
            "roots": dict(head.roots),
            "generations": dict(head.generations),
        }
    )


def _decode_head(stored: bytes, folder: Path) -> Head:
    try:
        content = decode(stored)
        head = Head(
            content["height"], content["app_hash"], content["roots"], content["generations"]
        )
        if set(head.roots) != set(STORES) or not set(head.generations) <= set(STORES):
            raise ValueError("stores")
    except (EncodingError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder) from error
    return head

"""The committed state in LevelDB.

    s/ STORE / KEY            a state record
    t/ STORE / GEN PATH       a Merkle tree node; GEN is the height at which the store was last
                              emptied whole, 8 bytes
    m/ NAME                   chain id, format, height, app hash, store roots
    m/ roots/ HEIGHT          the roots of recent heights, to find where two nodes part
    m/ times/ HEIGHT          the time of a block, of one in some, to find which are old
    m/ restoring              there while a restore runs: all that is here may be dropped
    m/ restored               there from the end of a restore to the next block

`commit` writes one synced batch, so after a crash the database holds one height, whole. A store
that is emptied leaves its tree's nodes behind under an old generation; `sweep` deletes them when
there is time. A database without a height holds nothing, except for what a restore that broke off
left there. Every read checks LevelDB's checksums: a changed bit on the disk ends the node instead
of taking it to another app hash.
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
CACHE_BYTES = 2 << 20
WRITE_BUFFER_BYTES = 4 << 20
KEPT_ROOTS = 1_000
"""Heights whose roots stay readable."""
SWEPT_AT_ONCE = 1_000
FORMAT_KEY, CHAIN_KEY, HEAD_KEY = b"m/format", b"m/chain_id", b"m/head"
RESTORING_KEY, RESTORED_KEY = b"m/restoring", b"m/restored"
RECORDS, TREES, ROOTS, TIMES = b"s/", b"t/", b"m/roots/", b"m/times/"

TreeNodes = Mapping[tuple[str, bytes], "bytes | None"]


class DamagedError(ConfigurationError):
    """LevelDB has found bytes that are not what was written."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(
            f"the ledger's database{f' {folder}' if folder else ''} is damaged; move it away and "
            "let the node fetch the chain again. Nothing was changed"
        )


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
        """Raises `DamagedError`, as all reads do."""
        return self._read(RECORDS + key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        return self._scan(prefix, fill_cache=True)

    def everything(self) -> Iterator[tuple[bytes, bytes]]:
        """Every record in ascending order of keys, past the cache."""
        return self._scan(b"", fill_cache=False)

    def tree_node(self, store: str, path: bytes) -> bytes | None:
        return self._read(tree_key(self.head, store, path))

    def _read(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._snapshot.get(key, verify_checksums=True)
        except plyvel.Error as error:
            raise DamagedError from error
        return value

    def _scan(self, prefix: bytes, *, fill_cache: bool) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._snapshot.iterator(
                prefix=RECORDS + prefix, verify_checksums=True, fill_cache=fill_cache
            ) as iterator:
                for key, value in iterator:
                    yield key[len(RECORDS) :], value
        except plyvel.Error as error:
            raise DamagedError from error


class Store:
    """One process has it open at a time. `latest` is the state of the last height and `previous`
    that of the height before, which is None until a block was committed here."""

    def __init__(self, database: plyvel.DB, head: Head) -> None:
        self._database = database
        self._fresh = self.restored
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

    @property
    def restored(self) -> bool:
        """Whether the state was restored and no block was committed since. Consensus may know
        nothing of it yet."""
        return self._database.get(RESTORED_KEY) is not None

    def commit(
        self, head: Head, writes: Writes, nodes: TreeNodes, *, restored: bool = False
    ) -> None:
        """Make `head` the committed state: one batch, on disk before this returns. `restored`
        says that it is the end of a restore."""
        with self._database.write_batch(transaction=True, sync=True) as batch:
            _put_state(batch, head, writes, nodes)
            if restored:
                batch.delete(RESTORING_KEY)
                batch.put(RESTORED_KEY, str(head.height).encode())
            elif self._fresh:
                batch.delete(RESTORED_KEY)
            batch.put(HEAD_KEY, _encode_head(head))
            batch.put(
                ROOTS + big_endian(head.height),
                encode({"app_hash": head.app_hash, "roots": dict(head.roots)}),
            )
            if head.height > KEPT_ROOTS:
                batch.delete(ROOTS + big_endian(head.height - KEPT_ROOTS))
            crash_point("before-write")
        crash_point("after-write")
        self._fresh = restored
        former = self.latest if self.head.height else None
        self._states = (Snapshot(self._database.snapshot(), head), former)

    def roots_at(self, height: int) -> tuple[bytes, Mapping[str, bytes]] | None:
        """The app hash and roots of a recent height."""
        stored = self._database.get(ROOTS + big_endian(height), verify_checksums=True)
        if stored is None:
            return None
        content = decode(stored)
        return content["app_hash"], content["roots"]

    def note_time(self, height: int, time_s: int) -> None:
        """Remember the time of a block, in Unix seconds. It is no part of the state: after a
        crash the last ones may be missing."""
        self._database.put(TIMES + big_endian(height), big_endian(time_s))

    def height_before(self, time_s: int) -> int:
        """The greatest height of those whose time was noted that is not later than `time_s`, 0 if
        there is none. Forgets the ones before it."""
        found = 0
        older = []
        with self._database.iterator(prefix=TIMES, verify_checksums=True) as iterator:
            for key, value in iterator:
                if int.from_bytes(value, "big") > time_s:
                    break
                found = int.from_bytes(key[len(TIMES) :], "big")
                older.append(key)
        with self._database.write_batch() as batch:
            for key in older[:-1]:
                batch.delete(key)
        return found

    def load(self, head: Head, writes: Writes, nodes: TreeNodes) -> None:
        """Put part of a restored state in place; `commit` makes it count. `head` tells the trees'
        generations."""
        if self.head.height:
            raise ValueError("a ledger that has a height is not restored over")
        with self._database.write_batch(transaction=True, sync=True) as batch:
            batch.put(RESTORING_KEY, b"")
            _put_state(batch, head, writes, nodes)
        self._states = (Snapshot(self._database.snapshot(), self.head), None)

    def drop_loaded(self) -> None:
        """Delete what `load` has put in place without a `commit`, and give back its room."""
        if self.head.height:
            raise ValueError("a ledger that has a height is not emptied")
        dropped = False
        for prefix in (RECORDS, TREES, ROOTS, TIMES):
            while self._delete_some(prefix, prefix[:-1] + b"0"):
                dropped = True
        self._database.delete(RESTORING_KEY, sync=True)
        if dropped:
            self.compact()
        self._states = (Snapshot(self._database.snapshot(), NOTHING), None)

    def drop_restored(self) -> None:
        """Empty a ledger whose state was restored and that has committed no block since."""
        if not self.restored:
            raise ValueError("only a ledger that was just restored is emptied")
        with self._database.write_batch(transaction=True, sync=True) as batch:
            batch.put(RESTORING_KEY, b"")
            batch.delete(HEAD_KEY)
            batch.delete(RESTORED_KEY)
        self._fresh = False
        self._states = (Snapshot(self._database.snapshot(), NOTHING), None)
        self.drop_loaded()

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
        elif database.get(RESTORING_KEY, verify_checksums=True) is not None:
            store.drop_loaded()
        elif not _is_empty(database):
            # Not a restore that broke off, so something took the height away.
            raise DamagedError(folder)
    except plyvel.Error as error:
        database.close()
        raise DamagedError(folder) from error
    except ConfigurationError:
        database.close()
        raise
    return store


def _checked_head(database: plyvel.DB, folder: Path, chain_id: str) -> Head:
    stored_format = database.get(FORMAT_KEY, verify_checksums=True)
    stored_chain = database.get(CHAIN_KEY, verify_checksums=True)
    if stored_format is None and stored_chain is None:
        with database.iterator(include_value=False) as iterator:
            if next(iterator, None) is not None:
                raise DamagedError(folder)
        with database.write_batch(transaction=True, sync=True) as batch:
            batch.put(FORMAT_KEY, str(FORMAT).encode())
            batch.put(CHAIN_KEY, chain_id.encode())
        return NOTHING
    if stored_format is None or stored_chain is None or not stored_format.isdigit():
        raise DamagedError(folder)
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
    stored_head = database.get(HEAD_KEY, verify_checksums=True)
    return NOTHING if stored_head is None else _decode_head(stored_head, folder)


def _is_empty(database: plyvel.DB) -> bool:
    for prefix in (RECORDS, TREES, ROOTS):
        with database.iterator(prefix=prefix, include_value=False) as iterator:
            if next(iterator, None) is not None:
                return False
    return True


def _check_trees(store: Store, folder: Path) -> None:
    """Whether height, roots and trees belong together, as far as a few reads can tell."""
    latest = store.latest
    roots = {name: root_of(partial(latest.tree_node, name)) for name in STORES}
    if roots != latest.head.roots or app_hash(roots) != latest.head.app_hash:
        raise DamagedError(folder)


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
        raise DamagedError(folder) from error
    return head

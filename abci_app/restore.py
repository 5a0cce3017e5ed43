"""Joining from a state-sync snapshot: peers' chunks become the ledger of their height.

Chunks are checked against the hashes that the snapshot was offered with, and the whole against
the app hash that CometBFT's light client has verified. Until that holds the database has no
height, so nothing of a restore that fails or breaks off counts; see `abci_app.store`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from abci_app.application import Application
from abci_app.core.apphash import advance, app_hash
from abci_app.core.chain import load_chain
from abci_app.core.chunks import (
    FORMAT,
    MAX_CHUNK_BYTES,
    ChunkError,
    Manifest,
    read_chunk,
    read_manifest,
    snapshot_hash,
)
from abci_app.core.upgrades import require_known
from abci_app.crash import crash_point
from abci_app.store import Head, Store
from planetserve.logs import get_logger
from planetserve.merkle import sha256

RECORDS_AT_ONCE = 5_000
RESTORE_BYTES = 32 << 30
DISK_SHARE = 3
"""A snapshot's bytes on the disk: CometBFT's copy of it, the records, and their trees."""

log = get_logger()


class Offered(Enum):
    """What becomes of a snapshot that was offered."""

    ACCEPTED = auto()
    REFUSED = auto()
    WRONG_FORMAT = auto()
    LIE = auto()
    """Whoever offers it is not to be asked for anything else."""
    NOT_WANTED = auto()
    """This node has a state of its own."""


class Applied(Enum):
    """What becomes of a chunk."""

    ACCEPTED = auto()
    DAMAGED = auto()
    """It is not the one that was offered: fetch it again, from somebody else."""
    SNAPSHOT_REFUSED = auto()
    START_AGAIN = auto()
    NOT_WANTED = auto()


@dataclass(slots=True)
class _Running:
    height: int
    app_hash: bytes
    manifest: Manifest
    next_chunk: int
    last_key: bytes
    roots: Mapping[str, bytes]
    bytes: int = 0


class StateSync:
    """At most one restore at a time, into a store that has no height yet.

    A state that was restored just before the node ended is given up again when snapshots are
    offered: CometBFT has then lost its half of it, and asks for none otherwise.
    """

    def __init__(
        self,
        application: Application,
        store: Store,
        chain_id: str,
        max_bytes: int = RESTORE_BYTES,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        """A snapshot of more than `max_bytes` is refused, and one for which the disk, of which
        `free_bytes` tells the free ones, has no room."""
        self._application = application
        self._store = store
        self._chain_id = chain_id
        self._max_bytes = max_bytes
        self._free_bytes = free_bytes
        self._running: _Running | None = None

    def offer(
        self, height: int, format: int, chunks: int, hash: bytes, metadata: bytes, trusted: bytes
    ) -> Offered:
        """Begin with a snapshot whose state must have the app hash `trusted`."""
        with self._application.lock:
            self._drop()
            if self._application.has_state and not self._store.restored:
                return Offered.NOT_WANTED
            if format != FORMAT:
                return Offered.WRONG_FORMAT
            if snapshot_hash(metadata) != hash:
                return Offered.LIE
            try:
                manifest = read_manifest(metadata)
            except ChunkError as error:
                log.warning("a snapshot was refused", height=height, reason=str(error))
                return Offered.LIE
            if len(manifest.chunks) != chunks or height < 1:
                return Offered.LIE
            if manifest.chain_id != self._chain_id:
                return Offered.REFUSED
            try:
                self._require_room(len(manifest.chunks) * MAX_CHUNK_BYTES)
            except ChunkError as error:
                log.error("a snapshot was refused", height=height, reason=str(error))
                return Offered.REFUSED
            if self._store.restored:
                self._store.drop_restored()
                self._application.restored()
            self._running = _Running(height, trusted, manifest, 0, b"", self._store.head.roots)
            log.info("restoring a snapshot", height=height, chunks=chunks)
            return Offered.ACCEPTED

    def apply(self, index: int, chunk: bytes) -> Applied:
        """Take the next chunk. Raises `UpgradeNeeded` when the state is whole and follows rules
        that this program does not have."""
        with self._application.lock:
            running = self._running
            if running is None:
                return Applied.NOT_WANTED
            if index != running.next_chunk:
                return self._refuse(Applied.START_AGAIN, "chunks come out of order")
            if sha256(chunk) != running.manifest.chunks[index]:
                return Applied.DAMAGED
            running.bytes += len(chunk)
            try:
                self._require_room(len(chunk), running.bytes)
                records = read_chunk(chunk, running.last_key)
            except ChunkError as error:
                return self._refuse(Applied.SNAPSHOT_REFUSED, str(error))
            for start in range(0, len(records), RECORDS_AT_ONCE):
                some = records[start : start + RECORDS_AT_ONCE]
                writes: dict[bytes, bytes | None] = dict(some)
                roots, nodes = advance(self._store.latest.tree_node, running.roots, writes)
                self._store.load(self._store.head, writes, nodes)
                running.roots = roots
            running.last_key = records[-1][0]
            running.next_chunk += 1
            crash_point("restore-chunk")
            if running.next_chunk < len(running.manifest.chunks):
                return Applied.ACCEPTED
            return self._finish(running)

    def _finish(self, running: _Running) -> Applied:
        if app_hash(running.roots) != running.app_hash:
            return self._refuse(Applied.SNAPSHOT_REFUSED, "the app hash is another")
        require_known(load_chain(self._store.latest).version)
        crash_point("restore-before-write")
        head = Head(running.height, running.app_hash, running.roots)
        self._store.commit(head, {}, {}, restored=True)
        self._running = None
        self._application.restored()
        log.info("the snapshot is restored", height=running.height)
        return Applied.ACCEPTED

    def _require_room(self, coming: int, known: int = 0) -> None:
        """Raises `ChunkError` when so many bytes of a snapshot are too many, or more than the
        disk has room for; `known` counts all that came so far."""
        most = max(coming, known)
        # The last chunk of a snapshot may be short.
        if most > self._max_bytes + MAX_CHUNK_BYTES:
            raise ChunkError(f"it exceeds restore_mib = {self._max_bytes >> 20}")
        if self._free_bytes is None:
            return
        needed, free = coming * DISK_SHARE, self._free_bytes()
        if free < needed:
            raise ChunkError(
                f"it may take {needed >> 20} MiB of the disk, which has {free >> 20} MiB free"
            )

    def _refuse(self, outcome: Applied, reason: str) -> Applied:
        log.warning("a snapshot was refused", reason=reason)
        self._drop()
        return outcome

    def _drop(self) -> None:
        if self._running is not None:
            self._running = None
            self._store.drop_loaded()

"""State-sync snapshots on disk: `data/snapshots/HEIGHT/` with `metadata` and chunks `0`, `1`, ...

A snapshot is written beside its place and renamed into it, so one that is there is whole.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from abci_app.core.chunks import (
    FORMAT,
    MAX_CHUNKS,
    ChunkError,
    Manifest,
    read_manifest,
    snapshot_hash,
    split,
)
from abci_app.crash import crash_point
from abci_app.store import Snapshot
from planetserve.logs import get_logger
from planetserve.merkle import sha256

METADATA = "metadata"
UNFINISHED, OLD = ".new", ".old"
FETCHED_FOR_S = 600.0
"""So long after a chunk was read somebody may want the next one."""
MAX_FETCHED = 2

log = get_logger()


@dataclass(frozen=True, slots=True)
class Available:
    """A snapshot that peers may fetch, as they learn of it."""

    height: int
    metadata: bytes
    manifest: Manifest
    format: int = FORMAT

    @property
    def hash(self) -> bytes:
        return snapshot_hash(self.metadata)


class Archive:
    """The newest snapshots of one node. One thread writes; any may read.

    One that somebody fetches stays until it was left alone for a while, so that nobody has to
    start again; but no more than `MAX_FETCHED` of these.
    """

    def __init__(
        self,
        folder: Path,
        chain_id: str,
        kept: int,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._chain_id = chain_id
        self._kept = kept
        self._monotonic_s = monotonic_s
        self._read_at_s: dict[int, float] = {}
        self._available: tuple[Available, ...] = ()
        if folder.is_dir():
            for leftover in (*folder.glob(f"*{UNFINISHED}"), *folder.glob(f"*{OLD}")):
                shutil.rmtree(leftover)
            found = [self._read(entry) for entry in folder.iterdir() if entry.name.isdigit()]
            self._available = tuple(
                sorted((item for item in found if item is not None), key=_height, reverse=True)
            )

    @property
    def available(self) -> tuple[Available, ...]:
        """Newest first."""
        return self._available

    def write(self, state: Snapshot, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Write the snapshot of a state and drop those beyond the newest `kept`. False when it
        gave up without a trace: `stopping` said so, or the state takes more than `MAX_CHUNKS`.
        Raises `OSError`."""
        unfinished = self._folder / f"{state.height}{UNFINISHED}"
        try:
            unfinished.mkdir(parents=True)
            hashes = []
            for index, chunk in enumerate(split(state.everything())):
                if stopping() or index == MAX_CHUNKS:
                    return False
                _write_synced(unfinished / str(index), chunk)
                hashes.append(sha256(chunk))
                crash_point("snapshot-chunk")
            metadata = Manifest(self._chain_id, tuple(hashes)).encoded()
            _write_synced(unfinished / METADATA, metadata)
            _sync_folder(unfinished)
            crash_point("snapshot-written")
            place = self._folder / str(state.height)
            if place.exists():
                shutil.rmtree(place)
            unfinished.rename(place)
            _sync_folder(self._folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        written = Available(state.height, metadata, read_manifest(metadata))
        others = [item for item in self._available if item.height != state.height]
        newest = sorted([written, *others], key=_height, reverse=True)
        kept = newest[: self._kept]
        fetched = [item for item in newest[self._kept :] if self._is_fetched(item)]
        kept += fetched[:MAX_FETCHED]
        self._available = tuple(kept)
        for item in newest:
            if item not in kept:
                self._remove(item)
        return True

    def chunk(self, height: int, index: int) -> bytes | None:
        """A chunk of an available snapshot; None when it is not there or was damaged."""
        for item in self._available:
            if item.height == height and 0 <= index < len(item.manifest.chunks):
                self._read_at_s[height] = self._monotonic_s()
                try:
                    content = (self._folder / str(height) / str(index)).read_bytes()
                except OSError:
                    return None
                return content if sha256(content) == item.manifest.chunks[index] else None
        return None

    def _is_fetched(self, item: Available) -> bool:
        read_at_s = self._read_at_s.get(item.height)
        return read_at_s is not None and self._monotonic_s() - read_at_s < FETCHED_FOR_S

    def _remove(self, item: Available) -> None:
        self._read_at_s.pop(item.height, None)
        old = self._folder / f"{item.height}{OLD}"
        # What is left of one that could not be removed whole must not look like a snapshot.
        with suppress(OSError):
            (self._folder / str(item.height)).rename(old)
        shutil.rmtree(old, ignore_errors=True)

    def _read(self, folder: Path) -> Available | None:
        try:
            metadata = (folder / METADATA).read_bytes()
            manifest = read_manifest(metadata)
        except (OSError, ChunkError) as error:
            log.warning("a snapshot is damaged and not offered", reason=str(error))
            return None
        return Available(int(folder.name), metadata, manifest)


def _height(item: Available) -> int:
    return item.height


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

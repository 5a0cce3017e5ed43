"""What a node does beside consensus: snapshots, sweeping of old tree nodes, compaction, pruning.

All of it runs on one thread of its own from states that do not change; consensus only says which
height it has committed.
"""

from __future__ import annotations

import threading

from abci_app.config_file import Schedule
from abci_app.metrics import LedgerMetrics
from abci_app.snapshots import Archive
from abci_app.store import RECORDS, Snapshot, Store
from planetserve.logs import get_logger
from planetserve.statekeys import STORES

COMPACTION_BLOCKS = 10_000
MEASURING_BLOCKS = 100
TIMED_BLOCKS = 100
"""Of so many blocks the time of one is remembered, to tell which may be deleted."""
HOUR_S = 3_600
CLOSE_TIMEOUT_S = 30.0

log = get_logger()


class Housekeeping:
    """Works until `close`."""

    def __init__(
        self, store: Store, archive: Archive, schedule: Schedule, metrics: LedgerMetrics
    ) -> None:
        self._store = store
        self._archive = archive
        self._schedule = schedule
        self._metrics = metrics
        self._wake = threading.Condition()
        self._to_snapshot: Snapshot | None = None
        self._swept: dict[str, int] = {}
        self._to_compact = False
        self._to_measure = True
        self._closing = False
        self._time_s = 0
        self._old: int | None = None
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)
        self._show_snapshots()

    def start(self) -> None:
        self._thread.start()

    def committed(self, state: Snapshot, time_s: int = 0) -> None:
        """Take note of a new height and of its block's time in Unix seconds; returns at once."""
        every = self._schedule.snapshot_blocks
        if time_s and (state.height % TIMED_BLOCKS == 0 or not self._time_s):
            self._store.note_time(state.height, time_s)
        self._time_s = time_s
        with self._wake:
            if every and state.height % every == 0:
                # A snapshot that was not begun yet is overtaken by the newer one.
                self._to_snapshot = state
            self._to_compact |= state.height % COMPACTION_BLOCKS == 0
            self._to_measure |= state.height % MEASURING_BLOCKS == 0
            self._wake.notify()

    def retain_height(self, height: int) -> int:
        """The lowest block that CometBFT must keep after `height`; 0 for all. Who joins from a
        snapshot fetches the blocks after it, so they stay as long as it does."""
        keep = self._schedule.keep_blocks
        if keep == 0:
            return 0
        limits = [height - keep, height - self._schedule.evidence_blocks]
        if self._schedule.snapshot_blocks:
            limits.append(min((item.height for item in self._archive.available), default=0))
        if self._schedule.keep_hours and min(limits) > 0:
            limits.append(self._young(height))
        retained = max(0, min(limits))
        self._metrics.retain_height.set(retained)
        return retained

    def _young(self, height: int) -> int:
        """A height all blocks below which are older than `keep_hours`."""
        if height % TIMED_BLOCKS == 0 or self._old is None:
            self._old = self._store.height_before(self._time_s - self._schedule.keep_hours * HOUR_S)
        return self._old

    def close(self) -> bool:
        """Wait for the work that is under way, `CLOSE_TIMEOUT_S` seconds at most; whether it has
        ended. The store must stay open if it has not."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("housekeeping does not end", after_s=CLOSE_TIMEOUT_S)
            return False
        return True

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(self._has_work)
                if self._closing:
                    return
                state, self._to_snapshot = self._to_snapshot, None
                compact, self._to_compact = self._to_compact, False
                measure, self._to_measure = self._to_measure, False
                generations = dict(self._store.head.generations)
                sweep, self._swept = generations != self._swept, generations
            try:
                self._do(state, sweep, compact, measure)
            except Exception:
                # Of a full disk or the like; consensus goes on, and meets it itself if it must.
                self._metrics.housekeeping_failures.inc()
                log.exception("housekeeping failed")

    def _has_work(self) -> bool:
        return (
            self._closing
            or self._to_snapshot is not None
            or self._to_compact
            or self._to_measure
            or dict(self._store.head.generations) != self._swept
        )

    def _do(self, state: Snapshot | None, sweep: bool, compact: bool, measure: bool) -> None:
        if state is not None:
            with self._metrics.housekeeping_seconds.labels("snapshot").time():
                written = self._archive.write(state, lambda: self._closing)
            self._show_snapshots()
            if written:
                log.info("a snapshot was written", height=state.height)
            elif not self._closing:
                log.error("the state is too large for a snapshot", height=state.height)
        if sweep:
            with self._metrics.housekeeping_seconds.labels("sweep").time():
                while not self._closing and self._store.sweep():
                    pass
        if compact and not self._closing:
            with self._metrics.housekeeping_seconds.labels("compaction").time():
                self._store.compact()
        if measure:
            for store in STORES:
                size = self._store.approximate_bytes(RECORDS + store.encode() + b"/")
                self._metrics.store_bytes.labels(store).set(size)

    def _show_snapshots(self) -> None:
        newest = self._archive.available[:1]
        self._metrics.snapshot_height.set(newest[0].height if newest else 0)

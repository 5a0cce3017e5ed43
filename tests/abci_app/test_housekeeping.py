"""Work beside consensus: what is due when, and that nothing of it stops a node."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from abci_app import housekeeping
from abci_app.application import Application
from abci_app.config_file import Schedule
from abci_app.handlers import Handlers, Operations
from abci_app.housekeeping import Housekeeping
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.restore import StateSync
from abci_app.snapshots import Archive
from abci_app.store import Snapshot, Store, open_store
from tests.abci_app.test_handlers import init_chain, validators
from tests.abci_app.world import CHAIN_ID


class Node:
    def __init__(self, folder: Path, schedule: Schedule) -> None:
        self.store: Store = open_store(folder / "ledger", CHAIN_ID)
        self.metrics = LedgerMetrics()
        self.archive = Archive(folder / "snapshots", CHAIN_ID, kept=2)
        self.housekeeping = Housekeeping(self.store, self.archive, schedule, self.metrics)
        application = Application(self.store, CHAIN_ID)
        state_sync = StateSync(application, self.store, CHAIN_ID)
        operations = Operations(self.archive, state_sync, self.housekeeping)
        self.handlers = Handlers(application, self.metrics, operations)

    def block(self, time_s: int = 0) -> int:
        """Commit an empty block; the height that CometBFT may prune to."""
        request = abci.RequestFinalizeBlock(height=self.store.head.height + 1)
        request.time.seconds = time_s
        self.handlers.handle(abci.Request(finalize_block=request))
        answer = self.handlers.handle(abci.Request(commit=abci.RequestCommit()))
        return int(answer.commit.retain_height)

    def close(self) -> None:
        self.housekeeping.close()
        self.store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def started(folder: Path, **schedule: int) -> Node:
    node = Node(folder, Schedule(**schedule))
    init_chain(node.handlers, validators())
    return node


def metric(node: Node, name: str) -> float:
    value = node.metrics.registry.get_sample_value(name)
    assert value is not None
    return value


def wait_for_snapshots(node: Node, count: int) -> None:
    for _ in range(500):
        if len(node.archive.available) == count:
            return
        threading.Event().wait(0.01)
    pytest.fail("no snapshot was written")


def test_snapshots_are_made_and_served_over_abci(folder: Path) -> None:
    node = started(folder, snapshot_blocks=3)
    node.housekeeping.start()
    for _ in range(3):
        node.block()
    wait_for_snapshots(node, 1)
    listed = node.handlers.handle(abci.Request(list_snapshots=abci.RequestListSnapshots()))
    (shown,) = listed.list_snapshots.snapshots
    assert (shown.height, shown.format, shown.chunks) == (3, 1, 1)
    asked = abci.RequestLoadSnapshotChunk(height=3, format=1, chunk=0)
    chunk = node.handlers.handle(abci.Request(load_snapshot_chunk=asked)).load_snapshot_chunk.chunk

    joining = Node(folder / "joining", Schedule())
    offer = abci.RequestOfferSnapshot(snapshot=shown, app_hash=node.store.head.app_hash)
    answer = joining.handlers.handle(abci.Request(offer_snapshot=offer)).offer_snapshot
    assert answer.result == abci.ResponseOfferSnapshot.ACCEPT
    for content, sender, result in ((b"damaged", "liar", 3), (chunk, "friend", 1)):
        request = abci.RequestApplySnapshotChunk(index=0, chunk=content, sender=sender)
        applied = joining.handlers.handle(abci.Request(apply_snapshot_chunk=request))
        found = applied.apply_snapshot_chunk
        assert found.result == result
        refused = (list(found.refetch_chunks), list(found.reject_senders))
        assert refused == (([0], ["liar"]) if sender == "liar" else ([], []))
    assert joining.store.head == node.store.head
    info = joining.handlers.handle(abci.Request(info=abci.RequestInfo())).info
    assert (info.last_block_height, info.app_version) == (3, 1)
    joining.block()
    again = joining.handlers.handle(abci.Request(offer_snapshot=offer)).offer_snapshot
    assert again.result == abci.ResponseOfferSnapshot.ABORT
    joining.close()
    node.close()


def test_blocks_are_kept_for_evidence_for_snapshots_and_as_asked(folder: Path) -> None:
    node = started(folder / "all")
    assert {node.block() for _ in range(5)} == {0}
    node.close()
    node = started(folder / "some", keep_blocks=2)
    assert [node.block() for _ in range(5)] == [0, 0, 1, 2, 3]
    node.close()
    node = started(folder / "evidence", keep_blocks=2, evidence_blocks=4)
    assert [node.block() for _ in range(6)] == [0, 0, 0, 0, 1, 2]
    node.close()
    node = started(folder / "snapshots", keep_blocks=2, snapshot_blocks=4)
    node.housekeeping.start()
    assert [node.block() for _ in range(4)] == [0, 0, 0, 0], "there is no snapshot yet"
    wait_for_snapshots(node, 1)
    assert [node.block() for _ in range(3)] == [3, 4, 4]
    node.close()


def test_young_blocks_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "TIMED_BLOCKS", 4)
    hour_s = 3_600
    node = started(folder, keep_blocks=2, keep_hours=3)
    start_s = 1_700_000_000
    # A block each half hour: those of the last three hours stay, and up to four older ones.
    retained = [node.block(start_s + number * hour_s // 2) for number in range(1, 25)]
    assert retained[:7] == [0] * 7
    assert all(1 <= (height - 6) - kept < 9 for height, kept in enumerate(retained, 1) if kept)
    assert retained[-1] == 16
    assert sum(1 for _ in node.store._database.iterator(prefix=b"m/times/")) <= 4
    node.close()
    again = Node(folder, Schedule(keep_blocks=2, keep_hours=3))
    assert again.block(start_s + 25 * hour_s // 2) == 16
    again.close()


def test_what_does_not_end_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "CLOSE_TIMEOUT_S", 0.1)
    node = started(folder, snapshot_blocks=1)
    begun, release = threading.Event(), threading.Event()

    def write(self: Archive, state: Snapshot, *rest: object) -> None:
        begun.set()
        release.wait(10)

    monkeypatch.setattr(Archive, "write", write)
    node.housekeeping.start()
    node.block()
    assert begun.wait(5)
    assert not node.housekeeping.close()
    release.set()
    monkeypatch.setattr(housekeeping, "CLOSE_TIMEOUT_S", 10)
    assert node.housekeeping.close()
    node.store.close()


@pytest.mark.parametrize("failure", [OSError, KeyError])
def test_a_failing_disk_does_not_stop_the_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    node = started(folder, snapshot_blocks=2)
    tried = threading.Event()
    write = Archive.write

    def fail(self: Archive, state: Snapshot, *rest: object) -> None:
        tried.set()
        raise failure("no space left on device")

    monkeypatch.setattr(Archive, "write", fail)
    node.housekeeping.start()
    for _ in range(2):
        node.block()
    assert tried.wait(5)
    monkeypatch.setattr(Archive, "write", write)
    for _ in range(2):
        node.block()
    wait_for_snapshots(node, 1)
    assert node.archive.available[0].height == 4
    assert metric(node, "planetserve_ledger_housekeeping_failures_total") == 1
    node.close()


def test_old_generations_are_swept_and_sizes_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = started(folder)
    swept = threading.Event()
    sweep = Store.sweep

    def watched(self: Store) -> bool:
        more = sweep(self)
        swept.set()
        return more

    monkeypatch.setattr(Store, "sweep", watched)
    node.housekeeping.start()
    for _ in range(26):
        node.block()
    assert node.store.head.generations
    assert swept.wait(5)
    node.close()
    names = {
        sample.labels["store"]
        for metric in node.metrics.store_bytes.collect()
        for sample in metric.samples
    }
    assert "nodes" in names


def test_closing_breaks_off_what_is_under_way(folder: Path) -> None:
    node = started(folder, snapshot_blocks=1)
    node.block()
    node.close()
    assert node.archive.available == ()

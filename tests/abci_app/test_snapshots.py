"""Snapshots written by one node and restored by another, with every kind of damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from abci_app.application import Application
from abci_app.core import chunks
from abci_app.core.chunks import Manifest
from abci_app.core.codes import Code
from abci_app.core.merkle import root_of
from abci_app.core.upgrades import Upgrade, UpgradeNeeded
from abci_app.restore import Applied, Offered, StateSync
from abci_app.snapshots import Archive, Available
from abci_app.store import Store, open_store
from planetserve.encoding import encode
from planetserve.merkle import sha256
from planetserve.statekeys import STORES
from planetserve.transactions import REGISTER, sign_transaction
from tests.abci_app.world import CHAIN_ID, app_state, participant, registration

PEOPLE = [participant(number) for number in range(80, 120)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNK_BYTES", 4_000)


def node(folder: Path, heights: int) -> tuple[Store, Application]:
    store = open_store(folder, CHAIN_ID)
    application = Application(store, CHAIN_ID)
    application.init_chain(CHAIN_ID, app_state())
    for height in range(1, heights + 1):
        some = PEOPLE[(height - 1) * 10 : height * 10]
        raws = [sign_transaction(one, CHAIN_ID, 0, REGISTER, registration(one)) for one in some]
        application.finalize(height, raws)
        application.commit()
    return store, application


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[tuple[Store, Archive, Available]]:
    store, _ = node(tmp_path / "origin", 4)
    archive = Archive(tmp_path / "snapshots", CHAIN_ID, kept=2)
    archive.write(store.latest)
    yield store, archive, archive.available[0]
    store.close()


class Joining:
    """A node without a state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = open_store(folder, CHAIN_ID)
        self.application = Application(self.store, CHAIN_ID)
        self.sync = StateSync(self.application, self.store, CHAIN_ID)

    def offer(self, item: Available, app_hash: bytes, **changes: Any) -> Offered:
        values: dict[str, Any] = {
            "height": item.height,
            "format": item.format,
            "chunks": len(item.manifest.chunks),
            "hash": item.hash,
            "metadata": item.metadata,
            "trusted": app_hash,
            **changes,
        }
        return self.sync.offer(**values)

    def is_empty(self) -> bool:
        return (
            self.store.head.height == 0
            and list(self.store.latest.everything()) == []
            and all(self.store.latest.tree_node(name, b"\0\0") is None for name in STORES)
        )


@pytest.fixture
def joining(tmp_path: Path) -> Iterator[Joining]:
    made = Joining(tmp_path / "joining")
    yield made
    made.store.close()


def fetched(archive: Archive, item: Available) -> list[bytes]:
    found = [archive.chunk(item.height, index) for index in range(len(item.manifest.chunks))]
    assert None not in found
    return [chunk for chunk in found if chunk is not None]


def test_a_node_joins_from_a_snapshot_and_goes_on(
    origin: tuple[Store, Archive, Available], joining: Joining, tmp_path: Path
) -> None:
    store, archive, item = origin
    assert len(item.manifest.chunks) > 3
    assert joining.offer(item, store.head.app_hash) is Offered.ACCEPTED
    for index, chunk in enumerate(fetched(archive, item)):
        assert joining.application.query("/state").code != 0
        assert joining.sync.apply(index, chunk) is Applied.ACCEPTED
    assert joining.store.head == store.head
    latest = joining.store.latest
    assert list(latest.everything()) == list(store.latest.everything())
    for name in STORES:
        assert root_of(partial(latest.tree_node, name)) == store.head.roots[name]
    assert joining.application.version == 1
    again = Application(store, CHAIN_ID)
    assert joining.application.finalize(5, []).head == again.finalize(5, []).head
    joining.application.commit()


def test_all_nodes_write_the_same_bytes(
    origin: tuple[Store, Archive, Available], tmp_path: Path
) -> None:
    store, _ = node(tmp_path / "another", 4)
    other = Archive(tmp_path / "others", CHAIN_ID, kept=2)
    other.write(store.latest)
    assert other.available[0] == origin[2]
    assert fetched(other, other.available[0]) == fetched(origin[1], origin[2])
    store.close()


def test_two_are_kept_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    archive = Archive(folder, CHAIN_ID, kept=2)
    for heights in (1, 2, 3):
        store, _ = node(tmp_path / f"node-{heights}", heights)
        archive.write(store.latest)
        store.close()
    assert [item.height for item in archive.available] == [3, 2]
    assert {entry.name for entry in folder.iterdir()} == {"2", "3"}
    (folder / "5.new").mkdir()
    shutil.copytree(folder / "3", folder / "4")
    (folder / "4" / "metadata").write_bytes(b"nonsense")
    again = Archive(folder, CHAIN_ID, kept=2)
    assert again.available == archive.available
    assert not (folder / "5.new").exists()


def test_a_damaged_chunk_is_not_given_to_anybody(
    origin: tuple[Store, Archive, Available], tmp_path: Path
) -> None:
    _, archive, item = origin
    (tmp_path / "snapshots" / str(item.height) / "1").write_bytes(b"else")
    assert archive.chunk(item.height, 0)
    assert archive.chunk(item.height, 1) is None
    (tmp_path / "snapshots" / str(item.height) / "0").unlink()
    assert archive.chunk(item.height, 0) is None
    assert archive.chunk(item.height, 10_000) is None
    assert archive.chunk(item.height + 1, 0) is None


def test_a_snapshot_that_is_broken_off_leaves_nothing(
    origin: tuple[Store, Archive, Available], tmp_path: Path
) -> None:
    archive = Archive(tmp_path / "broken", CHAIN_ID, kept=2)
    archive.write(origin[0].latest, stopping=lambda: True)
    assert archive.available == ()
    assert list((tmp_path / "broken").iterdir()) == []


def test_lies_in_an_offer_are_found(
    origin: tuple[Store, Archive, Available], joining: Joining
) -> None:
    store, _, item = origin
    trusted = store.head.app_hash
    assert joining.offer(item, trusted, format=2) is Offered.WRONG_FORMAT
    assert joining.offer(item, trusted, hash=bytes(32)) is Offered.LIE
    assert joining.offer(item, trusted, metadata=b"x", hash=sha256(b"x")) is Offered.LIE
    assert joining.offer(item, trusted, chunks=1) is Offered.LIE
    assert joining.offer(item, trusted, height=0) is Offered.LIE
    other = Manifest("another-chain", item.manifest.chunks).encoded()
    assert joining.offer(item, trusted, metadata=other, hash=sha256(other)) is Offered.REFUSED
    assert joining.sync.apply(0, b"") is Applied.NOT_WANTED


def test_a_damaged_chunk_is_fetched_again(
    origin: tuple[Store, Archive, Available], joining: Joining
) -> None:
    store, archive, item = origin
    joining.offer(item, store.head.app_hash)
    for index, chunk in enumerate(fetched(archive, item)):
        assert joining.sync.apply(index, chunk[:-1]) is Applied.DAMAGED
        assert joining.sync.apply(index, chunk) is Applied.ACCEPTED
    assert joining.store.head == store.head


def test_another_state_than_the_headers_is_refused(
    origin: tuple[Store, Archive, Available], joining: Joining
) -> None:
    store, archive, item = origin
    joining.offer(item, sha256(b"another app hash"))
    parts = fetched(archive, item)
    outcomes = [joining.sync.apply(index, chunk) for index, chunk in enumerate(parts)]
    assert set(outcomes[:-1]) == {Applied.ACCEPTED}
    assert outcomes[-1] is Applied.SNAPSHOT_REFUSED
    assert joining.is_empty()
    assert joining.offer(item, store.head.app_hash) is Offered.ACCEPTED
    assert {joining.sync.apply(i, chunk) for i, chunk in enumerate(parts)} == {Applied.ACCEPTED}
    assert joining.store.head == store.head


def test_nonsense_with_the_right_hash_is_refused(joining: Joining) -> None:
    good, bad = encode([[b"nodes/a", b"v"]]), encode([[b"nothing/a", b"v"]])
    manifest = Manifest(CHAIN_ID, (sha256(good), sha256(bad)))
    item = Available(3, manifest.encoded(), manifest)
    assert joining.offer(item, bytes(32)) is Offered.ACCEPTED
    assert joining.sync.apply(0, good) is Applied.ACCEPTED
    assert joining.sync.apply(1, bad) is Applied.SNAPSHOT_REFUSED
    assert joining.is_empty()


def test_chunks_out_of_order_start_again(
    origin: tuple[Store, Archive, Available], joining: Joining
) -> None:
    store, archive, item = origin
    parts = fetched(archive, item)
    joining.offer(item, store.head.app_hash)
    assert joining.sync.apply(0, parts[0]) is Applied.ACCEPTED
    assert joining.sync.apply(2, parts[2]) is Applied.START_AGAIN
    assert joining.is_empty()


def test_a_restore_that_breaks_off_leaves_nothing(
    origin: tuple[Store, Archive, Available], joining: Joining
) -> None:
    store, archive, item = origin
    joining.offer(item, store.head.app_hash)
    joining.sync.apply(0, fetched(archive, item)[0])
    assert not joining.is_empty()
    joining.store.close()
    again = Joining(joining.folder)
    joining.store = again.store
    assert again.is_empty()
    again.application.init_chain(CHAIN_ID, app_state())
    assert again.offer(item, store.head.app_hash) is Offered.NOT_WANTED


def test_a_node_with_a_height_wants_no_snapshot(
    origin: tuple[Store, Archive, Available], tmp_path: Path
) -> None:
    store, _, item = origin
    application = Application(store, CHAIN_ID)
    sync = StateSync(application, store, CHAIN_ID)
    before = store.head
    found = sync.offer(item.height, 1, 1, item.hash, item.metadata, b"")
    assert found is Offered.NOT_WANTED
    assert store.head == before


def restore(joining: Joining, store: Store, archive: Archive, item: Available) -> None:
    assert joining.offer(item, store.head.app_hash) is Offered.ACCEPTED
    for index, chunk in enumerate(fetched(archive, item)):
        assert joining.sync.apply(index, chunk) is Applied.ACCEPTED


def test_who_was_killed_right_after_its_restore_joins_again(
    origin: tuple[Store, Archive, Available], joining: Joining
) -> None:
    """CometBFT writes its half of the state after ours."""
    store, archive, item = origin
    restore(joining, store, archive, item)
    joining.store.close()
    again = Joining(joining.folder)
    joining.store = again.store
    assert again.store.head == store.head
    assert again.offer(item, store.head.app_hash, hash=bytes(32)) is Offered.LIE
    assert again.store.head == store.head, "a lie takes nothing away"
    assert again.offer(item, store.head.app_hash) is Offered.ACCEPTED
    assert again.is_empty()
    raw = sign_transaction(PEOPLE[0], CHAIN_ID, 0, REGISTER, registration(PEOPLE[0]))
    assert again.application.check(raw).code is Code.NOT_STARTED
    restore(again, store, archive, item)
    assert again.store.head == store.head
    again.application.finalize(5, [])
    again.application.commit()
    assert again.offer(item, store.head.app_hash) is Offered.NOT_WANTED
    assert again.store.head.height == 5


def test_a_snapshot_that_is_too_large_is_refused(
    origin: tuple[Store, Archive, Available], joining: Joining
) -> None:
    store, archive, item = origin
    parts = fetched(archive, item)
    made = partial(StateSync, joining.application, joining.store, CHAIN_ID)
    joining.sync = made(1 << 20)
    assert joining.offer(item, store.head.app_hash) is Offered.REFUSED
    free = [1 << 40]
    joining.sync = made(free_bytes=lambda: free[0])
    assert joining.offer(item, store.head.app_hash) is Offered.ACCEPTED
    assert joining.sync.apply(0, parts[0]) is Applied.ACCEPTED
    free[0] = 1_000
    assert joining.sync.apply(1, parts[1]) is Applied.SNAPSHOT_REFUSED
    assert joining.is_empty()
    assert joining.offer(item, store.head.app_hash) is Offered.REFUSED
    free[0] = 1 << 40
    restore(joining, store, archive, item)


def test_what_somebody_fetches_stays_for_a_while(tmp_path: Path) -> None:
    now_s = [0.0]
    archive = Archive(tmp_path / "snapshots", CHAIN_ID, kept=1, monotonic_s=lambda: now_s[0])
    store, application = node(tmp_path / "node", 1)

    def available() -> list[int]:
        archive.write(store.latest)
        shown = [item.height for item in archive.available]
        assert {entry.name for entry in (tmp_path / "snapshots").iterdir()} == set(map(str, shown))
        height = store.head.height + 1
        application.finalize(height, [])
        application.commit()
        return shown

    assert available() == [1]
    assert available() == [2]
    assert archive.chunk(2, 0)
    assert available() == [3, 2]
    now_s[0] = 500.0
    assert archive.chunk(2, 0)
    assert archive.chunk(3, 0)
    assert available() == [4, 3, 2]
    assert archive.chunk(4, 0)
    assert available() == [5, 4, 3], "no more than two"
    now_s[0] = 1_200.0
    assert available() == [6]
    store.close()


def test_a_state_of_newer_rules_is_named(tmp_path: Path, joining: Joining) -> None:
    from abci_app.core.state import View
    from abci_app.core.upgrades import Scheduled, schedule

    upgrades = {number: Upgrade(number, lambda view: None) for number in (1, 2)}
    store = open_store(tmp_path / "newer", CHAIN_ID)
    newer = Application(store, CHAIN_ID, upgrades=upgrades)
    newer.init_chain(CHAIN_ID, app_state())
    view = View(store.latest, newer._genesis)
    schedule(view, Scheduled(2, 1))
    newer._genesis = view.writes
    newer.finalize(1, [])
    newer.commit()
    archive = Archive(tmp_path / "newer-snapshots", CHAIN_ID, kept=1)
    archive.write(store.latest)
    (item,) = archive.available
    assert joining.offer(item, store.head.app_hash) is Offered.ACCEPTED
    *rest, last = fetched(archive, item)
    for index, chunk in enumerate(rest):
        joining.sync.apply(index, chunk)
    with pytest.raises(UpgradeNeeded, match="supports version 2"):
        joining.sync.apply(len(rest), last)
    assert joining.store.head.height == 0
    store.close()

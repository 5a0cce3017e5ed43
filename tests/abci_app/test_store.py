"""The store and the application on it: one height or the next, never a mixture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import plyvel
import pytest

from abci_app.application import Application
from abci_app.core.apphash import advance, app_hash
from abci_app.core.merkle import compact_proof, root_of, update
from abci_app.store import (
    FORMAT_KEY,
    HEAD_KEY,
    NOTHING,
    TREES,
    DamagedError,
    Head,
    Store,
    open_store,
)
from planetserve.errors import ConfigurationError
from planetserve.merkle import verify_record
from planetserve.statekeys import STORES
from planetserve.transactions import REGISTER, UPDATE, sign_transaction
from tests.abci_app.world import CHAIN_ID, RELAY, app_state, participant, registration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    opened = open_store(folder, CHAIN_ID)
    yield opened
    opened.close()


def started(store: Store) -> Application:
    application = Application(store, CHAIN_ID)
    if store.head.height == 0:
        application.init_chain(CHAIN_ID, app_state())
    return application


def transaction(nonce: int, name: str = "node") -> bytes:
    kind = UPDATE if nonce else REGISTER
    return sign_transaction(RELAY, CHAIN_ID, nonce, kind, registration(RELAY, name))


def test_commit_is_the_only_thing_that_writes(folder: Path, store: Store, tmp_path: Path) -> None:
    application = started(store)
    application.finalize(1, [transaction(0)])
    application.commit()
    head = store.head
    shutil.copytree(folder, tmp_path / "before")
    staged_hash = application.finalize(2, [transaction(1, "renamed")]).head.app_hash
    shutil.copytree(folder, tmp_path / "staged")
    application.commit()
    shutil.copytree(folder, tmp_path / "after")

    for name, expected in (("before", head), ("staged", head), ("after", store.head)):
        reopened = open_store(tmp_path / name, CHAIN_ID)
        try:
            assert reopened.head == expected
            again = Application(reopened, CHAIN_ID)
            if expected is head:
                staged = again.finalize(2, [transaction(1, "renamed")])
                assert staged.head.app_hash == staged_hash
        finally:
            reopened.close()
    assert store.head.app_hash == staged_hash


def test_a_torn_log_is_the_height_before(folder: Path, store: Store, tmp_path: Path) -> None:
    """A crash inside the write of the batch leaves a prefix of LevelDB's log."""
    application = started(store)
    application.finalize(1, [transaction(0)])
    application.commit()
    first = store.head
    (log,) = folder.glob("*.log")
    complete = log.stat().st_size
    application.finalize(2, [transaction(1, "renamed")])
    application.commit()
    size = log.stat().st_size
    for index, length in enumerate(range(complete, size, max(1, (size - complete) // 25))):
        torn = tmp_path / f"torn-{index}"
        shutil.copytree(folder, torn)
        with (torn / log.name).open("r+b") as file:
            file.truncate(length)
        reopened = open_store(torn, CHAIN_ID)
        try:
            assert reopened.head == first
            assert_consistent(reopened)
        finally:
            reopened.close()


def assert_consistent(store: Store) -> None:
    """The stored trees are those of the stored records, and the head is theirs."""
    latest = store.latest
    for name in STORES:
        values = dict(latest.scan(name.encode() + b"/"))
        root, _ = update(lambda path: None, values)
        assert root == latest.head.roots[name] == root_of(partial(latest.tree_node, name))
    assert latest.head.app_hash == app_hash(latest.head.roots)


def test_trees_and_records_stay_in_step_over_blocks(store: Store) -> None:
    application = started(store)
    for height in range(1, 60):
        application.finalize(height, [transaction(height - 1, f"n{height}")])
        application.commit()
    assert store.head.height == 59
    assert_consistent(store)
    latest = store.latest
    key = b"nodes/" + RELAY.id
    proof = compact_proof(partial(latest.tree_node, "nodes"), key)
    assert verify_record(latest.head.roots["nodes"], key, latest.get(key), *proof)


def test_blocks_follow_each_other(store: Store) -> None:
    application = started(store)
    with pytest.raises(ValueError, match="does not follow"):
        application.finalize(2, [])
    with pytest.raises(ValueError, match="no executed block"):
        application.commit()


def test_the_order_of_arrival_of_accounts_is_not_in_the_app_hash(tmp_path: Path) -> None:
    people = [participant(number) for number in range(80, 85)]
    raws = [
        sign_transaction(person, CHAIN_ID, 0, REGISTER, registration(person)) for person in people
    ]
    hashes = set()
    for index, order in enumerate((raws, raws[::-1])):
        store = open_store(tmp_path / str(index), CHAIN_ID)
        application = started(store)
        hashes.add(application.finalize(1, order).head.app_hash)
        store.close()
    assert len(hashes) == 1


def test_a_store_that_is_emptied_leaves_nothing_behind(store: Store) -> None:
    """Trees start a new generation; the old one's nodes are swept when there is time."""
    reads = store.latest.tree_node
    writes: dict[bytes, bytes | None] = {b"commits/%d" % i: b"v" for i in range(50)}
    roots, nodes = advance(reads, store.head.roots, writes)
    store.commit(Head(1, app_hash(roots), roots), writes, nodes)
    assert not store.sweep()

    kept = store.latest
    writes = {**dict.fromkeys(writes), b"commits/new": b"v"}
    roots, nodes = advance(kept.tree_node, roots, writes, ["commits"])
    store.commit(Head(2, app_hash(roots), roots, {"commits": 2}), writes, nodes)
    assert_consistent(store)
    store.sweep()
    assert store.previous is kept
    assert kept.get(b"commits/7") == b"v", "a snapshot does not change"
    assert root_of(partial(kept.tree_node, "commits")) == kept.head.roots["commits"]
    with store._database.iterator(prefix=TREES + b"commits/") as iterator:
        assert len(list(iterator)) == 1


def test_roots_of_recent_heights_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abci_app.store.KEPT_ROOTS", 3)
    application = started(store)
    for height in range(1, 6):
        application.finalize(height, [])
        application.commit()
    assert store.roots_at(5) == (store.head.app_hash, store.head.roots)
    assert [height for height in range(8) if store.roots_at(height)] == [3, 4, 5]


def test_what_a_broken_restore_left_is_gone_at_the_next_start(folder: Path) -> None:
    store = open_store(folder, CHAIN_ID)
    store.load(store.head, {b"nodes/a": b"v"}, {("nodes", b"\0\0"): b"node"})
    assert store.latest.get(b"nodes/a") == b"v"
    store.close()
    store = open_store(folder, CHAIN_ID)
    assert list(store.latest.everything()) == []
    assert store.latest.tree_node("nodes", b"\0\0") is None
    store.close()


def test_a_ledger_with_a_height_is_not_restored_over(store: Store) -> None:
    application = started(store)
    application.finalize(1, [])
    application.commit()
    with pytest.raises(ValueError, match="not restored over"):
        store.load(store.head, {}, {})
    with pytest.raises(ValueError, match="not emptied"):
        store.drop_loaded()


def test_another_chain_a_newer_format_and_a_second_process_are_refused(folder: Path) -> None:
    store = open_store(folder, CHAIN_ID)
    with pytest.raises(ConfigurationError, match="another ps-node"):
        open_store(folder, CHAIN_ID)
    store.close()
    with pytest.raises(ConfigurationError, match="belongs to the chain 'test-chain'"):
        open_store(folder, "another")
    store = open_store(folder, CHAIN_ID)
    store._database.put(FORMAT_KEY, b"3")
    store.close()
    with pytest.raises(ConfigurationError, match="has format 3"):
        open_store(folder, CHAIN_ID)


def test_a_damaged_database_is_refused(folder: Path) -> None:
    open_store(folder, CHAIN_ID).close()
    (folder / "CURRENT").write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="cannot open"):
        open_store(folder, CHAIN_ID)


def committed(folder: Path, heights: int) -> None:
    store = open_store(folder, CHAIN_ID)
    application = started(store)
    for height in range(1, heights + 1):
        application.finalize(height, [transaction(height - 1)])
        application.commit()
    store.close()


@pytest.mark.parametrize("suffix", ["log", "ldb"])
def test_flipped_bytes_are_refused_and_nothing_is_written(folder: Path, suffix: str) -> None:
    committed(folder, 30)
    if suffix == "ldb":
        # A second start turns the log into a table.
        open_store(folder, CHAIN_ID).close()
        (damaged,) = folder.glob("*.ldb")
        start = 200
    else:
        (damaged,) = folder.glob("*.log")
        start = damaged.stat().st_size // 3
    content = bytearray(damaged.read_bytes())
    for place in range(start, len(content) - 100, 50):
        content[place] ^= 0xFF
    damaged.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"cannot open|damaged"):
        open_store(folder, CHAIN_ID)
    assert damaged.read_bytes() == content


@pytest.mark.parametrize("change", ["head", "root", "foreign"])
def test_what_does_not_belong_together_is_refused(folder: Path, change: str) -> None:
    committed(folder, 3)
    database = plyvel.DB(str(folder))
    if change == "head":
        database.put(HEAD_KEY, b"nonsense")
    elif change == "root":
        with database.iterator(prefix=TREES + b"nodes/") as iterator:
            key, _ = next(iterator)
        database.delete(key)
    else:
        database.delete(FORMAT_KEY)
        database.delete(b"m/chain_id")
    database.close()
    with pytest.raises(ConfigurationError, match="is damaged; move it away"):
        open_store(folder, CHAIN_ID)


def test_a_height_that_is_missing_is_damage_and_no_empty_ledger(folder: Path) -> None:
    committed(folder, 3)
    database = plyvel.DB(str(folder))
    head = database.get(HEAD_KEY)
    database.delete(HEAD_KEY)
    database.close()
    with pytest.raises(ConfigurationError, match="is damaged; move it away"):
        open_store(folder, CHAIN_ID)
    database = plyvel.DB(str(folder))
    database.put(HEAD_KEY, head)
    database.close()
    store = open_store(folder, CHAIN_ID)
    assert store.head.height == 3
    store.close()


def test_a_changed_bit_is_never_read(folder: Path) -> None:
    """Of a table whose damaged part the start does not look at."""
    store = open_store(folder, CHAIN_ID)
    writes: dict[bytes, bytes | None] = {
        b"accounts/%05d" % number: b"VALUE%05d" % number * 20 for number in range(3_000)
    }
    roots, nodes = advance(store.latest.tree_node, store.head.roots, writes)
    store.commit(Head(5, app_hash(roots), roots), writes, nodes)
    store.compact()
    store.close()
    (table,) = (path for path in folder.glob("*.ldb") if b"VALUE" in path.read_bytes())
    content = bytearray(table.read_bytes())
    content[content.index(b"VALUE", content.rindex(b"VALUE") // 2)] ^= 1
    table.write_bytes(content)
    store = open_store(folder, CHAIN_ID)
    latest = store.latest

    def read_all() -> None:
        assert {key: latest.get(key) for key in writes} == writes

    with pytest.raises(DamagedError, match="is damaged"):
        read_all()
    for read in (latest.everything, partial(latest.scan, b"accounts/")):
        with pytest.raises(DamagedError, match="is damaged"):
            list(read())
    store.close()


def test_the_end_of_a_restore_is_marked_until_the_next_block(folder: Path) -> None:
    store = open_store(folder, CHAIN_ID)
    with pytest.raises(ValueError, match="just restored"):
        store.drop_restored()
    writes: dict[bytes, bytes | None] = {b"nodes/%d" % number: b"v" for number in range(5)}
    roots, nodes = advance(store.latest.tree_node, store.head.roots, writes)
    store.load(store.head, writes, nodes)
    store.commit(Head(7, app_hash(roots), roots), {}, {}, restored=True)
    store.close()
    store = open_store(folder, CHAIN_ID)
    assert (store.head.height, store.restored) == (7, True)
    store.drop_restored()
    assert (store.head, store.restored, list(store.latest.everything())) == (NOTHING, False, [])
    assert store.roots_at(7) is None
    store.close()
    store = open_store(folder, CHAIN_ID)
    store.load(store.head, writes, nodes)
    store.commit(Head(7, app_hash(roots), roots), {}, {}, restored=True)
    store.commit(Head(8, app_hash(roots), roots), {}, {})
    assert not store.restored
    store.close()
    store = open_store(folder, CHAIN_ID)
    assert (store.head.height, store.restored) == (8, False)
    store.close()

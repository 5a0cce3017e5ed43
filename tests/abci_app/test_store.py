"""The store and the application on it: one height or the next, never a mixture."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from abci_app.application import MAX_WAITING_PER_SENDER, Application
from abci_app.core.apphash import app_hash
from abci_app.core.codes import Code
from abci_app.core.merkle import compact_proof, root_of, update
from abci_app.core.state import STORES
from abci_app.store import FORMAT_KEY, Store, open_store
from planetserve.encoding import decode
from planetserve.errors import ConfigurationError
from planetserve.merkle import verify_record
from planetserve.transactions import REGISTER, sign_transaction
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
    return sign_transaction(RELAY, CHAIN_ID, nonce, REGISTER, registration(RELAY, name))


def test_commit_is_the_only_thing_that_writes(folder: Path, store: Store, tmp_path: Path) -> None:
    application = started(store)
    application.finalize(1, [transaction(0)])
    application.commit()
    head = store.head
    shutil.copytree(folder, tmp_path / "before")
    _, staged_hash = application.finalize(2, [transaction(1, "renamed")])
    shutil.copytree(folder, tmp_path / "staged")
    application.commit()
    shutil.copytree(folder, tmp_path / "after")

    for name, expected in (("before", head), ("staged", head), ("after", store.head)):
        reopened = open_store(tmp_path / name, CHAIN_ID)
        try:
            assert reopened.head == expected
            again = Application(reopened, CHAIN_ID)
            if expected is head:
                assert again.finalize(2, [transaction(1, "renamed")])[1] == staged_hash
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


def test_several_transactions_of_one_key_wait_together(store: Store) -> None:
    application = started(store)
    assert [application.check(transaction(nonce)).code for nonce in (0, 1, 1, 2)] == [
        *[Code.OK, Code.OK],
        *[Code.BAD_NONCE, Code.OK],
    ]
    application.finalize(1, [transaction(0)])
    application.commit()
    assert application.check(transaction(1)).code is Code.OK, "a recheck starts afresh"


def test_a_sender_cannot_fill_the_mempool(store: Store) -> None:
    application = started(store)
    codes = [application.check(transaction(n)).code for n in range(MAX_WAITING_PER_SENDER + 1)]
    assert set(codes[:-1]) == {Code.OK}
    assert codes[-1] is Code.SENDER_LIMIT


def test_proposals_hold_only_what_succeeds_and_fits(store: Store) -> None:
    application = started(store)
    good, late, garbage = transaction(0), transaction(2), b"garbage"
    assert application.select(1, [garbage, late, good], 1 << 20) == [good]
    assert application.select(1, [good], len(good)) == []
    assert application.acceptable(1, [good, transaction(1)])
    assert not application.acceptable(1, [good, garbage])


def test_answers_are_of_the_last_committed_height(store: Store) -> None:
    application = started(store)
    assert application.query("/routes").value == b""
    application.finalize(1, [])
    application.commit()
    assert len(decode(application.query("/routes").value)) == 4
    application.finalize(2, [transaction(0)])
    assert len(decode(application.query("/routes").value)) == 4
    application.commit()
    assert len(decode(application.query("/routes").value)) == 5


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
        hashes.add(application.finalize(1, order)[1])
        store.close()
    assert len(hashes) == 1


def test_another_chain_a_newer_format_and_a_second_process_are_refused(folder: Path) -> None:
    store = open_store(folder, CHAIN_ID)
    with pytest.raises(ConfigurationError, match="another ps-node"):
        open_store(folder, CHAIN_ID)
    store.close()
    with pytest.raises(ConfigurationError, match="belongs to the chain 'test-chain'"):
        open_store(folder, "another")
    store = open_store(folder, CHAIN_ID)
    store._database.put(FORMAT_KEY, b"2")
    store.close()
    with pytest.raises(ConfigurationError, match="has format 2"):
        open_store(folder, CHAIN_ID)


def test_a_damaged_database_is_refused(folder: Path) -> None:
    open_store(folder, CHAIN_ID).close()
    (folder / "CURRENT").write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="cannot open"):
        open_store(folder, CHAIN_ID)

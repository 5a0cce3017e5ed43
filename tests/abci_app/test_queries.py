"""Queries on a committed state: what they prove, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abci_app.application import Application
from abci_app.core import queries
from abci_app.core.apphash import app_hash
from abci_app.core.codes import Code
from abci_app.core.queries import Stores, answer
from abci_app.store import Snapshot, Store, open_store
from planetserve.encoding import decode, encode
from planetserve.merkle import map_root, root_of, verify_record
from planetserve.statekeys import STORES, store_of
from planetserve.transactions import ENDORSE, REGISTER, endorse, sign_transaction
from tests.abci_app.world import CHAIN_ID, FAR, RELAY, VERIFIERS, app_state, registration


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Application]:
    store: Store = open_store(tmp_path / "ledger", CHAIN_ID)
    started = Application(store, CHAIN_ID)
    started.init_chain(CHAIN_ID, app_state())
    raw = sign_transaction(RELAY, CHAIN_ID, 0, REGISTER, registration(RELAY))
    data = endorse(node=RELAY.id, role="relay", expires=FAR)
    admission = sign_transaction(VERIFIERS[0], CHAIN_ID, 0, ENDORSE, data)
    for height, raws in enumerate(([raw, admission], [], []), start=1):
        started.finalize(height, raws)
        started.commit()
    yield started
    store.close()


def asked(application: Application, keys: list[bytes], stores: list[str]) -> dict[str, Any]:
    found = application.query("/state", encode({"keys": keys, "stores": stores}))
    assert (found.code, found.height) == (Code.OK, 2), found.log
    value = decode(found.value, max_bytes=16 << 20)
    assert isinstance(value, dict)
    return value


def test_records_and_absences_are_proven(application: Application) -> None:
    nodes = [b"nodes/" + VERIFIERS[number].id for number in range(4)]
    absent = [b"nodes/" + bytes([number]) * 20 for number in range(30)]
    empty = b"evidence/" + bytes(32)
    value = asked(application, [*nodes, *absent, empty, b"chain/main"], [])
    assert map_root(value["roots"]) == application.head.app_hash
    shown = {item["key"]: item for item in value["records"]}
    assert list(shown) == [*nodes, *absent, empty, b"chain/main"]
    for key, item in shown.items():
        leaf = None if item["leaf"] is None else tuple(item["leaf"])
        root = value["roots"][store_of(key)]
        assert verify_record(root, key, item["value"], item["siblings"], leaf)
        assert (item["value"] is None) == (key in absent or key == empty)
    assert any(shown[key]["leaf"] for key in absent)


def test_whole_stores_are_shown_in_order(application: Application) -> None:
    value = asked(application, [], ["routes", "nodes", "evidence"])
    assert list(value["stores"]) == ["evidence", "nodes", "routes"]
    for name, pairs in value["stores"].items():
        assert root_of((key, record) for key, record in pairs) == value["roots"][name]
        assert [key for key, _ in pairs] == sorted(key for key, _ in pairs)
    assert len(value["stores"]["routes"]) == 5


def test_what_keys_have_in_common_is_read_once(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [b"nodes/" + bytes([number]) * 20 for number in range(30)]
    reads: list[bytes] = []
    tree_node = Snapshot.tree_node

    def counted(self: Snapshot, store: str, path: bytes) -> bytes | None:
        reads.append(path)
        return tree_node(self, store, path)

    monkeypatch.setattr(Snapshot, "tree_node", counted)
    asked(application, keys, [])
    assert len(reads) == len(set(reads))


def test_who_asks_for_records_does_not_wait_for_whole_stores(application: Application) -> None:
    with application._stores._lock:
        assert asked(application, [b"chain/main"], [])


def test_a_store_is_read_again_only_when_its_root_changed(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asked(application, [], ["routes"])
    application.finalize(4, [])
    application.commit()

    def fail(*arguments: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("abci_app.store.Snapshot.scan", fail)
    data = encode({"keys": [], "stores": ["routes"]})
    assert decode(application.query("/state", data).value)["stores"] == first["stores"]
    with pytest.raises(AssertionError, match="read again"):
        application.query("/state", encode({"keys": [], "stores": ["nodes"]}))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", Code.BAD_ARGUMENT),
        (b"\xff", Code.BAD_ARGUMENT),
        (encode([]), Code.BAD_ARGUMENT),
        (encode({"keys": []}), Code.BAD_ARGUMENT),
        (encode({"keys": [], "stores": [], "more": 1}), Code.BAD_ARGUMENT),
        (encode({"keys": {}, "stores": []}), Code.BAD_ARGUMENT),
        (encode({"keys": ["nodes/"], "stores": []}), Code.BAD_ARGUMENT),
        (encode({"keys": [b"nodes/", b"nodes/"], "stores": []}), Code.BAD_ARGUMENT),
        (encode({"keys": [b"nodes"], "stores": []}), Code.BAD_ARGUMENT),
        (encode({"keys": [b"nothing/x"], "stores": []}), Code.BAD_ARGUMENT),
        (encode({"keys": [b"\xff/x"], "stores": []}), Code.BAD_ARGUMENT),
        (encode({"keys": [b"nodes/" + bytes(2_000)], "stores": []}), Code.BAD_ARGUMENT),
        (encode({"keys": [], "stores": ["nothing"]}), Code.BAD_ARGUMENT),
        (encode({"keys": [], "stores": [[]]}), Code.BAD_ARGUMENT),
        (encode({"keys": [b"nodes/"] * 1_001, "stores": []}), Code.TOO_MUCH_ASKED),
        (encode({"keys": [], "stores": list(STORES[:5])}), Code.TOO_MUCH_ASKED),
        (encode({"keys": [b"nodes/" + bytes(900)] * 400, "stores": []}), Code.BAD_ARGUMENT),
    ],
)
def test_bad_questions_are_refused(application: Application, data: bytes, code: Code) -> None:
    found = application.query("/state", data)
    assert found.code is code
    assert found.log
    assert found.value == b""


def test_an_answer_has_a_largest_size(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MAX_ANSWER_BYTES", 1_500)
    absent = [b"chain/%d" % number for number in range(40)]
    for keys, stores in ((absent, []), ([], ["routes"])):
        data = encode({"keys": keys, "stores": stores})
        found = application.query("/state", data)
        assert found.code is Code.TOO_MUCH_ASKED
        assert asked(application, [b"chain/main"], [])


def test_few_stores_are_remembered(application: Application) -> None:
    stores = Stores()
    for name in STORES:
        data = encode({"keys": [], "stores": [name]})
        state = application._store.latest
        found = answer(state, "/state", data, stores, lambda height: None, proven=False)
        assert found.code is Code.OK
    assert len(stores._known) == queries.MAX_STORES


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/state/",
        "state",
        "/store/nothing/key",
        "/store/nodes",
        "/roots/0",
        "/nodes",
        "/x\0",
    ],
)
def test_unknown_paths_are_named(application: Application, path: str) -> None:
    found = application.query(path)
    assert found.code is Code.UNKNOWN_PATH
    assert "/store/NAME/key" in found.log


def test_a_record_of_other_chains_readers(application: Application) -> None:
    found = application.query("/store/nodes/key", RELAY.id, proven=True)
    assert found.key == b"nodes/" + RELAY.id
    assert decode(found.value)["name"] == "node"
    assert [step.kind for step in found.proof] == ["ics23:smt", "ics23:simple"]
    assert [step.key for step in found.proof] == [found.key, b"nodes"]
    plain = application.query("/store/nodes/key", RELAY.id)
    assert (plain.value, plain.proof) == (found.value, ())
    absent = application.query("/store/nodes/key", bytes(20), proven=True)
    assert (absent.code, absent.value, len(absent.proof)) == (Code.OK, b"", 2)
    nothing = application.query("/store/evidence/key", bytes(32), proven=True)
    assert [step.kind for step in nothing.proof] == ["ics23:simple"]
    assert application.query("/store/nodes/key").code is Code.BAD_ARGUMENT


def test_roots_by_height(application: Application) -> None:
    for path, height in (("/roots/1", 1), ("/roots", 2), ("/roots/3", 3)):
        value = decode(application.query(path).value)
        assert value["height"] == height
        assert app_hash(value["roots"]) == value["app_hash"]
    assert application.query("/roots/4").code is Code.BAD_ARGUMENT
    assert application.query("/roots/9223372036854775807").code is Code.BAD_ARGUMENT
    assert application.query("/roots/9999999999999999999").code is Code.BAD_ARGUMENT

"""A chain's state out and into a new chain: the same bytes, the same app hash."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.application import Application
from abci_app.core.apphash import advance, app_hash
from abci_app.core.export import exported_state, exported_text, imported_state
from abci_app.core.genesis import genesis
from abci_app.core.parameters import GenesisError
from abci_app.home import DATABASE, SNAPSHOTS, read_settings
from abci_app.snapshots import Archive
from abci_app.store import open_store
from abci_app.transfer import (
    check_genesis,
    exported_genesis,
    import_genesis,
    inspection,
    roots_of,
    stopped_store,
)
from planetserve import transactions
from planetserve.errors import ConfigurationError, UsageError
from planetserve.transactions import REGISTER, sign_transaction
from tests.abci_app.test_home import write
from tests.abci_app.world import CHAIN_ID, FAR, VERIFIERS, World, participant, registration


def lived(seed: int, blocks: int) -> World:
    """A chain that a little happened on."""
    rng = random.Random(seed)
    world = World({"epoch_blocks": 6, "commit_blocks": 3})
    for number in range(blocks):
        newcomer = participant(100 + number)
        role = rng.choice(["relay", "model"])
        world.send(newcomer, REGISTER, registration(newcomer, role=role))
        data = transactions.endorse(node=newcomer.id, role=role, expires=FAR)
        world.send(rng.choice(VERIFIERS), transactions.ENDORSE, data)
        world.block()
    return world


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1_000), st.integers(1, 14))
def test_an_imported_state_goes_on_as_the_exported_one(seed: int, blocks: int) -> None:
    world = lived(seed, blocks)
    document = json.loads(json.dumps(exported_state(sorted(world.items.items()))))
    assert imported_state(CHAIN_ID, document) == world.items
    writes = genesis(CHAIN_ID, json.dumps(document).encode())
    roots, _ = advance(lambda store, path: None, {}, writes)
    assert roots == roots_of(world.items)
    again = World()
    again.items = {key: value for key, value in writes.items() if value is not None}
    again.height = world.height
    for one in (world, again):
        one.admit(participant(99), "late")
        one.advance_to(one.window.end + 1)
    assert app_hash(roots_of(again.items)) == app_hash(roots_of(world.items))


def exported() -> dict[str, Any]:
    document: dict[str, Any] = exported_state(sorted(lived(1, 2).items.items()))
    return document


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(more=1), "nothing else"),
        (lambda d: d.update(records=[]), "nothing else"),
        (lambda d: d["records"].update(nothing=[]), "by store"),
        (lambda d: d["records"].update(nodes={}), "by store"),
        (lambda d: d["records"]["nodes"].append(["AA=="]), "key and a value"),
        (lambda d: d["records"]["nodes"].append(["/w==", "!"]), "base64"),
        (lambda d: d["records"]["nodes"].append(["/w==", 5]), "base64"),
        (lambda d: d["records"]["nodes"].append(["/x==", "wA=="]), "base64 has one form"),
        (lambda d: d["records"]["nodes"].append(["", "wA=="]), "a key has"),
        (lambda d: d["records"]["nodes"].append(["/w==", "wQ=="]), "canonical"),
        (lambda d: d["records"]["nodes"].reverse(), "ascend"),
        (lambda d: d["records"].pop("chain"), "no chain"),
        (lambda d: d["records"].pop("verifiers"), "no verifier"),
    ],
)
def test_what_no_export_holds_is_refused(change: Any, reason: str) -> None:
    document = exported()
    change(document)
    with pytest.raises(GenesisError, match=reason):
        genesis(CHAIN_ID, json.dumps(document).encode())


def test_a_state_belongs_to_its_chain() -> None:
    with pytest.raises(GenesisError, match="of the chain 'test-chain'"):
        imported_state("another", exported())


def test_a_document_has_one_form() -> None:
    document = {"b": 1, "a": exported()}
    turned = dict(reversed(document.items()))
    assert exported_text(document) == exported_text(turned)


def run(home: Path, heights: range) -> str:
    """Let a home's ledger commit some heights; its app hash in hex."""
    chain_id = read_settings(home).chain_id
    document = json.loads((home / "config/genesis.json").read_text())
    store = open_store(home / DATABASE, chain_id)
    application = Application(store, chain_id)
    if store.head.height == 0:
        initial = int(document["initial_height"])
        application.init_chain(chain_id, json.dumps(document["app_state"]).encode(), initial)
    for height in heights:
        newcomer = participant(100 + height)
        raw = sign_transaction(newcomer, chain_id, 0, REGISTER, registration(newcomer))
        application.finalize(height, [raw])
        application.commit()
        if height == 3:
            Archive(home / SNAPSHOTS, chain_id, kept=2).write(store.latest)
    found = store.head.app_hash.hex()
    store.close()
    return found


def test_a_home_is_exported_and_imported(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write(one)
    write(other, consensus_seed=bytes([7]) * 32, moniker="another")
    with pytest.raises(ConfigurationError, match="has not run yet"):
        exported_genesis(one)
    old_hash = run(one, range(1, 6))
    run(other, range(1, 6))
    text = exported_genesis(one)
    assert exported_genesis(other) == text == exported_genesis(one, 5)
    assert check_genesis(text) == old_hash == inspection(one)["app_hash"]
    assert json.loads(text)["initial_height"] == "6"

    signed = (one / "data/priv_validator_state.json").read_bytes()
    aside = import_genesis(one, text)
    assert (aside / "data/ledger").is_dir()
    assert (aside / "genesis.json").exists()
    assert (one / "data/priv_validator_state.json").read_bytes() == signed
    fresh = tmp_path / "fresh"
    write(fresh, genesis=text, consensus_seed=bytes([8]) * 32)
    assert run(one, range(6, 8)) == run(other, range(6, 8)) == run(fresh, range(6, 8))


def test_a_snapshots_height_can_be_exported_too(tmp_path: Path) -> None:
    write(tmp_path / "home")
    write(tmp_path / "same", consensus_seed=bytes([7]) * 32)
    run(tmp_path / "home", range(1, 6))
    run(tmp_path / "same", range(1, 4))
    text = exported_genesis(tmp_path / "home", 3)
    assert text == exported_genesis(tmp_path / "same")
    with pytest.raises(UsageError, match="these heights: 3, 5"):
        exported_genesis(tmp_path / "home", 4)


def test_a_home_does_not_change_its_chain(tmp_path: Path) -> None:
    write(tmp_path)
    other = json.loads((tmp_path / "config/genesis.json").read_text()) | {"chain_id": "another"}
    with pytest.raises(ConfigurationError, match="belongs to the chain 'chain'"):
        import_genesis(tmp_path, json.dumps(other))
    assert (tmp_path / "data/priv_validator_state.json").exists()


def test_a_validator_does_not_go_back_behind_what_it_has_signed(tmp_path: Path) -> None:
    write(tmp_path)
    run(tmp_path, range(1, 6))
    state = tmp_path / "data/priv_validator_state.json"
    for signed, fits in ((6, True), (7, False)):
        state.write_text(json.dumps({"height": str(signed), "round": 0, "step": 3}))
        if fits:
            import_genesis(tmp_path, exported_genesis(tmp_path))
            run(tmp_path, range(6, 6))
        else:
            text = (tmp_path / "config/genesis.json").read_text()
            with pytest.raises(ConfigurationError, match="signed in block 7"):
                import_genesis(tmp_path, text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"chain_id": "c"}'])
def test_documents_of_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="malformed"):
        check_genesis(text)


def test_a_look_into_a_stopped_node(tmp_path: Path) -> None:
    write(tmp_path)
    run(tmp_path, range(1, 6))
    report = inspection(tmp_path)
    assert (report["height"], report["snapshots"], report["rules_version"]) == (5, [3], 1)
    assert report["records"]["nodes"] == 6
    then = inspection(tmp_path, 3)
    assert then["app_hash"] != report["app_hash"]
    assert then["roots"]["nodes"] != report["roots"]["nodes"]
    assert inspection(tmp_path, 5) == report
    with pytest.raises(UsageError, match="not kept"):
        inspection(tmp_path, 6)
    with (
        stopped_store(tmp_path),
        pytest.raises(ConfigurationError, match="another ps-node"),
        stopped_store(tmp_path),
    ):
        pass

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
from abci_app.core.chain import GenesisError
from abci_app.core.export import exported_state, exported_text, imported_state
from abci_app.core.genesis import genesis
from abci_app.home import DATABASE, SNAPSHOTS, read_settings
from abci_app.proto.tendermint.types.canonical_pb2 import CanonicalVote
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
from abci_app.wire import encode_frame
from planetserve import transactions
from planetserve.encoding import decode, encode
from planetserve.errors import ConfigurationError, UsageError
from planetserve.statekeys import (
    CANDIDATES_KEY,
    CHAIN_KEY,
    EPOCH_KEY,
    NEXT_PROPOSAL_KEY,
    OPEN_PROPOSALS_KEY,
    PENDING_KEY,
    UPGRADE_KEY,
    holder_key,
    node_key,
    proposal_key,
    reputation_key,
    verifier_key,
)
from planetserve.transactions import PROPOSE, REGISTER, sign_transaction
from tests.abci_app.test_home import write
from tests.abci_app.world import CHAIN_ID, FAR, MODEL, VERIFIERS, World, participant, registration


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
    document = json.loads(json.dumps(exported_state(sorted(world.items.items()), world.height)))
    assert imported_state(CHAIN_ID, document, world.height + 1) == world.items
    writes = genesis(CHAIN_ID, json.dumps(document).encode(), world.height + 1)
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
    document: dict[str, Any] = exported_state(sorted(lived(1, 2).items.items()), 2)
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
        genesis(CHAIN_ID, json.dumps(document).encode(), 3)


def full() -> tuple[dict[bytes, bytes], int]:
    """The records and the height of a chain with an open proposal and scores that wait."""
    world = World({"epoch_blocks": 12, "commit_blocks": 6})
    world.block()
    world.admit(MODEL, role="model")
    change = {"kind": "parameter", "name": "window_epochs", "value": 7}
    world.send(VERIFIERS[0], PROPOSE, transactions.propose(change=change))
    for number in range(4):
        world.commit(VERIFIERS[number], MODEL.id, 900_000)
    world.block()
    world.advance_to(world.window.commit_end)
    for number in range(4):
        world.reveal(VERIFIERS[number], MODEL.id, 900_000)
    assert {result.code for result in world.block().results} == {0}
    return world.items, world.height


FULL, HEIGHT = full()


def changed(key: bytes, /, **values: Any) -> dict[bytes, bytes]:
    return {key: encode({**decode(FULL[key]), **values})}


def parameters(**values: Any) -> dict[bytes, bytes]:
    return changed(CHAIN_KEY, params={**decode(FULL[CHAIN_KEY])["params"], **values})


def without(prefix: bytes) -> bytes:
    return next(key for key in sorted(FULL) if key.startswith(prefix))


V0 = VERIFIERS[0].id


@pytest.mark.parametrize(
    ("writes", "reason"),
    [
        (parameters(epoch_blocks=0), "epoch_blocks"),
        (parameters(quorum_ppm=True), "quorum_ppm"),
        (parameters(more=1), "no chain"),
        ({PENDING_KEY: encode({"epoch_blocks": 1})}, "epoch_blocks"),
        ({PENDING_KEY: encode([1])}, "pending"),
        (changed(CHAIN_KEY, version="1"), "no chain"),
        (changed(EPOCH_KEY, start=HEIGHT + 2), "does not lie in the epoch"),
        (changed(EPOCH_KEY, start=-1), "no chain"),
        (parameters(epoch_blocks=4, commit_blocks=1), "does not lie in the epoch"),
        (changed(EPOCH_KEY, powers=[[V0]]), "no chain"),
        (changed(verifier_key(V0), power=0), "record of verifiers"),
        (changed(verifier_key(V0), power="many"), "record of verifiers"),
        (changed(verifier_key(V0), key=bytes(32)), "record of verifiers"),
        ({verifier_key(V0): encode({})}, "no chain"),
        (changed(node_key(MODEL.id), roles=5), "record of nodes"),
        (changed(node_key(MODEL.id), waiting=1), "waiting nodes"),
        ({CANDIDATES_KEY: encode(3)}, "waiting nodes"),
        ({reputation_key(MODEL.id): encode({})}, "record of reputation"),
        ({OPEN_PROPOSALS_KEY: encode([[7, V0]])}, "proposal 7"),
        ({OPEN_PROPOSALS_KEY: encode([])}, "proposal 1"),
        ({proposal_key(1): None}, "proposal 1"),
        ({NEXT_PROPOSAL_KEY: encode(1)}, "proposal 1"),
        (changed(proposal_key(1), change={"kind": "nothing"}), "record of proposals"),
        ({without(b"expiries/"): None}, "nothing ends"),
        ({without(b"endorsers/"): encode(9)}, "by endorser"),
        ({without(b"credentials/"): encode({})}, "record of credentials"),
        ({without(b"reveals/"): encode([])}, "record of reveals"),
        ({without(b"commits/"): encode(None)}, "record of commits"),
        ({without(b"quotas/"): encode({"commits": -1})}, "record of quotas"),
        ({without(b"routes/"): encode({})}, "record of routes"),
        ({without(b"models/"): encode({})}, "record of models"),
        ({without(b"accounts/"): encode({"nonce": "x"})}, "record of accounts"),
        ({b"expiries/x": encode(None)}, "record of expiries"),
        ({holder_key(b"o", bytes(32)): encode(bytes(20))}, "no node holds"),
        ({UPGRADE_KEY: encode({"version": 2})}, "no chain"),
    ],
)
def test_a_state_that_could_stop_the_chain_is_refused(
    writes: dict[bytes, bytes | None], reason: str
) -> None:
    items = dict(FULL)
    document = exported_state(sorted(items.items()), HEIGHT)
    assert imported_state(CHAIN_ID, document, HEIGHT + 1) == items
    for key, value in writes.items():
        if value is None:
            del items[key]
        else:
            items[key] = value
    document = exported_state(sorted(items.items()), HEIGHT)
    with pytest.raises(GenesisError, match=reason):
        imported_state(CHAIN_ID, document, HEIGHT + 1)


def test_a_state_goes_on_at_its_height() -> None:
    for first in (1, 2, 4):
        with pytest.raises(
            GenesisError, match=f"of height 2, and the chain would begin at {first}"
        ):
            imported_state(CHAIN_ID, exported(), first)


def test_a_state_belongs_to_its_chain() -> None:
    with pytest.raises(GenesisError, match="of the chain 'test-chain'"):
        imported_state("another", exported(), 3)


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


def signed(height: int, step: int, *, block: bytes = b"") -> str:
    """What CometBFT writes of a key that has signed in round 0: a proposal (step 1) or a vote."""
    state: dict[str, Any] = {"height": str(height), "round": 0, "step": step}
    if step:
        vote = CanonicalVote(height=height, chain_id="chain")
        if block:
            vote.block_id.hash = block
        state["signbytes"] = encode_frame(vote.SerializeToString()).hex().upper()
    return json.dumps(state)


@pytest.mark.parametrize(
    ("state", "fits"),
    [
        (signed(5, 3, block=b"b" * 32), True),
        (signed(6, 0), True),
        (signed(6, 2), True),
        (signed(6, 3), True),
        (signed(6, 1), False),
        (signed(6, 2, block=b"b" * 32), False),
        (signed(6, 3, block=b"b" * 32), False),
        (signed(7, 3), False),
        (signed(7, 0), False),
    ],
)
def test_a_validator_does_not_go_back_behind_what_it_has_signed(
    tmp_path: Path, state: str, fits: bool
) -> None:
    """A vote for no block decides nothing: all have cast one when a chain stops for an upgrade."""
    write(tmp_path)
    run(tmp_path, range(1, 6))
    text = exported_genesis(tmp_path)
    (tmp_path / "data/priv_validator_state.json").write_text(state)
    if fits:
        import_genesis(tmp_path, text)
        run(tmp_path, range(6, 8))
    else:
        with pytest.raises(ConfigurationError, match=r"signed in block [67]"):
            import_genesis(tmp_path, text)


@pytest.mark.parametrize(
    "state",
    [
        "",
        "{}",
        '{"height": "6", "round": 0, "step": 3}',
        '{"height": "6", "round": 0, "step": 3, "signbytes": "xy"}',
        '{"height": "6", "round": 0, "step": 3, "signbytes": "FFFFFFFFFF"}',
        '{"height": "6", "round": 0, "step": 3, "signbytes": ""}',
        '{"height": "6", "round": 0, "step": 3, "signbytes": "02FFFF"}',
    ],
)
def test_what_a_validator_has_signed_must_be_known(tmp_path: Path, state: str) -> None:
    write(tmp_path)
    run(tmp_path, range(1, 6))
    text = exported_genesis(tmp_path)
    (tmp_path / "data/priv_validator_state.json").write_text(state)
    with pytest.raises(ConfigurationError, match="missing or malformed"):
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

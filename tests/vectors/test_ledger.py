"""The golden vectors are what this implementation makes, and are right in themselves."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import pytest

from abci_app.core.genesis import genesis
from abci_app.core.state import MapReader
from abci_app.core.transition import Block, transition
from planetserve.merkle import map_root, root_of, verify_record
from planetserve.statekeys import STORES, store_of
from planetserve.transactions import KINDS, decode_transaction, sign_transaction
from tests.vectors.ledger import PATH, signer, vectors

GOLDEN: dict[str, Any] = json.loads(PATH.read_text())
CHAIN_ID: str = GOLDEN["chain_id"]


@lru_cache(maxsize=1)
def made() -> dict[str, Any]:
    """What this implementation makes now, as JSON reads it."""
    read: dict[str, Any] = json.loads(json.dumps(vectors()))
    return read


@pytest.mark.parametrize("part", sorted(GOLDEN))
def test_nothing_has_changed(part: str) -> None:
    """Who changes a format means to: `python -m tests.vectors.make`, and say so in CHANGELOG."""
    assert made()[part] == GOLDEN[part]


def test_there_is_one_of_each() -> None:
    assert set(GOLDEN["kinds"]) == set(KINDS)
    assert len(GOLDEN["blocks"]) >= 60
    written = {store_of(bytes.fromhex(key)) for key in GOLDEN["state"]}
    assert set(STORES) - written == {"commits", "quotas", "reveals", "rotations"}


@pytest.mark.parametrize("kind", KINDS)
def test_signing_again_makes_the_same_bytes(kind: str) -> None:
    vector = GOLDEN["kinds"][kind]
    raw = bytes.fromhex(vector["transaction"])
    transaction = decode_transaction(raw)
    assert transaction.signed_for(CHAIN_ID)
    assert transaction.body.hex() == vector["body"]
    assert transaction.signature.hex() == vector["signature"]
    identity = signer(vector["key"])
    signed = sign_transaction(identity, CHAIN_ID, vector["nonce"], kind, transaction.data)
    assert signed == raw


def test_executing_the_blocks_gives_the_app_hashes() -> None:
    """From the file alone, with every tree made from scratch."""
    items = dict(genesis(CHAIN_ID, GOLDEN["genesis"].encode()))
    assert scratch(items).hex() == GOLDEN["genesis_hash"]
    for block in GOLDEN["blocks"]:
        raw = tuple(bytes.fromhex(text) for text in block["transactions"])
        state = MapReader({key: value for key, value in items.items() if value is not None})
        result = transition(state, Block(block["height"], raw))
        items |= result.writes
        assert [int(item.code) for item in result.results] == block["codes"]
        assert [[key.hex(), p] for key, p in result.validator_updates] == block["validator_updates"]
        assert scratch(items).hex() == block["app_hash"], block["height"]
    kept = {key.hex(): value.hex() for key, value in items.items() if value is not None}
    assert kept == GOLDEN["state"]


def scratch(items: dict[bytes, bytes | None]) -> bytes:
    stores: dict[str, list[tuple[bytes, bytes]]] = {store: [] for store in STORES}
    for key, value in items.items():
        if value is not None:
            stores[store_of(key)].append((key, value))
    return map_root({store: root_of(records) for store, records in stores.items()})


@pytest.mark.parametrize("form", sorted(GOLDEN["proofs"]))
def test_the_proofs_hold(form: str) -> None:
    """That ICS-23's own verifier accepts such proofs is tested in `tests.abci_app.test_ics23`."""
    proof = GOLDEN["proofs"][form]
    root = bytes.fromhex(GOLDEN["roots"][proof["store"]])
    key = bytes.fromhex(proof["key"])
    value = None if proof["value"] is None else bytes.fromhex(proof["value"])
    siblings = [bytes.fromhex(text) for text in proof["siblings"]]
    leaf = proof["leaf"] and (bytes.fromhex(proof["leaf"][0]), bytes.fromhex(proof["leaf"][1]))
    assert verify_record(root, key, value, siblings, leaf)
    assert not verify_record(root, key, b"another" if value else b"", siblings, leaf)
    assert (value is not None) == form.startswith("present")
    assert GOLDEN["state"].get(proof["key"]) == proof["value"]
    roots = {store: bytes.fromhex(text) for store, text in GOLDEN["roots"].items()}
    assert map_root(roots).hex() == GOLDEN["blocks"][-1]["app_hash"]

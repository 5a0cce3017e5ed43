"""What other implementations of the ledger and its clients can check themselves against.

`ledger.json` beside this file holds, all bytes in hex and every transaction as it is broadcast:

    chain_id, genesis          the chain of `tests.vectors.script`, and its genesis app_state
    identities                 the Ed25519 seeds that signed, by key
    kinds                      for each kind of transaction the first that was accepted: its
                               fields, its body (what is signed, after the domain and the chain
                               id) and the bytes of the whole
    genesis_hash, blocks       each block's transactions, codes, validator updates and app hash
    roots, state               at the last height: each store's root, and every record
    proofs                     one of each form against those roots
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abci_app.core.ics23 import record_proof, root_proof
from abci_app.core.merkle import compact_proof
from abci_app.core.proofs import prove
from planetserve.keys import Identity
from planetserve.statekeys import CHAIN_KEY, route_key, store_of
from planetserve.transactions import KINDS, decode_transaction
from tests.abci_app.world import CHAIN_ID, FOUNDER, RELAY, VERIFIERS, app_state
from tests.abci_app.world import MODEL as NODE
from tests.vectors.script import (
    NEW_FOUNDER,
    NEW_VERIFIER,
    NEWCOMER,
    PARAMS,
    STRANGER,
    USER,
    Recorder,
    play,
)

PATH = Path(__file__).with_name("ledger.json")
SIGNERS = (*VERIFIERS, FOUNDER, NODE, RELAY, USER, STRANGER)
SIGNERS += (NEW_FOUNDER, NEW_VERIFIER, NEWCOMER)


def vectors() -> dict[str, Any]:
    world = play()
    return {
        "chain_id": CHAIN_ID,
        "genesis": app_state(PARAMS).decode(),
        "identities": {each.public_key.hex(): each.seed.hex() for each in SIGNERS},
        "kinds": {kind: _first(world, kind) for kind in KINDS},
        "genesis_hash": world.genesis_hash.hex(),
        "blocks": [
            {
                "height": block.height,
                "transactions": [raw.hex() for raw in block.transactions],
                "codes": list(block.codes),
                "validator_updates": [[key.hex(), power] for key, power in block.validator_updates],
                "app_hash": block.app_hash.hex(),
            }
            for block in world.played
        ],
        "roots": {store: root.hex() for store, root in sorted(world.roots.items())},
        "state": {key.hex(): value.hex() for key, value in sorted(world.items.items())},
        "proofs": _proofs(world),
    }


def _first(world: Recorder, kind: str) -> dict[str, Any]:
    for block in world.played:
        for raw, code in zip(block.transactions, block.codes, strict=True):
            if code:
                continue
            transaction = decode_transaction(raw)
            if transaction.kind == kind:
                return {
                    "key": transaction.key.hex(),
                    "nonce": transaction.nonce,
                    "data": _readable(transaction.data),
                    "body": transaction.body.hex(),
                    "signature": transaction.signature.hex(),
                    "transaction": raw.hex(),
                }
    raise LookupError(f"the script holds no accepted {kind}")


def _readable(value: Any) -> Any:
    """Bytes as hex; which fields are bytes says `planetserve.transactions`."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _readable(item) for name, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list) else value


def _absent(world: Recorder, store: str, *, beside_leaf: bool) -> bytes:
    """A key of the store that is not there, whose place another key's leaf takes or nothing."""
    for number in range(1_000):
        key = store.encode() + b"/absent-%d" % number
        _, leaf = compact_proof(lambda path: world.read(store, path), key)
        if (leaf is not None) == beside_leaf:
            return key
    raise LookupError("no such key was found")


def _proofs(world: Recorder) -> dict[str, Any]:
    keys = {
        "present": route_key(NEW_FOUNDER.id),
        "present_in_a_small_store": CHAIN_KEY,
        "absent_beside_a_leaf": _absent(world, "routes", beside_leaf=True),
        "absent_in_an_empty_place": _absent(world, "routes", beside_leaf=False),
    }
    return {name: _proof(world, key) for name, key in keys.items()}


def _proof(world: Recorder, key: bytes) -> dict[str, Any]:
    """The compact proof of `/state` and the two ICS-23 proofs of `/store`."""
    store = store_of(key)

    def read(path: bytes) -> bytes | None:
        return world.read(store, path)

    siblings, leaf = compact_proof(read, key)
    value = world.items.get(key)
    return {
        "store": store,
        "key": key.hex(),
        "value": None if value is None else value.hex(),
        "siblings": [sibling.hex() for sibling in siblings],
        "leaf": None if leaf is None else [part.hex() for part in leaf],
        "ics23_smt": record_proof(prove(read, world.items.get, key)).hex(),
        "ics23_simple": root_proof(world.roots, store).hex(),
    }


def signer(key: str) -> Identity:
    """The identity of a public key in hex."""
    return next(each for each in SIGNERS if each.public_key.hex() == key)

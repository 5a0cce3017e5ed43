"""Rotation: a node goes on under a new signing key, with its credentials and reputation.

The old key asks for it and the new key agrees. It takes effect when the epoch is settled, so that
nobody escapes the judgement of a running epoch, and the history stays one chain of results.

Assignments are drawn from keys and ids, so that one could look for a key that draws well. A
prober therefore rests for a while under its new key, and everyone judges a model node under its
new id, as after an alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from abci_app.core import credentials, fields
from abci_app.core.chain import Chain
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.nodes import load_node, require_node, save_node
from abci_app.core.reputation import load_reputation, save_reputation
from abci_app.core.state import View, records
from abci_app.core.verifiers import (
    REST_EPOCHS,
    delete_verifier,
    is_usable_key,
    load_verifier,
    save_verifier,
)
from planetserve.keys import node_id, verify
from planetserve.scoring.reputation import rotated
from planetserve.statekeys import (
    SUCCESSION,
    account_key,
    holder_key,
    node_key,
    reputation_key,
    rotation_key,
    route_key,
)
from planetserve.transactions import ROTATION_DOMAIN, rotation_message

ROTATE_FIELDS = frozenset({"new_key", "proof"})
MAX_FORMER = 256


def rotate(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Let `new_key` take over from the sender's key at the epoch's end."""
    fields.exact(data, ROTATE_FIELDS)
    new_key, proof = fields.octets(data, "new_key", 32), fields.octets(data, "proof", 64)
    node = require_node(view, context.sender)
    if node.retired:
        raise Rejected(Code.NODE_RETIRED)
    if node.waiting:
        raise Rejected(Code.ROTATION_REFUSED, "a candidate registers its new key instead")
    if view.get(rotation_key(node.id)) is not None:
        raise Rejected(Code.ROTATION_REFUSED, "one rotation an epoch is allowed")
    new = node_id(new_key)
    # Only a key without a past can take over: two records of conduct cannot become one.
    used = (node_key(new), account_key(new), holder_key(SUCCESSION, new))
    if any(view.get(key) is not None for key in used):
        raise Rejected(Code.ROTATION_REFUSED, "the new key is in use")
    if not is_usable_key(new_key):
        raise Rejected(Code.ROTATION_REFUSED, "the new key is not a point of the main subgroup")
    message = rotation_message(context.chain.chain_id, context.key, new_key)
    if not verify(new_key, ROTATION_DOMAIN, message, proof):
        raise Rejected(Code.ROTATION_REFUSED, "the new key has not signed for it")
    if len(node.former) >= MAX_FORMER:
        raise Rejected(Code.ROTATION_REFUSED, f"a node rotates {MAX_FORMER} times at most")
    view.save(rotation_key(node.id), {"new_key": new_key, "successor": bytes(new)})
    view.save(holder_key(SUCCESSION, new), bytes(node.id))


def apply_rotations(view: View, chain: Chain) -> list[tuple[bytes, bytes]]:
    """Carry out what the ending epoch has collected; the pairs of old and new ids."""
    moves = []
    for old, record in list(records(view, b"rotations/")):
        view.delete(rotation_key(old))
        view.delete(holder_key(SUCCESSION, record["successor"]))
        if _move(view, old, record["new_key"], chain):
            moves.append((old, bytes(record["successor"])))
    return moves


def _move(view: View, old: bytes, new_key: bytes, chain: Chain) -> bool:
    node, new = load_node(view, old), node_id(new_key)
    if node is None or node.retired or node.waiting or load_node(view, new) is not None:
        return False
    epoch = chain.epoch.number
    save_node(view, replace(node, key=new_key, former=(*node.former, (old, epoch))))
    for kind, key in node.held_keys:
        view.save(holder_key(kind, key), bytes(new))
    # Nobody starts again under a key that was given up, also not who may have stolen it.
    for given_up in (old, *(identifier for identifier, _ in node.former)):
        view.save(holder_key(SUCCESSION, given_up), bytes(new))
    credentials.drop_all(view, new)  # somebody's for a key that was not a node yet
    for role, endorser, credential in credentials.credentials_of(view, old):
        credentials.drop(view, old, role, endorser)
        credentials.put(view, new, role, endorser, credential)
    reputation = load_reputation(view, old)
    if reputation is not None:
        save_reputation(view, new, rotated(reputation, chain.parameters))
    for key in (node_key(old), reputation_key(old), route_key(old)):
        view.delete(key)
    verifier = load_verifier(view, old)
    if verifier is not None:
        delete_verifier(view, old)
        former = (*verifier.former, old)
        rests = epoch + REST_EPOCHS
        save_verifier(view, replace(verifier, key=new_key, former=former, benched=rests))
    return True

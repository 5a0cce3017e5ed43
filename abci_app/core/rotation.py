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

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.credentials import Credential, save_credential
from abci_app.core.nodes import load_node, require_node, save_node
from abci_app.core.parameters import Chain, load_chain
from abci_app.core.state import View, load, records
from abci_app.core.verifiers import delete_verifier, load_verifier, save_verifier
from planetserve.keys import NODE_ID_BYTES, node_id, verify
from planetserve.statekeys import (
    account_key,
    credential_key,
    credentials_prefix,
    holder_key,
    node_key,
    reputation_key,
    rotation_key,
    route_key,
)
from planetserve.transactions import ROTATION_DOMAIN, rotation_message

ROTATE_FIELDS = frozenset({"new_key", "proof"})
RESERVED = b"i"
"""Kind of a `keys/` record that keeps an id free for a rotation."""
MAX_FORMER = 32
REST_EPOCHS = 32
"""How long a prober rests under a new key: by then the key says nothing about the seeds that its
owner could foresee when it chose it."""


def rotate(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Let `new_key` take over from the sender's key at the epoch's end."""
    fields.exact(data, ROTATE_FIELDS)
    new_key, proof = fields.octets(data, "new_key", 32), fields.octets(data, "proof", 64)
    node = require_node(view, context.sender)
    if node.retired:
        raise Rejected(Code.NODE_RETIRED)
    if node.candidate:
        raise Rejected(Code.ROTATION_REFUSED, "a candidate registers its new key instead")
    if view.get(rotation_key(node.id)) is not None:
        raise Rejected(Code.ROTATION_REFUSED, "one rotation an epoch is allowed")
    new = node_id(new_key)
    # Only a key without a past can take over: two records of conduct cannot become one.
    used = (node_key(new), account_key(new), holder_key(RESERVED, new))
    if any(view.get(key) is not None for key in used):
        raise Rejected(Code.ROTATION_REFUSED, "the new key is in use")
    if next(iter(view.scan(credentials_prefix(new))), None) is not None:
        raise Rejected(Code.ROTATION_REFUSED, "the new key has been endorsed as a node of its own")
    message = rotation_message(context.chain.chain_id, context.key, new_key)
    if not verify(new_key, ROTATION_DOMAIN, message, proof):
        raise Rejected(Code.ROTATION_REFUSED, "the new key has not signed for it")
    if len(node.former) >= MAX_FORMER:
        raise Rejected(Code.ROTATION_REFUSED, f"a node rotates {MAX_FORMER} times at most")
    view.save(rotation_key(node.id), {"new_key": new_key})
    view.save(holder_key(RESERVED, new), bytes(node.id))


def apply_rotations(view: View, height: int) -> list[tuple[bytes, bytes]]:
    """Carry out what the epoch that `height` ends has collected; the pairs of old and new ids."""
    pending = list(records(view, b"rotations/"))
    chain = load_chain(view)
    for old, record in pending:
        view.delete(rotation_key(old))
        view.delete(holder_key(RESERVED, node_id(record["new_key"])))
    moves = []
    for old, record in pending:
        if _move(view, old, record["new_key"], height, chain):
            moves.append((old, bytes(node_id(record["new_key"]))))
    return moves


def _move(view: View, old: bytes, new_key: bytes, height: int, chain: Chain) -> bool:
    node, new = load_node(view, old), node_id(new_key)
    if node is None or node.retired or load_node(view, new) is not None:
        return False
    save_node(view, replace(node, key=new_key, former=(*node.former, old)))
    for kind, key in node.held_keys:
        view.save(holder_key(kind, key), bytes(new))
    for rest, record in list(records(view, credentials_prefix(old))):
        role, endorser = rest[: -NODE_ID_BYTES - 1].decode(), rest[-NODE_ID_BYTES:]
        view.delete(credentials_prefix(old) + rest)
        if record["expires"] < height:
            # What has ended already needs no note of when it will.
            view.save(credential_key(new, role, endorser), record)
        else:
            save_credential(view, new, role, endorser, Credential(**record))
    reputation = load(view, reputation_key(old))
    if reputation is not None:
        alarm = max(reputation["alarm"], chain.parameters.alarm_epochs)
        view.save(reputation_key(new), {**reputation, "alarm": alarm})
    for key in (node_key(old), reputation_key(old), route_key(old)):
        view.delete(key)
    verifier = load_verifier(view, old)
    if verifier is not None:
        delete_verifier(view, old)
        rotated = replace(verifier, key=new_key, former=(*verifier.former, old))
        save_verifier(view, replace(rotated, benched=chain.epoch.number + REST_EPOCHS))
    return True

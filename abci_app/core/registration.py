"""The transactions by which a node announces itself, changes that, and leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from abci_app.core import fields, lifecycle
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.credentials import GENESIS_ENDORSER, drop_all, has_live, load_credential
from abci_app.core.models import load_model
from abci_app.core.nodes import VERIFIER_ROLES, Node, load_node, require_node, save_node
from abci_app.core.reputation import load_reputation, save_reputation
from abci_app.core.state import Reader, View
from abci_app.core.verifiers import load_verifier
from planetserve.scoring.reputation import initial_reputation, with_another_model
from planetserve.statekeys import SUCCESSION, holder_key

NODE_FIELDS = frozenset(
    {"name", "roles", "onion_key", "transport_key", "endpoints", "model", "operator"}
)


def register(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Announce the sender as a node. It waits as a candidate for its first credential, unless a
    verifier has endorsed the key beforehand. One that retired may come back, with the record of
    conduct that it left with."""
    known = load_node(view, context.sender)
    if known is not None and not known.retired:
        raise Rejected(Code.ALREADY_REGISTERED)
    if view.get(holder_key(SUCCESSION, context.sender)) is not None:
        raise Rejected(Code.KEY_IN_USE, "a node has gone on, or will go on, from or as this key")
    endorsed = has_live(view, context.sender, context.height)
    node = replace(
        _announced(view, context, data),
        registered=context.height,
        former=() if known is None else known.former,
    )
    if not endorsed and lifecycle.candidates(view) >= context.parameters.max_candidates:
        raise Rejected(Code.TOO_MANY_CANDIDATES)
    lifecycle.hold_keys(view, node, vouched_for=endorsed)
    if endorsed:
        save_node(view, node)
    else:
        patience = context.parameters.candidate_blocks
        lifecycle.begin_waiting(view, node, context.height, patience)
    _follow_conduct(view, node, known, context)


def update(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Replace what the sender announced. Credentials and reputation stay with the key, so this
    neither admits a node nor clears its record. Another model must pass the probes anew."""
    known = require_node(view, context.sender)
    if known.retired:
        raise Rejected(Code.NODE_RETIRED)
    node = replace(
        _announced(view, context, data),
        registered=known.registered,
        waiting=known.waiting,
        former=known.former,
    )
    lifecycle.release_keys(view, known)
    # Nobody gives way here: who is endorsed could otherwise push out one candidate after another.
    lifecycle.hold_keys(view, node, vouched_for=False)
    save_node(view, node)
    _follow_conduct(view, node, known, context)


def retire(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Leave: the sender's credentials end and its keys are free."""
    fields.exact(data, frozenset())
    node = require_node(view, context.sender)
    if node.retired:
        raise Rejected(Code.NODE_RETIRED)
    if load_verifier(view, node.id) is not None:
        raise Rejected(Code.INVALID_FIELD, "a verifier leaves by a vote")
    if node.waiting:
        # Its place stays taken, or announcing and retiring in turn would fill the state.
        raise Rejected(Code.NO_CREDENTIAL, "a candidate is forgotten by itself")
    drop_all(view, node.id)
    lifecycle.retire(view, node, context.height, context.parameters.candidate_blocks)


def _announced(view: Reader, context: Context, data: Mapping[str, Any]) -> Node:
    """The node as the transaction's data describes it, checked."""
    fields.exact(data, NODE_FIELDS)
    roles = fields.roles(data)
    serves_model = "model" in roles
    if load_verifier(view, context.sender) is not None:
        roles = sorted({*roles, *VERIFIER_ROLES})
    node = Node(
        key=context.key,
        name=fields.text(data, "name", 1, fields.MAX_NAME_CHARACTERS),
        roles=tuple(roles),
        onion_key=fields.octets(data, "onion_key", 32),
        transport_key=fields.octets(data, "transport_key", 32),
        endpoints=fields.endpoints(data),
        model=fields.text(data, "model", int(serves_model), fields.MAX_MODEL_CHARACTERS),
        operator=fields.text(data, "operator", 0, fields.MAX_NAME_CHARACTERS),
        registered=0,
    )
    if node.model and not serves_model:
        raise Rejected(Code.INVALID_FIELD, "only a model node names a model")
    if serves_model and load_model(view, node.model) is None:
        raise Rejected(Code.UNKNOWN_MODEL)
    return node


def _follow_conduct(view: View, node: Node, known: Node | None, context: Context) -> None:
    """Begin a model node's record of conduct, or note that it serves something else now."""
    if "model" not in node.roles:
        return
    reputation = load_reputation(view, node.id)
    if reputation is None:
        # Genesis vouches for the nodes that a network starts with; others show what they can.
        credential = load_credential(view, node.id, "model", GENESIS_ENDORSER)
        founder = credential is not None and credential.live(context.height)
        save_reputation(view, node.id, initial_reputation(context.parameters, admitted=founder))
    elif known is not None and known.model != node.model:
        save_reputation(view, node.id, with_another_model(reputation))

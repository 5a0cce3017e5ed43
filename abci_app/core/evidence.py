"""Evidence: replies that a node has signed and should not have, shown to the ledger.

`planetserve.evidence` says what counts and why no honest node can be framed. The data of a
transaction:

    evidence  {"accused": 20-byte id, "key": 32 bytes, "kind": "conflict" | "forbidden",
               "request": bytes, "statements": [{"statement": bytes, "signature": 64 bytes}, ...]}

`request` is the body that the node was asked with; who submits it publishes it, so a verifier
shows its own questions only. `key` is the key that signed: the accused node's, or the one that it
had before it rotated. A conflict has two statements, a forbidden reply one.

A conviction takes the node's whole reputation; the usual way back begins anew. Each reply of a
key is judged once. A node that has just been convicted has nothing more to lose, so further
evidence waits until an epoch has given it something: the records stay few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.models import load_model
from abci_app.core.nodes import Node, load_node
from abci_app.core.reputation import convict, load_reputation
from abci_app.core.state import Reader, View, load
from abci_app.core.verifiers import require_verifier
from planetserve.evidence import NotEvidence, SignedStatement, Terms, judge
from planetserve.keys import NODE_ID_BYTES, NodeId, node_id
from planetserve.messages import SIGNATURE_BYTES
from planetserve.statekeys import evidence_key

EVIDENCE_FIELDS = frozenset({"accused", "key", "kind", "request", "statements"})
STATEMENT_FIELDS = frozenset({"statement", "signature"})
MAX_STATEMENTS = 2
FORMER_KEY_EPOCHS = 8
"""How long after a rotation what the former key has signed still counts."""


def submit(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Judge evidence against a node, and convict it or refuse the evidence."""
    fields.exact(data, EVIDENCE_FIELDS)
    accused = fields.octets(data, "accused", NODE_ID_BYTES)
    key = fields.octets(data, "key", 32)
    kind, request = _text(data, "kind"), _bytes(data, "request")
    statements = _statements(data)
    reporter = require_verifier(view, context.sender)
    node = load_node(view, accused)
    reputation = load_reputation(view, accused)
    if node is None or reputation is None:
        raise Rejected(Code.UNKNOWN_NODE, "no node of this id has a reputation")
    signer = node_id(key)
    if signer not in _ids_of(node, context.epoch):
        raise Rejected(Code.EVIDENCE_INVALID, "the key is not the accused node's")
    digest = case_digest(signer, request)
    if view.get(evidence_key(digest)) is not None:
        raise Rejected(Code.EVIDENCE_KNOWN)
    if reputation.ppm == 0 and not reputation.trusted and reputation.streak <= 0:
        raise Rejected(Code.EVIDENCE_KNOWN, "the node has no reputation left to lose")
    try:
        judgement = judge(
            context.chain.chain_id,
            key,
            kind,
            request,
            statements,
            lambda name: terms_of(view, name),
        )
    except NotEvidence as refusal:
        # The messages are constants of the kernel.
        raise Rejected(Code.EVIDENCE_INVALID, str(refusal)) from None
    convict(view, accused, context.parameters)
    view.save(
        evidence_key(digest),
        {
            "accused": accused,
            "breach": judgement.breach,
            "epoch": context.epoch,
            "height": context.height,
            "key": key,
            "kind": kind,
            "model": judgement.model,
            "reporter": bytes(reporter.id),
            "request": judgement.request,
            "statements": data["statements"],
        },
    )


def case_digest(signer: NodeId, request: bytes) -> bytes:
    """Names what is judged once: the replies of one key to one request."""
    request_digest = hashlib.sha256(request).digest()
    return hashlib.sha256(b"planetserve/evidence/v1\0" + signer + request_digest).digest()


def evidence_record(reader: Reader, digest: bytes) -> Mapping[str, Any] | None:
    """What was judged under a `case_digest`; its statements prove it again with the request,
    which the block's transaction holds."""
    record: Mapping[str, Any] | None = load(reader, evidence_key(digest))
    return record


def terms_of(reader: Reader, name: str) -> Terms | None:
    """What the ledger's record of a model promises."""
    model = load_model(reader, name)
    return None if model is None else Terms(model.context_tokens, model.deterministic)


def _ids_of(node: Node, epoch: int) -> tuple[bytes, ...]:
    """The ids under which a node signs, or has signed until lately: a key that was given up long
    ago may be in a thief's hands."""
    lately = (former for former, ended in node.former if epoch - ended <= FORMER_KEY_EPOCHS)
    return (node.id, *lately)


def _statements(data: Mapping[str, Any]) -> list[SignedStatement]:
    value = data["statements"]
    if type(value) is not list or not 1 <= len(value) <= MAX_STATEMENTS:
        raise Rejected(Code.INVALID_FIELD, f"statements are a list of 1 to {MAX_STATEMENTS}")
    return [_statement(item) for item in value]


def _statement(item: Any) -> SignedStatement:
    if type(item) is not dict or set(item) != STATEMENT_FIELDS:
        raise Rejected(Code.INVALID_FIELD, "a statement holds exactly signature and statement")
    signature = fields.octets(item, "signature", SIGNATURE_BYTES)
    return SignedStatement(_bytes(item, "statement"), signature)


def _bytes(data: Mapping[str, Any], name: str) -> bytes:
    value = data[name]
    if type(value) is not bytes:
        raise Rejected(Code.INVALID_FIELD, f"{name} is bytes")
    return value


def _text(data: Mapping[str, Any], name: str) -> str:
    return fields.text(data, name, 1, 32)

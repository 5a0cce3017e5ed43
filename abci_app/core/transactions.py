"""From bytes to effects: the checks that every transaction passes, then the rule of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from abci_app.core import (
    credentials,
    epochs,
    evidence,
    governance,
    models,
    registration,
    rotation,
)
from abci_app.core.chain import Chain
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.state import Reader, View, load
from planetserve.encoding import EncodingError
from planetserve.keys import NodeId, node_id
from planetserve.statekeys import account_key
from planetserve.transactions import (
    COMMIT,
    ENDORSE,
    EVIDENCE,
    MAX_TRANSACTION_BYTES,
    MODEL,
    PROPOSE,
    REGISTER,
    RETIRE,
    REVEAL,
    REVOKE,
    ROTATE,
    UPDATE,
    VOTE,
    Transaction,
    decode_transaction,
)

Rule = Callable[[View, Context, Mapping[str, Any]], None]
"""Checks the data against the state, raises `Rejected`, or stages the effects."""

RULES: Mapping[str, Rule] = {
    REGISTER: registration.register,
    UPDATE: registration.update,
    RETIRE: registration.retire,
    ROTATE: rotation.rotate,
    ENDORSE: credentials.endorse,
    REVOKE: credentials.revoke,
    MODEL: models.register_model,
    COMMIT: epochs.commit,
    REVEAL: epochs.reveal,
    EVIDENCE: evidence.submit,
    PROPOSE: governance.propose,
    VOTE: governance.vote,
}


def read_transaction(raw: bytes, chain_id: str, *, authentic: bool = False) -> Transaction:
    """Decode and authenticate: all that can be said without the state. Raises `Rejected`.
    `authentic` leaves the signature out, for bytes that have passed here before."""
    if len(raw) > MAX_TRANSACTION_BYTES:
        raise Rejected(Code.TOO_LARGE, f"{MAX_TRANSACTION_BYTES} bytes are allowed")
    try:
        transaction = decode_transaction(raw)
    except EncodingError:
        raise Rejected(Code.MALFORMED) from None
    if not authentic and not transaction.signed_for(chain_id):
        raise Rejected(Code.BAD_SIGNATURE)
    return transaction


def execute(view: View, chain: Chain, height: int, transaction: Transaction) -> None:
    """Stage the effects of an authenticated transaction on `view`, or raise `Rejected`, after
    which `view` must be discarded. A rejected transaction does not use up its nonce: otherwise
    anyone could fill the state with accounts."""
    rule = RULES.get(transaction.kind)
    if rule is None:
        raise Rejected(Code.UNKNOWN_KIND)
    context = Context(chain, height, transaction.key)
    expected = next_nonce(view, context.sender)
    if transaction.nonce != expected:
        raise Rejected(Code.BAD_NONCE, f"{expected} is next")
    view.save_ordered(account_key(context.sender), {"nonce": expected + 1})
    rule(view, context, transaction.data)


def next_nonce(reader: Reader, account: bytes) -> int:
    record = load(reader, account_key(account))
    return 0 if record is None else int(record["nonce"])


def sender_of(transaction: Transaction) -> NodeId:
    return node_id(transaction.key)

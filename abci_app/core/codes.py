"""The result codes of transactions and queries. A number never changes its meaning."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """0 is success; 1-9 concern any transaction, 10-49 one kind, 50-69 the mempool and 70-79
    queries."""

    OK = 0
    MALFORMED = 1
    TOO_LARGE = 2
    BAD_SIGNATURE = 3
    BAD_NONCE = 4
    UNKNOWN_KIND = 5
    INVALID_FIELD = 6

    NOT_A_VERIFIER = 10
    UNKNOWN_NODE = 11
    ROLE_NOT_ANNOUNCED = 12
    TOO_MANY_CANDIDATES = 13

    ENDORSEMENT_LIMIT = 20
    EXPIRY_OUT_OF_RANGE = 21
    NO_CREDENTIAL = 22

    WRONG_EPOCH = 30
    WINDOW_CLOSED = 31
    COMMIT_LIMIT = 32
    ALREADY_COMMITTED = 33
    NO_COMMITMENT = 34
    ALREADY_REVEALED = 35

    SENDER_LIMIT = 50
    NOT_STARTED = 51
    NOT_CHECKED = 52

    UNKNOWN_PATH = 70
    BAD_ARGUMENT = 71


MEANINGS: dict[Code, str] = {
    Code.OK: "done",
    Code.MALFORMED: "the bytes are not a canonical transaction",
    Code.TOO_LARGE: "the transaction exceeds the size limit",
    Code.BAD_SIGNATURE: "the signature is not the key's over this chain's transaction",
    Code.BAD_NONCE: "the nonce is not the next one of its key",
    Code.UNKNOWN_KIND: "no transaction has this kind",
    Code.INVALID_FIELD: "a field is missing, unknown, of the wrong type or out of range",
    Code.NOT_A_VERIFIER: "only a verifier may do this",
    Code.UNKNOWN_NODE: "no node has this id",
    Code.ROLE_NOT_ANNOUNCED: "the node has not announced this role",
    Code.TOO_MANY_CANDIDATES: "too many nodes wait for their first endorsement; try later",
    Code.ENDORSEMENT_LIMIT: "the verifier has endorsed as often as an epoch allows",
    Code.EXPIRY_OUT_OF_RANGE: "the expiry height has passed or lies too far ahead",
    Code.NO_CREDENTIAL: "the verifier has no live endorsement of this node and role",
    Code.WRONG_EPOCH: "the epoch is not the current one",
    Code.WINDOW_CLOSED: "this part of the epoch does not take such transactions",
    Code.COMMIT_LIMIT: "the prober has committed as often as an epoch allows",
    Code.ALREADY_COMMITTED: "the prober has made this commitment already",
    Code.NO_COMMITMENT: "no commitment of this prober and epoch matches the reveal",
    Code.ALREADY_REVEALED: "the prober has revealed a score of this node already",
    Code.SENDER_LIMIT: "too many transactions of this key wait for a block",
    Code.NOT_STARTED: "the chain has not started yet",
    Code.NOT_CHECKED: "this node could not check the transaction",
    Code.UNKNOWN_PATH: "no query has this path",
    Code.BAD_ARGUMENT: "the path's argument has the wrong form",
}


class Rejected(Exception):
    """How a rule of the core refuses a transaction; `transition` turns it into a result.

    `detail` names the field or limit. It is made of constants and state, never of the text of
    another exception, so that every validator says the same.
    """

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.log = f"{MEANINGS[code]}: {detail}" if detail else MEANINGS[code]

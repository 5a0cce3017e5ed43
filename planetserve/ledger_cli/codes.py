"""What the ledger's result codes of transactions mean. A proof covers the code, not the words
that a server puts beside it; `abci_app.core.codes` is where the numbers are given out."""

from __future__ import annotations

from collections.abc import Mapping

MEANINGS: Mapping[int, str] = {
    0: "done",
    1: "the bytes are not a canonical transaction",
    2: "the transaction exceeds the size limit",
    3: "the signature is not the key's over this chain's transaction",
    4: "the nonce is not the next one of its key",
    5: "no transaction has this kind",
    6: "a field is missing, unknown, of the wrong type or out of range",
    10: "only a verifier may do this",
    11: "no node has this id",
    12: "the node has not announced this role",
    13: "too many nodes wait for their first endorsement; try later",
    14: "the key is registered already; send an update",
    15: "the node has retired; it may register again",
    16: "another node holds this key",
    17: "the key is of low order and would protect nothing",
    18: "no model of this name is registered",
    19: "the key cannot be rotated so",
    20: "the verifier has endorsed as often as an epoch allows",
    21: "the expiry height has passed or lies too far ahead",
    22: "the verifier has no live endorsement of this node and role",
    30: "the epoch is not the current one",
    31: "this part of the epoch does not take such transactions",
    32: "the prober has committed as often as an epoch allows",
    33: "the prober has made this commitment already",
    34: "no commitment of this prober and epoch matches the reveal",
    35: "the prober has revealed a score of this node already",
    36: "the prober's ticket does not assign it this node in this epoch",
    37: "the VRF proof is not the prober's for this epoch's seed",
    38: "the prober left a commitment unopened, or changed its key, and has to rest",
    40: "no proposal has this number",
    41: "the proposal takes no votes any more",
    42: "the verifier has voted on this proposal",
    43: "the verifier has as many open proposals as are allowed",
    44: "the proposed change cannot be made",
    45: "the evidence does not show what it claims",
    46: "this evidence has been judged already",
    47: "a model of this name is registered",
    48: "the verifier has registered as many models as are allowed",
    50: "too many transactions of this key wait for a block",
    51: "the chain has not started yet",
    52: "this node could not check the transaction",
}


def meaning(code: int) -> str:
    return MEANINGS.get(code, "a code of a newer version")

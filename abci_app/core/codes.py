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
    ALREADY_REGISTERED = 14
    NODE_RETIRED = 15
    KEY_IN_USE = 16
    WEAK_KEY = 17
    UNKNOWN_MODEL = 18
    ROTATION_REFUSED = 19

    ENDORSEMENT_LIMIT = 20
    EXPIRY_OUT_OF_RANGE = 21
    NO_CREDENTIAL = 22

    WRONG_EPOCH = 30
    WINDOW_CLOSED = 31
    COMMIT_LIMIT = 32
    ALREADY_COMMITTED = 33
    NO_COMMITMENT = 34
    ALREADY_REVEALED = 35
    NOT_ASSIGNED = 36
    BAD_VRF_PROOF = 37
    BENCHED = 38

    UNKNOWN_PROPOSAL = 40
    PROPOSAL_CLOSED = 41
    ALREADY_VOTED = 42
    TOO_MANY_PROPOSALS = 43
    BAD_CHANGE = 44
    EVIDENCE_INVALID = 45
    EVIDENCE_KNOWN = 46
    MODEL_EXISTS = 47
    MODEL_LIMIT = 48

    SENDER_LIMIT = 50
    NOT_STARTED = 51
    NOT_CHECKED = 52

    UNKNOWN_PATH = 70
    BAD_ARGUMENT = 71
    TOO_MUCH_ASKED = 72


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
    Code.ALREADY_REGISTERED: "the key is registered already; send an update",
    Code.NODE_RETIRED: "the node has retired; it may register again",
    Code.KEY_IN_USE: "another node holds this key",
    Code.WEAK_KEY: "the key is of low order and would protect nothing",
    Code.UNKNOWN_MODEL: "no model of this name is registered",
    Code.ROTATION_REFUSED: "the key cannot be rotated so",
    Code.ENDORSEMENT_LIMIT: "the verifier has endorsed as often as an epoch allows",
    Code.EXPIRY_OUT_OF_RANGE: "the expiry height has passed or lies too far ahead",
    Code.NO_CREDENTIAL: "the verifier has no live endorsement of this node and role",
    Code.WRONG_EPOCH: "the epoch is not the current one",
    Code.WINDOW_CLOSED: "this part of the epoch does not take such transactions",
    Code.COMMIT_LIMIT: "the prober has committed as often as an epoch allows",
    Code.ALREADY_COMMITTED: "the prober has made this commitment already",
    Code.NO_COMMITMENT: "no commitment of this prober and epoch matches the reveal",
    Code.ALREADY_REVEALED: "the prober has revealed a score of this node already",
    Code.NOT_ASSIGNED: "the prober's ticket does not assign it this node in this epoch",
    Code.BAD_VRF_PROOF: "the VRF proof is not the prober's for this epoch's seed",
    Code.BENCHED: "the prober left a commitment unopened, or changed its key, and has to rest",
    Code.UNKNOWN_PROPOSAL: "no proposal has this number",
    Code.PROPOSAL_CLOSED: "the proposal takes no votes any more",
    Code.ALREADY_VOTED: "the verifier has voted on this proposal",
    Code.TOO_MANY_PROPOSALS: "the verifier has as many open proposals as are allowed",
    Code.BAD_CHANGE: "the proposed change cannot be made",
    Code.EVIDENCE_INVALID: "the evidence does not show what it claims",
    Code.EVIDENCE_KNOWN: "this evidence has been judged already",
    Code.MODEL_EXISTS: "a model of this name is registered",
    Code.MODEL_LIMIT: "the verifier has registered as many models as are allowed",
    Code.SENDER_LIMIT: "too many transactions of this key wait for a block",
    Code.NOT_STARTED: "the chain has not started yet",
    Code.NOT_CHECKED: "this node could not check the transaction",
    Code.UNKNOWN_PATH: "no query has this path",
    Code.BAD_ARGUMENT: "the path's argument has the wrong form",
    Code.TOO_MUCH_ASKED: "the query asks for more than one answer may hold",
}


REMEDIES: dict[Code, str] = {
    Code.OK: "Nothing.",
    Code.MALFORMED: "Build the transaction with `planetserve.transactions`; a truncated or "
    "re-encoded one is refused too.",
    Code.TOO_LARGE: "Send less. Of evidence, show the shortest request that proves the point.",
    Code.BAD_SIGNATURE: "Sign with the key that the body names, for the chain id of "
    "`network.toml`; a transaction of another network has this code.",
    Code.BAD_NONCE: "Read the account's next nonce and sign again. When several programs use one "
    "key, let one of them send.",
    Code.UNKNOWN_KIND: "Install the release that the network runs.",
    Code.INVALID_FIELD: "The log names the field and what it takes.",
    Code.NOT_A_VERIFIER: "Check which key the command was given. A key becomes a verifier's by a "
    "`join` proposal that passes.",
    Code.UNKNOWN_NODE: "Register the node first. A candidate that nobody endorsed for "
    "`candidate_blocks` is forgotten and registers again; one that rotated has another id.",
    Code.ROLE_NOT_ANNOUNCED: "Let the node announce the role with `update`, then endorse it.",
    Code.TOO_MANY_CANDIDATES: "Try again in some minutes, or ask a verifier to endorse the key "
    "before it registers: such a key needs no place among the candidates.",
    Code.ALREADY_REGISTERED: "Send `update` instead of `register`.",
    Code.NODE_RETIRED: "Send `register` to come back; reputation is as it was left.",
    Code.KEY_IN_USE: "Make new onion and transport keys. If the key file was copied from another "
    "node, only one of the two can run with it.",
    Code.WEAK_KEY: "Make the keys anew; a key generator never makes such a key.",
    Code.UNKNOWN_MODEL: "Use the registered name to the letter, or ask a verifier to register the "
    "model.",
    Code.ROTATION_REFUSED: "The log says why. Take a new key that was never used on this chain, "
    "and rotate once an epoch.",
    Code.ENDORSEMENT_LIMIT: "Wait for the next epoch, or ask another verifier.",
    Code.EXPIRY_OUT_OF_RANGE: "Choose a height within the range that the log names.",
    Code.NO_CREDENTIAL: "Nothing is left to revoke. A verifier ends its own credentials only; a "
    "candidate has none and is forgotten by itself.",
    Code.WRONG_EPOCH: "A prober goes on by itself in the next epoch. When it happens often, the "
    "prober's machine or its RPC server is slow.",
    Code.WINDOW_CLOSED: "The same: the transaction came too late for its part of the epoch, or "
    "too early.",
    Code.COMMIT_LIMIT: "Wait for the next epoch; verifiers can vote `max_commits_per_epoch` up.",
    Code.ALREADY_COMMITTED: "Open the commitment that was made. Two probers must not run with one "
    "key.",
    Code.NO_COMMITMENT: "Reveal what was committed, to the byte: score, samples, digest and salt. "
    "A prober that lost its state cannot, and is benched for an epoch.",
    Code.ALREADY_REVEALED: "Nothing; the first reveal counts.",
    Code.NOT_ASSIGNED: "Probe the nodes that the ticket assigns. Chain id, epoch and seed must be "
    "those of the running epoch.",
    Code.BAD_VRF_PROOF: "Prove the running epoch's seed with the prober's own key, and show the "
    "same proof in all reveals of the epoch.",
    Code.BENCHED: "Wait until the epoch after `benched` of the verifier's record. Keep the "
    "prober's state on a disk that survives a crash.",
    Code.UNKNOWN_PROPOSAL: "Look the number up; old proposals make room for new ones.",
    Code.PROPOSAL_CLOSED: "Propose the change again.",
    Code.ALREADY_VOTED: "Nothing; a vote is final. The proposer has voted yes by proposing.",
    Code.TOO_MANY_PROPOSALS: "Wait until one of the verifier's open proposals is settled.",
    Code.BAD_CHANGE: "The log says what stands against it. Large changes of power go in steps.",
    Code.EVIDENCE_INVALID: "The log says what is missing. Evidence needs the request's exact bytes "
    "and the node's signature over each statement.",
    Code.EVIDENCE_KNOWN: "Nothing; the node has paid for it.",
    Code.MODEL_EXISTS: "A name never changes its meaning: register other weights or settings under "
    "another name.",
    Code.MODEL_LIMIT: "Let another verifier register it, or vote `max_models_per_verifier` up.",
    Code.SENDER_LIMIT: "Wait for a block and send again. A new key may have one transaction "
    "waiting.",
    Code.NOT_STARTED: "Wait for the first block; look at the node's log if none comes.",
    Code.NOT_CHECKED: "Send to another node and report the error in this node's log.",
    Code.UNKNOWN_PATH: "Use `/state`, `/store/NAME/key` or `/roots/HEIGHT`.",
    Code.BAD_ARGUMENT: "The log says which form the argument has.",
    Code.TOO_MUCH_ASKED: "Ask for fewer keys or stores at once.",
}
"""What a person can do about a code; `docs/result-codes.md` prints it."""


class Rejected(Exception):
    """How a rule of the core refuses a transaction; `transition` turns it into a result.

    `detail` names the field or limit. It is made of constants and state, never of the text of
    another exception, so that every validator says the same.
    """

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.log = f"{MEANINGS[code]}: {detail}" if detail else MEANINGS[code]

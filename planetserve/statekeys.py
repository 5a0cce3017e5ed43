"""Where the ledger keeps what: the keys of its state, which readers ask for and verify.

A key is `STORE/` and the store's own key. ID stands for a node id of 20 bytes, E for an epoch and
H for a height, 8 bytes each and big-endian so that scans go in order.

    accounts/ID                the next nonce of a key
    chain/main                 chain id, version of the rules, parameters
    chain/epoch                the running epoch: number, first height, seed, share of the probers
    chain/candidates           how many nodes wait for their first credential
    chain/pending              parameters that take effect with the next epoch
    chain/next_proposal        the number of the next proposal
    chain/open_proposals       numbers and proposers of those that take votes
    chain/upgrade              the version that takes over, and at which height
    commits/PROBER NODE        a prober's commitment of the running epoch to its score of a node
    credentials/ID ROLE/ID     a credential: of a node, for a role, by an endorser
    endorsers/ID               how many credentials an endorser has given that are still kept
    epochs/E                   what a settled epoch came to
    evidence/DIGEST            a proof of misconduct that was judged
    expiries/H ID REST         what ends at a height: the credential ID REST, or the patience with
                               the node ID when REST is empty
    keys/KIND KEY              which node holds an onion (KIND o) or transport (KIND t) key, or
                               goes on from, or will go on as, an id (KIND i)
    models/NAME                a model with the settings of its reference
    nodes/ID                   what a node announced
    proposals/NUMBER           a change that verifiers vote on
    quotas/ID                  what a verifier has done in the running epoch
    reputation/ID              a node's reputation and what its rules remember
    results/E ID               what an epoch did to a node, with all of its evidence
    reveals/NODE PROBER        an opened commitment of the running epoch
    rotations/ID               the key that takes over from a node's at the epoch's end
    routes/ID                  a node that somebody endorses, as its users see it
    verifiers/ID               a validator and its prober
    waiting/ID                 the same of a node that nobody endorses, or that has retired
"""

from __future__ import annotations

STORES = (
    "accounts",
    "chain",
    "commits",
    "credentials",
    "endorsers",
    "epochs",
    "evidence",
    "expiries",
    "keys",
    "models",
    "nodes",
    "proposals",
    "quotas",
    "reputation",
    "results",
    "reveals",
    "rotations",
    "routes",
    "verifiers",
    "waiting",
)

CHAIN_KEY = b"chain/main"
EPOCH_KEY = b"chain/epoch"
CANDIDATES_KEY = b"chain/candidates"
PENDING_KEY = b"chain/pending"
NEXT_PROPOSAL_KEY = b"chain/next_proposal"
OPEN_PROPOSALS_KEY = b"chain/open_proposals"
UPGRADE_KEY = b"chain/upgrade"

ONION, TRANSPORT, SUCCESSION = b"o", b"t", b"i"


def store_of(key: bytes) -> str:
    """The store that a state key belongs to."""
    return key.partition(b"/")[0].decode()


def big_endian(number: int) -> bytes:
    """An epoch, height or proposal number as part of a key."""
    return number.to_bytes(8, "big")


def account_key(account: bytes) -> bytes:
    return b"accounts/" + account


def verifier_key(verifier: bytes) -> bytes:
    return b"verifiers/" + verifier


def node_key(node: bytes) -> bytes:
    return b"nodes/" + node


def route_key(node: bytes) -> bytes:
    return b"routes/" + node


def waiting_key(node: bytes) -> bytes:
    return b"waiting/" + node


def holder_key(kind: bytes, key: bytes) -> bytes:
    """Of an onion or transport key of 32 bytes, or an id (`SUCCESSION`)."""
    return b"keys/" + kind + key


def credentials_prefix(node: bytes, role: str = "") -> bytes:
    """All credentials of a node, or those for one role."""
    return b"credentials/" + node + (role.encode() + b"/" if role else b"")


def credential_key(node: bytes, role: str, endorser: bytes) -> bytes:
    return credentials_prefix(node, role) + endorser


def expiries_prefix(height: int) -> bytes:
    return b"expiries/" + big_endian(height)


def expiry_key(height: int, node: bytes, credential: bytes = b"") -> bytes:
    """`credential` is what follows the node in the credential's key."""
    return expiries_prefix(height) + node + credential


def endorser_key(endorser: bytes) -> bytes:
    return b"endorsers/" + endorser


def rotation_key(node: bytes) -> bytes:
    return b"rotations/" + node


def quota_key(verifier: bytes) -> bytes:
    return b"quotas/" + verifier


def reputation_key(node: bytes) -> bytes:
    return b"reputation/" + node


def commit_key(prober: bytes, node: bytes) -> bytes:
    return b"commits/" + prober + node


def reveal_key(node: bytes, prober: bytes) -> bytes:
    return b"reveals/" + node + prober


def epoch_key(epoch: int) -> bytes:
    return b"epochs/" + big_endian(epoch)


def results_prefix(epoch: int) -> bytes:
    return b"results/" + big_endian(epoch)


def result_key(epoch: int, node: bytes) -> bytes:
    return results_prefix(epoch) + node


def model_key(name: str) -> bytes:
    return b"models/" + name.encode()


def proposal_key(number: int) -> bytes:
    return b"proposals/" + big_endian(number)


def evidence_key(digest: bytes) -> bytes:
    return b"evidence/" + digest

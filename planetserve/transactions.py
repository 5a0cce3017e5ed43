"""Transactions as they are signed, sent and read: the format that the ledger and its users share.

    envelope  = canonical map {"body": bytes, "signature": 64 bytes}
    body      = canonical map {"data": map, "key": 32 bytes, "kind": str, "nonce": int, "v": 1}
    signature = Ed25519 by "key" over  "planetserve/tx/v1" NUL chain_id NUL body

`nonce` counts the transactions of a key, from zero and without gaps. What each kind's `data`
holds is stated by its builder below; the ledger checks it in `abci_app.core`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from planetserve.encoding import EncodingError, decode, encode
from planetserve.keys import Identity, verify

DOMAIN = "planetserve/tx/v1"
VERSION = 1
MAX_TRANSACTION_BYTES = 16_384
MAX_ELEMENTS = 256
"""Values and names in a transaction's data, however nested: an element of one byte takes a
hundred when it is decoded."""

REGISTER = "register"
UPDATE = "update"
RETIRE = "retire"
ROTATE = "rotate"
ENDORSE = "endorse"
REVOKE = "revoke"
MODEL = "model"
COMMIT = "commit"
REVEAL = "reveal"
EVIDENCE = "evidence"
PROPOSE = "propose"
VOTE = "vote"
KINDS = (
    REGISTER,
    UPDATE,
    RETIRE,
    ROTATE,
    ENDORSE,
    REVOKE,
    MODEL,
    COMMIT,
    REVEAL,
    EVIDENCE,
    PROPOSE,
    VOTE,
)
ROTATION_DOMAIN = "planetserve/rotate/v1"

# In the order of canonical maps.
ENVELOPE_FIELDS = ("body", "signature")
BODY_FIELDS = ("data", "key", "kind", "nonce", "v")

ROLES = ("model", "prober", "relay", "user", "verifier")
SCORE_SCALE_PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Transaction:
    """A decoded transaction whose signature is not yet checked."""

    kind: str
    key: bytes
    nonce: int
    data: Mapping[str, Any]
    body: bytes
    signature: bytes

    def signed_for(self, chain_id: str) -> bool:
        return verify(self.key, DOMAIN, chain_id.encode() + b"\0" + self.body, self.signature)


def sign_transaction(
    identity: Identity, chain_id: str, nonce: int, kind: str, data: Mapping[str, Any]
) -> bytes:
    """The bytes to broadcast for one transaction of `identity`."""
    body = encode(
        {"v": VERSION, "kind": kind, "key": identity.public_key, "nonce": nonce, "data": data}
    )
    signature = identity.sign(DOMAIN, chain_id.encode() + b"\0" + body)
    return encode({"body": body, "signature": signature})


def decode_transaction(raw: bytes) -> Transaction:
    """Decode an envelope; raises `EncodingError` when any part is not as the format says."""
    envelope = decode(raw, max_bytes=MAX_TRANSACTION_BYTES)
    if not isinstance(envelope, dict) or tuple(envelope) != ENVELOPE_FIELDS:
        raise EncodingError("an envelope holds exactly body and signature")
    body, signature = envelope["body"], envelope["signature"]
    if not isinstance(body, bytes) or not isinstance(signature, bytes) or len(signature) != 64:
        raise EncodingError("body must be bytes and signature 64 bytes")
    fields = decode(body, max_bytes=MAX_TRANSACTION_BYTES)
    if not isinstance(fields, dict) or tuple(fields) != BODY_FIELDS:
        raise EncodingError("a body holds exactly data, key, kind, nonce and v")
    key, kind, nonce, data = fields["key"], fields["kind"], fields["nonce"], fields["data"]
    well_formed = (
        fields["v"] == VERSION
        and type(fields["v"]) is int
        and isinstance(key, bytes)
        and len(key) == 32
        and isinstance(kind, str)
        and type(nonce) is int
        and nonce >= 0
        and isinstance(data, dict)
    )
    if not well_formed:
        raise EncodingError("a field of the body has the wrong type or version")
    if _elements(data) > MAX_ELEMENTS:
        raise EncodingError(f"data holds {MAX_ELEMENTS} elements at most")
    return Transaction(kind, key, nonce, data, body, signature)


def _elements(value: Any) -> int:
    """How many names and values a map or list holds, and those within them."""
    if type(value) is dict:
        return 2 * len(value) + sum(map(_elements, value.values()))
    if type(value) is list:
        return len(value) + sum(map(_elements, value))
    return 0


def register(
    *,
    name: str,
    roles: Sequence[str],
    onion_key: bytes,
    transport_key: bytes,
    endpoints: Mapping[str, str],
    model: str = "",
    operator: str = "",
) -> dict[str, Any]:
    """Data that announces the signer as a node (`REGISTER`), or replaces what it announced
    before (`UPDATE`).

    `roles` are words of `ROLES` except "verifier", sorted; `endpoints` maps "overlay" and "group"
    to ZeroMQ addresses; `model` is the registered name of what a model node serves.
    """
    return {
        "name": name,
        "roles": sorted(roles),
        "onion_key": onion_key,
        "transport_key": transport_key,
        "endpoints": dict(endpoints),
        "model": model,
        "operator": operator,
    }


def retire() -> dict[str, Any]:
    """Data by which a node leaves."""
    return {}


def rotation_message(chain_id: str, old_key: bytes, new_key: bytes) -> bytes:
    """What the new key signs in `ROTATION_DOMAIN`, so that nobody takes over to a key that does
    not want it."""
    return chain_id.encode() + b"\0" + old_key + new_key


def rotate(chain_id: str, old_key: bytes, new: Identity) -> dict[str, Any]:
    """Data by which the node with `old_key` goes on as `new` from the epoch's end."""
    message = rotation_message(chain_id, old_key, new.public_key)
    return {"new_key": new.public_key, "proof": new.sign(ROTATION_DOMAIN, message)}


def endorse(*, node: bytes, role: str, expires: int) -> dict[str, Any]:
    """Data by which a verifier admits `node` (20-byte id) to `role` until height `expires`."""
    return {"node": node, "role": role, "expires": expires}


def revoke(*, node: bytes, role: str) -> dict[str, Any]:
    """Data by which a verifier ends its credential of `node` for `role`."""
    return {"node": node, "role": role}


def commit(*, epoch: int, node: bytes, commitment: bytes) -> dict[str, Any]:
    """Data by which a prober binds itself to its score of `node` in `epoch`; see
    `score_commitment`."""
    return {"epoch": epoch, "node": node, "commitment": commitment}


def reveal(
    *,
    epoch: int,
    node: bytes,
    score_ppm: int,
    samples: int,
    digest: bytes,
    salt: bytes,
    proof: bytes,
) -> dict[str, Any]:
    """Data that opens a commitment: the credit C of `node` in millionths over `samples` replies,
    the SHA-256 `digest` of their transcripts, and the 32-byte `salt`. `proof` is the prober's VRF
    proof for the epoch (`planetserve.assignment.ticket_input`)."""
    return {
        "epoch": epoch,
        "node": node,
        "score_ppm": score_ppm,
        "samples": samples,
        "digest": digest,
        "salt": salt,
        "proof": proof,
    }


def model(
    *,
    name: str,
    weights_digest: bytes,
    quantization: str,
    context_tokens: int,
    deterministic: bool,
) -> dict[str, Any]:
    """Data by which a verifier registers a model that nodes may then serve: the SHA-256 of its
    weights and the settings of its reference. `deterministic` says that replies at temperature 0
    are reproducible to the byte; a node can be convicted over it."""
    return {
        "name": name,
        "weights_digest": weights_digest,
        "quantization": quantization,
        "context_tokens": context_tokens,
        "deterministic": deterministic,
    }


def evidence(
    *,
    accused: bytes,
    key: bytes,
    kind: str,
    request: bytes,
    statements: Sequence[Mapping[str, bytes]],
) -> dict[str, Any]:
    """Data by which a verifier shows what a node has signed; see `planetserve.evidence`. `key`
    signed the `statements`, each a map of "statement" and "signature"."""
    return {
        "accused": accused,
        "key": key,
        "kind": kind,
        "request": request,
        "statements": [dict(item) for item in statements],
    }


def propose(*, change: Mapping[str, Any]) -> dict[str, Any]:
    """Data by which a verifier puts a change to the vote, and votes yes. A change is one of

    {"kind": "parameter", "name", "value"}
    {"kind": "join", "key", "name", "consensus_key", "onion_key", "transport_key", "power"}
    {"kind": "leave", "verifier"}
    {"kind": "power", "verifier", "power"}
    {"kind": "upgrade", "version", "height"}
    {"kind": "cancel", "version"}
    {"kind": "expel", "node"}
    {"kind": "model", ...}, with the fields of `model`
    """
    return {"change": dict(change)}


def vote(*, proposal: int, approve: bool) -> dict[str, Any]:
    """Data by which a verifier votes on a proposal, once."""
    return {"proposal": proposal, "approve": approve}


SCORE_FIELDS = ("digest", "epoch", "node", "salt", "samples", "score_ppm")


def score_commitment(chain_id: str, prober_key: bytes, reveal_data: Mapping[str, Any]) -> bytes:
    """SHA-256 that binds a prober to a reveal, of which all but the VRF proof is covered. It
    names the prober, so that a copied commitment is useless."""
    score = {name: reveal_data[name] for name in SCORE_FIELDS}
    return hashlib.sha256(
        b"planetserve/commit/v1\0"
        + encode({"chain_id": chain_id, "prober": prober_key, "score": score})
    ).digest()

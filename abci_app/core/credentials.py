"""Credentials: a verifier's endorsement of a node for a role, until a height.

Each verifier's endorsement is a record of its own and only its author revokes it, so no single
verifier can put a node out that others vouch for; all together can, by a vote. How many a
verifier may write in an epoch is capped, and how many of its own are kept at a time: the brake on
an attacker who makes nodes by the thousand. A key may be endorsed before it registers; it then
needs no place among the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from abci_app.core import fields, lifecycle
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.nodes import load_node
from abci_app.core.quotas import load_quota, save_quota
from abci_app.core.state import Reader, View, load, records
from abci_app.core.verifiers import Verifier, count_verifiers, load_verifier, require_verifier
from planetserve.keys import NODE_ID_BYTES
from planetserve.statekeys import (
    credential_key,
    credentials_prefix,
    endorser_key,
    expiry_key,
)

GENESIS_ENDORSER = bytes(NODE_ID_BYTES)


@dataclass(frozen=True, slots=True)
class Credential:
    """Heights: written at `issued`, valid up to and including `expires`, and then deleted;
    `revoked` is the height of its revocation, 0 while it stands."""

    issued: int
    expires: int
    revoked: int = 0

    def live(self, height: int) -> bool:
        return not self.revoked and height <= self.expires


@dataclass(frozen=True, slots=True)
class Admission:
    """What all credentials of a node for one role come to."""

    expires: int = 0
    live: bool = False
    revoked: bool = False


def admission(credentials: Iterable[Credential], height: int) -> Admission:
    """The role is live while any credential is; it is revoked when none is and one was."""
    held = list(credentials)
    standing = [credential.expires for credential in held if not credential.revoked]
    expires = max(standing, default=0)
    live = any(credential.live(height) for credential in held)
    revoked = not live and any(credential.revoked for credential in held)
    return Admission(expires, live, revoked)


def load_credential(reader: Reader, node: bytes, role: str, endorser: bytes) -> Credential | None:
    record = load(reader, credential_key(node, role, endorser))
    return None if record is None else Credential(**record)


def credentials_of(reader: Reader, node: bytes) -> list[tuple[str, bytes, Credential]]:
    """Role, endorser and credential, in ascending order of the first two."""
    return [
        (*parse_rest(rest), Credential(**record))
        for rest, record in records(reader, credentials_prefix(node))
    ]


def has_live(reader: Reader, node: bytes, height: int) -> bool:
    return any(item.live(height) for _, _, item in credentials_of(reader, node))


def parse_rest(rest: bytes) -> tuple[str, bytes]:
    """The role and the endorser that follow a node's id in a credential's key."""
    return rest[: -NODE_ID_BYTES - 1].decode(), rest[-NODE_ID_BYTES:]


def put(view: View, node: bytes, role: str, endorser: bytes, credential: Credential) -> None:
    """Write a credential, with the note of when it is deleted, in place of a former one."""
    former = load_credential(view, node, role, endorser)
    if former is None:
        _count(view, endorser, 1)
    else:
        view.delete(_note(node, role, endorser, former))
    view.save(credential_key(node, role, endorser), asdict(credential))
    view.save(_note(node, role, endorser, credential), None)


def drop(view: View, node: bytes, role: str, endorser: bytes) -> None:
    """Delete a credential and its note."""
    former = load_credential(view, node, role, endorser)
    if former is not None:
        view.delete(credential_key(node, role, endorser))
        view.delete(_note(node, role, endorser, former))
        _count(view, endorser, -1)


def drop_all(view: View, node: bytes) -> None:
    for role, endorser, _ in credentials_of(view, node):
        drop(view, node, role, endorser)


def held_by(reader: Reader, verifier: Verifier) -> int:
    """How many credentials of a verifier are kept, also from before it rotated its key."""
    return sum(
        int(load(reader, endorser_key(identifier)) or 0)
        for identifier in (verifier.id, *verifier.former)
    )


ENDORSE_FIELDS = frozenset({"node", "role", "expires"})
REVOKE_FIELDS = frozenset({"node", "role"})


def endorse(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Admit a node to a role, or renew that. A registered node must have announced the role."""
    fields.exact(data, ENDORSE_FIELDS)
    target, role = fields.node(data), fields.role(data)
    expires = fields.integer(data, "expires")
    endorser = require_verifier(view, context.sender)
    node = load_node(view, target)
    if node is not None and node.retired:
        raise Rejected(Code.NODE_RETIRED)
    if node is not None and role not in node.roles:
        raise Rejected(Code.ROLE_NOT_ANNOUNCED)
    furthest = context.height + context.parameters.max_credential_blocks
    if not context.height < expires <= furthest:
        raise Rejected(Code.EXPIRY_OUT_OF_RANGE, f"{context.height + 1} to {furthest} are allowed")
    quota = load_quota(view, endorser.id)
    if quota.endorsements >= context.parameters.max_endorsements_per_epoch:
        raise Rejected(Code.ENDORSEMENT_LIMIT)
    if load_credential(view, target, role, endorser.id) is None:
        share = max(1, context.parameters.max_credentials // count_verifiers(view))
        if held_by(view, endorser) >= share:
            raise Rejected(Code.ENDORSEMENT_LIMIT, f"{share} of a verifier are kept at a time")
    save_quota(view, endorser.id, replace(quota, endorsements=quota.endorsements + 1))
    put(view, target, role, endorser.id, Credential(context.height, expires))
    if node is not None:
        lifecycle.end_waiting(view, node)


def revoke(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """End the sender's own credential of a node, also one that it wrote under a former key; it
    takes effect with this block. Its record stays for a while, to say why."""
    fields.exact(data, REVOKE_FIELDS)
    target, role = fields.node(data), fields.role(data)
    verifier = require_verifier(view, context.sender)
    for identifier in (verifier.id, *verifier.former):
        credential = load_credential(view, target, role, identifier)
        if credential is not None and credential.live(context.height):
            last = min(credential.expires, context.height + context.parameters.candidate_blocks)
            ended = replace(credential, revoked=context.height, expires=last)
            put(view, target, role, identifier, ended)
            return
    raise Rejected(Code.NO_CREDENTIAL)


def expire(view: View, node: bytes, rest: bytes, height: int, patience_blocks: int) -> None:
    """Delete a credential whose last block was the one before `height`. A node that has no other
    waits for one."""
    drop(view, node, *parse_rest(rest))
    lapse(view, node, height, patience_blocks)


def lapse(view: View, identifier: bytes, height: int, patience_blocks: int) -> None:
    """Let a node wait if its last credential is gone; verifiers need none."""
    node = load_node(view, identifier)
    if node is None or node.retired or node.waiting:
        return
    if lifecycle.is_endorsed(view, identifier) or load_verifier(view, identifier) is not None:
        return
    lifecycle.begin_waiting(view, node, height, patience_blocks)


def _note(node: bytes, role: str, endorser: bytes, credential: Credential) -> bytes:
    return expiry_key(credential.expires + 1, node, role.encode() + b"/" + endorser)


def _count(view: View, endorser: bytes, change: int) -> None:
    kept = int(load(view, endorser_key(endorser)) or 0) + change
    if kept:
        view.save(endorser_key(endorser), kept)
    else:
        view.delete(endorser_key(endorser))

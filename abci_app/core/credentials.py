"""Credentials: a verifier's endorsement of a node for a role, until a height.

Each verifier's endorsement is a record of its own and only its author revokes it, so no single
verifier can put a node out that others vouch for. What verifiers wrote who have since left can be
revoked by any. The number that a verifier may write in an epoch is capped: the brake on an
attacker who makes nodes by the thousand. A key may be endorsed before it registers; it then needs
no place among the candidates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.nodes import GENESIS_ENDORSER, first_endorsed, load_node
from abci_app.core.quotas import load_quota, save_quota
from abci_app.core.state import Reader, View, load, records
from abci_app.core.verifiers import all_verifiers, require_verifier
from planetserve.statekeys import credential_key, credentials_prefix, expiry_key


@dataclass(frozen=True, slots=True)
class Credential:
    """Heights: written at `issued`, valid up to and including `expires`; `revoked` is the height
    of its revocation, 0 while it stands."""

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


def save_credential(
    view: View, node: bytes, role: str, endorser: bytes, credential: Credential
) -> None:
    """The node's public record is computed anew at the height after the credential's last."""
    view.save(credential_key(node, role, endorser), asdict(credential))
    view.save(expiry_key(credential.expires + 1, node), None)


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
    save_quota(view, endorser.id, replace(quota, endorsements=quota.endorsements + 1))
    save_credential(view, target, role, endorser.id, Credential(context.height, expires))
    if node is not None:
        first_endorsed(view, node)


def revoke(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """End the sender's own credential of a node, also one that it wrote under a former key; or
    else one of an endorser who is no verifier any more, for whom somebody must be able to. It
    takes effect with this block."""
    fields.exact(data, REVOKE_FIELDS)
    target, role = fields.node(data), fields.role(data)
    verifier = require_verifier(view, context.sender)
    for identifier in (verifier.id, *verifier.former, *_orphaned(view, target, role)):
        credential = load_credential(view, target, role, identifier)
        if credential is not None and credential.live(context.height):
            ended = replace(credential, revoked=context.height)
            view.save(credential_key(target, role, identifier), asdict(ended))
            return
    raise Rejected(Code.NO_CREDENTIAL)


def _orphaned(view: View, node: bytes, role: str) -> list[bytes]:
    """Endorsers of a node who are verifiers no more; genesis is nobody's to overrule."""
    standing = {GENESIS_ENDORSER}
    for verifier in all_verifiers(view):
        standing |= {bytes(verifier.id), *verifier.former}
    endorsers = (rest for rest, _ in records(view, credentials_prefix(node, role)))
    return [endorser for endorser in endorsers if endorser not in standing]

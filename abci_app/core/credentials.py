"""Credentials: a verifier's endorsement of a node for a role, until a height.

Each verifier's endorsement is a record of its own and only its author revokes it, so no single
verifier can put a node out that others vouch for. The number that a verifier may write in an
epoch is capped: the brake on an attacker who makes nodes by the thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.nodes import first_endorsed, load_node
from abci_app.core.quotas import load_quota, save_quota
from abci_app.core.state import Reader, View, credential_key, load
from abci_app.core.verifiers import require_verifier


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
    view.save(credential_key(node, role, endorser), asdict(credential))


ENDORSE_FIELDS = frozenset({"node", "role", "expires"})
REVOKE_FIELDS = frozenset({"node", "role"})


def endorse(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Admit a node to a role that it has announced, or renew that."""
    fields.exact(data, ENDORSE_FIELDS)
    target, role = fields.node(data), fields.role(data)
    expires = fields.integer(data, "expires")
    endorser = require_verifier(view, context.sender)
    node = load_node(view, target)
    if node is None:
        raise Rejected(Code.UNKNOWN_NODE)
    if role not in node.roles:
        raise Rejected(Code.ROLE_NOT_ANNOUNCED)
    furthest = context.height + context.parameters.max_credential_blocks
    if not context.height < expires <= furthest:
        raise Rejected(Code.EXPIRY_OUT_OF_RANGE, f"{context.height + 1} to {furthest} are allowed")
    quota = load_quota(view, context.epoch, endorser.id)
    if quota.endorsements >= context.parameters.max_endorsements_per_epoch:
        raise Rejected(Code.ENDORSEMENT_LIMIT)
    save_quota(
        view, context.epoch, endorser.id, replace(quota, endorsements=quota.endorsements + 1)
    )
    save_credential(view, target, role, endorser.id, Credential(context.height, expires))
    first_endorsed(view, node)


def revoke(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """End the sender's own credential of a node; it takes effect with this block."""
    fields.exact(data, REVOKE_FIELDS)
    target, role = fields.node(data), fields.role(data)
    endorser = require_verifier(view, context.sender)
    credential = load_credential(view, target, role, endorser.id)
    if credential is None or not credential.live(context.height):
        raise Rejected(Code.NO_CREDENTIAL)
    save_credential(view, target, role, endorser.id, replace(credential, revoked=context.height))

"""Which registered nodes a verifier admits under the open policy.

Open means: whoever registers is admitted, as far as the ledger's cap per verifier and epoch goes.
Each node falls to one verifier by its id; the others step in when that one does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from planetserve.records import CANDIDATE, REVOKED, NodeRecord

ENDORSABLE_ROLES = ("model", "relay", "user")
STEP_IN_AFTER_S = 6.0


def waits(node: NodeRecord, height: int) -> bool:
    """Whether a node needs a credential at `height`. A model node may be a candidate with one,
    until its probes have passed. Under the open policy nobody's revocation but the own is a
    reason: else any one verifier could keep newcomers out by endorsing and revoking them."""
    return node.status in (CANDIDATE, REVOKED) and not node.admitted(height)


def due_endorsements(
    nodes: Iterable[NodeRecord],
    verifiers: Sequence[bytes],
    own: bytes,
    first_seen_s: Mapping[bytes, float],
    now_s: float,
    height: int,
) -> list[tuple[NodeRecord, str]]:
    """Nodes to endorse now, with the role; `verifiers` are their ids in the ledger's order."""
    due = []
    for node in nodes:
        if not waits(node, height):
            continue
        mine = verifiers[int.from_bytes(node.id[:8], "big") % len(verifiers)] == own
        if mine or now_s - first_seen_s.get(node.id, now_s) >= STEP_IN_AFTER_S:
            due += [(node, role) for role in node.roles if role in ENDORSABLE_ROLES]
    return due

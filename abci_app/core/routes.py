"""The route set: the public record of every node, derived from credentials and reputation.

Kept in a store of its own, so that a reader verifies it whole against that store's root. Who may
be routed to are the nodes whose status is trusted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from abci_app.core.credentials import Admission, Credential, admission
from abci_app.core.nodes import VERIFIER_ROLES, Node, drop_stale_candidate, load_node
from abci_app.core.parameters import Parameters
from abci_app.core.reputation import Reputation, load_reputation
from abci_app.core.state import View, load, records
from abci_app.core.verifiers import load_verifier
from planetserve.keys import NODE_ID_BYTES
from planetserve.records import CANDIDATE, RETIRED, REVOKED, TRUSTED, UNTRUSTED, NodeRecord
from planetserve.statekeys import (
    credentials_prefix,
    expiries_prefix,
    expiry_key,
    route_key,
)

NEVER = (1 << 53) - 1
"""Expiry height of what a verifier holds; the largest that every JSON reader keeps exact."""
PER_NODE = ("credentials", "nodes", "reputation", "verifiers")
"""Stores whose keys begin with the id of the node that they concern."""

Held = Mapping[str, Sequence[Credential]]
"""A node's credentials by role."""


def standing(reputation: Reputation) -> str:
    """A model node's status as far as its conduct goes."""
    if not reputation.admitted:
        return CANDIDATE
    return TRUSTED if reputation.trusted else UNTRUSTED


def node_record(
    node: Node,
    credentials: Held,
    reputation: Reputation | None,
    is_verifier: bool,
    height: int,
) -> NodeRecord:
    """A node as readers see it at `height`.

    It is trusted only when every role it announces is admitted: a node that adds a role waits
    until that role is endorsed too. `credential_expires` is the first expiry of its roles.
    """
    admissions = [
        Admission(NEVER, live=True)
        if is_verifier and role in VERIFIER_ROLES
        else admission(credentials.get(role, ()), height)
        for role in node.roles
    ]
    scored = reputation if "model" in node.roles else None
    if node.retired:
        status = RETIRED
    elif any(item.revoked for item in admissions):
        status = REVOKED
    elif not all(item.live for item in admissions):
        status = CANDIDATE
    else:
        status = TRUSTED if scored is None else standing(scored)
    return NodeRecord(
        id=node.id,
        key=node.key,
        name=node.name,
        roles=node.roles,
        onion_key=node.onion_key,
        transport_key=node.transport_key,
        endpoints=node.endpoints,
        model=node.model,
        operator=node.operator,
        registered=node.registered,
        credential_expires=min(item.expires for item in admissions),
        reputation_ppm=None if scored is None else scored.ppm,
        status=status,
    )


def refresh_route(view: View, identifier: bytes, height: int) -> None:
    """Compute a node's public record anew, after any change of what it is derived from."""
    node = load_node(view, identifier)
    if node is None:
        view.delete(route_key(identifier))
        return
    held: defaultdict[str, list[Credential]] = defaultdict(list)
    for rest, record in records(view, credentials_prefix(identifier)):
        held[rest[: -NODE_ID_BYTES - 1].decode()].append(Credential(**record))
    record = node_record(
        node,
        held,
        load_reputation(view, identifier),
        load_verifier(view, identifier) is not None,
        height,
    )
    view.save(route_key(identifier), record.to_wire())


def refresh_touched(view: View, keys: Iterable[bytes], height: int) -> None:
    """Bring the routes up to date with changes of the state at `keys`."""
    touched = set()
    for key in keys:
        store, _, rest = key.partition(b"/")
        if store.decode() in PER_NODE:
            touched.add(rest[:NODE_ID_BYTES])
    for identifier in sorted(touched):
        refresh_route(view, identifier, height)


def reputation_changed(
    view: View, node: bytes, before: Reputation, after: Reputation, height: int
) -> None:
    """What `refresh_route` would do after a settlement, in less time: mostly R alone changes."""
    route = load(view, route_key(node))
    if route is None or standing(before) != standing(after):
        refresh_route(view, node, height)
    elif route["reputation_ppm"] is not None and before.ppm != after.ppm:
        view.save_ordered(route_key(node), {**route, "reputation_ppm": after.ppm})


def pass_expiries(view: View, height: int, parameters: Parameters) -> list[bytes]:
    """At the start of a block: candidates whose time is over go, credentials that ended with the
    last block admit nobody any more. Returns the ids of nodes whose record changed."""
    changed = []
    for identifier, _ in list(records(view, expiries_prefix(height))):
        view.delete(expiry_key(height, identifier))
        node = load_node(view, identifier)
        if node is None:
            continue
        if drop_stale_candidate(view, node, height, parameters.candidate_blocks):
            changed.append(identifier)
            continue
        if node.candidate:
            # A vote has lengthened the patience with it since it registered.
            view.save(expiry_key(node.registered + parameters.candidate_blocks, identifier), None)
            continue
        former = view.get(route_key(identifier))
        refresh_route(view, identifier, height)
        if view.get(route_key(identifier)) != former:
            changed.append(identifier)
    return changed

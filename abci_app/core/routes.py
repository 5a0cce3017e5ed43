"""The route set: the public record of every node, derived from credentials and reputation.

Kept in a store of its own, so that a reader verifies it whole against that store's root. Who may
be routed to are the nodes whose status is trusted. Nodes that nobody endorses are kept apart, in
`waiting`: anybody can make them, and change them, as often as they like.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from abci_app.core import lifecycle
from abci_app.core.credentials import Admission, Credential, admission, credentials_of, expire
from abci_app.core.nodes import VERIFIER_ROLES, Node, load_node
from abci_app.core.reputation import load_reputation
from abci_app.core.state import View, load, records
from abci_app.core.verifiers import load_verifier
from planetserve.keys import NODE_ID_BYTES
from planetserve.records import CANDIDATE, RETIRED, REVOKED, TRUSTED, NodeRecord
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation
from planetserve.statekeys import expiries_prefix, expiry_key, route_key, waiting_key

NEVER = (1 << 53) - 1
"""Expiry height of what a verifier holds; the largest that every JSON reader keeps exact."""
PER_NODE = ("credentials", "nodes", "reputation", "verifiers")
"""Stores whose keys begin with the id of the node that they concern."""

Held = Mapping[str, Sequence[Credential]]
"""A node's credentials by role."""


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
        status = TRUSTED if scored is None else scored.status
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


def refresh_route(view: View, identifier: bytes, height: int) -> str | None:
    """Compute a node's public record anew, after any change of what it is derived from. Returns
    its status when that has changed."""
    in_routes, in_waiting = route_key(identifier), waiting_key(identifier)
    former = load(view, in_routes) or load(view, in_waiting)
    node = load_node(view, identifier)
    if node is None:
        _place(view, None, in_routes, in_waiting)
        return None
    held: defaultdict[str, list[Credential]] = defaultdict(list)
    for role, _, credential in credentials_of(view, identifier):
        held[role].append(credential)
    record = node_record(
        node,
        held,
        load_reputation(view, identifier),
        load_verifier(view, identifier) is not None,
        height,
    )
    if node.waiting or node.retired:
        _place(view, record, in_waiting, in_routes)
    else:
        _place(view, record, in_routes, in_waiting)
    return record.status if former is None or former["status"] != record.status else None


def _place(view: View, record: NodeRecord | None, at: bytes, elsewhere: bytes) -> None:
    """Write a record where it belongs, or nowhere."""
    if view.get(elsewhere) is not None:
        view.delete(elsewhere)
    if record is not None:
        view.save(at, record.to_wire())
    elif view.get(at) is not None:
        view.delete(at)


def refresh_touched(view: View, keys: Iterable[bytes], height: int) -> list[tuple[bytes, str]]:
    """Bring the routes up to date with changes of the state at `keys`. Returns the nodes whose
    status has changed."""
    touched = set()
    for key in keys:
        store, _, rest = key.partition(b"/")
        if store.decode() in PER_NODE:
            touched.add(rest[:NODE_ID_BYTES])
    found = (
        (identifier, refresh_route(view, identifier, height)) for identifier in sorted(touched)
    )
    return [(identifier, status) for identifier, status in found if status is not None]


def reputation_changed(
    view: View, node: bytes, before: Reputation, after: Reputation, height: int
) -> None:
    """What `refresh_route` would do after a settlement, in less time: mostly R alone changes."""
    route = load(view, route_key(node))
    if route is None or before.status != after.status:
        refresh_route(view, node, height)
    elif route["reputation_ppm"] is not None and before.ppm != after.ppm:
        view.save_ordered(route_key(node), {**route, "reputation_ppm": after.ppm})


def pass_expiries(view: View, height: int, parameters: Parameters) -> list[bytes]:
    """At the start of a block: credentials that ended with the last one admit nobody any more, and
    nodes that nobody has endorsed for too long are forgotten. Returns the ids of the latter."""
    forgotten = []
    patience = parameters.candidate_blocks
    for rest, _ in list(records(view, expiries_prefix(height))):
        identifier, credential = rest[:NODE_ID_BYTES], rest[NODE_ID_BYTES:]
        if credential:
            expire(view, identifier, credential, height, patience)
            continue
        view.delete(expiry_key(height, identifier))
        node = load_node(view, identifier)
        due = None if node is None else lifecycle.is_forgotten_at(node, height, patience)
        if node is None or due is None:
            continue
        if due > height:
            # A vote has lengthened the patience, or the node began to wait anew.
            view.save(expiry_key(due, identifier), None)
            continue
        lifecycle.forget(view, node)
        forgotten.append(identifier)
    return forgotten

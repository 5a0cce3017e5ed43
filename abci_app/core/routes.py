"""The route set: every node with its status, derived from credentials and reputation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from abci_app.core.credentials import Admission, Credential, admission
from abci_app.core.nodes import VERIFIER_ROLES, Node, all_nodes, load_node
from abci_app.core.parameters import Parameters, load_chain
from abci_app.core.reputation import Reputation, is_trusted, load_reputation
from abci_app.core.state import Reader, credentials_prefix, records
from abci_app.core.verifiers import all_verifiers
from planetserve.keys import NODE_ID_BYTES
from planetserve.records import CANDIDATE, REVOKED, TRUSTED, UNTRUSTED, NodeRecord

NEVER = (1 << 53) - 1
"""Expiry height of what genesis admits; the largest that every JSON reader keeps exact."""

Held = Mapping[str, Sequence[Credential]]
"""A node's credentials by role."""


def node_record(
    node: Node,
    credentials: Held,
    reputation: Reputation | None,
    is_verifier: bool,
    height: int,
    parameters: Parameters,
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
    if any(item.revoked for item in admissions):
        status = REVOKED
    elif scored is not None and not is_trusted(scored, parameters):
        status = UNTRUSTED
    elif not all(item.live for item in admissions):
        status = CANDIDATE
    else:
        status = TRUSTED
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


def all_routes(reader: Reader, height: int) -> list[NodeRecord]:
    """Every node's record in ascending order of ids; one pass over each store."""
    parameters = load_chain(reader).parameters
    held: defaultdict[bytes, defaultdict[str, list[Credential]]]
    held = defaultdict(lambda: defaultdict(list))
    for key, record in records(reader, b"credentials/"):
        held[key[:NODE_ID_BYTES]][_role(key)].append(Credential(**record))
    reputations = {
        node: Reputation(record["ppm"], tuple(record["window_ppm"]))
        for node, record in records(reader, b"reputation/")
    }
    verifiers = {verifier.id for verifier in all_verifiers(reader)}
    return [
        node_record(
            node,
            held[node.id],
            reputations.get(node.id),
            node.id in verifiers,
            height,
            parameters,
        )
        for node in all_nodes(reader)
    ]


def route(reader: Reader, identifier: bytes, height: int) -> NodeRecord | None:
    """One node's record, or None."""
    node = load_node(reader, identifier)
    if node is None:
        return None
    held: defaultdict[str, list[Credential]] = defaultdict(list)
    for key, record in records(reader, credentials_prefix(identifier)):
        held[_role(identifier + key)].append(Credential(**record))
    verifiers = {verifier.id for verifier in all_verifiers(reader)}
    return node_record(
        node,
        held,
        load_reputation(reader, identifier),
        identifier in verifiers,
        height,
        load_chain(reader).parameters,
    )


def _role(key: bytes) -> str:
    """Of a credential key after its store: node id, role, slash, endorser."""
    return key[NODE_ID_BYTES : -NODE_ID_BYTES - 1].decode()

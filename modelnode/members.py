"""Who is in the group of nodes that serve one model: as the ledger says, or as a file does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planetserve.keys import NodeId
from planetserve.records import TRUSTED, UNTRUSTED, NodeRecord, RouteSet


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a node of the group listens, as ZeroMQ writes it, and its CURVE public key."""

    node: NodeId
    endpoint: str
    transport_key: bytes


@dataclass(frozen=True, slots=True)
class Members:
    """`admitted` nodes, by their transport keys, may connect and ask; `trusted` ones, which have
    an address each, are sent requests."""

    admitted: Mapping[bytes, NodeId] = field(default_factory=dict)
    trusted: tuple[PeerAddress, ...] = ()


def members_of_routes(routes: RouteSet, model: str) -> Members:
    """Endorsed model nodes may connect, trusted ones of our model are sent requests. Whoever
    announced a transport key first keeps it."""
    admitted: dict[bytes, NodeId] = {}
    for record in sorted(routes.nodes, key=lambda record: (record.registered, record.id)):
        if "model" in record.roles and record.status in (TRUSTED, UNTRUSTED):
            admitted.setdefault(record.transport_key, record.id)
    trusted = tuple(
        PeerAddress(node.id, node.endpoints["group"], node.transport_key)
        for node in routes.model_nodes(model)
        if _in_group(node)
    )
    return Members(admitted, trusted)


def _in_group(node: NodeRecord) -> bool:
    return node.endpoints.get("group", "").startswith("tcp://")

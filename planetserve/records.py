"""What the ledger answers to a reader: nodes and the route set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planetserve.encoding import encode
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId, node_id

TRUSTED = "trusted"
CANDIDATE = "candidate"
UNTRUSTED = "untrusted"
REVOKED = "revoked"
RETIRED = "retired"
STATUSES = (TRUSTED, CANDIDATE, UNTRUSTED, REVOKED, RETIRED)


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node as the ledger knows it.

    `reputation_ppm` is None for roles that nobody scores; `credential_expires` is the height
    after which the node is out of the route set, 0 when it was never admitted.
    """

    id: NodeId
    key: bytes
    name: str
    roles: tuple[str, ...]
    onion_key: bytes
    transport_key: bytes
    endpoints: Mapping[str, str]
    model: str
    operator: str
    registered: int
    credential_expires: int
    reputation_ppm: int | None
    status: str

    def routable(self, role: str) -> bool:
        return self.status == TRUSTED and role in self.roles

    def to_wire(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "name": self.name,
            "roles": list(self.roles),
            "onion_key": self.onion_key,
            "transport_key": self.transport_key,
            "endpoints": dict(self.endpoints),
            "model": self.model,
            "operator": self.operator,
            "registered": self.registered,
            "credential_expires": self.credential_expires,
            "reputation_ppm": self.reputation_ppm,
            "status": self.status,
        }

    @staticmethod
    def from_wire(value: Mapping[str, Any]) -> NodeRecord:
        """Raises `RemoteProtocolError` when the ledger's answer is not a node record."""
        try:
            return NodeRecord(
                id=node_id(value["key"]),
                key=value["key"],
                name=value["name"],
                roles=tuple(value["roles"]),
                onion_key=value["onion_key"],
                transport_key=value["transport_key"],
                endpoints=dict(value["endpoints"]),
                model=value["model"],
                operator=value["operator"],
                registered=value["registered"],
                credential_expires=value["credential_expires"],
                reputation_ppm=value["reputation_ppm"],
                status=value["status"],
            )
        except (KeyError, TypeError) as error:
            raise RemoteProtocolError("the ledger's answer is not a node record") from error


@dataclass(frozen=True, slots=True)
class RouteSet:
    """Every node of the ledger at one height. Readers take it whole, so that what they read
    says nothing about whom they mean to use."""

    height: int
    hash: bytes
    nodes: tuple[NodeRecord, ...]

    def relays(self) -> list[NodeRecord]:
        return [node for node in self.nodes if node.routable("relay")]

    def model_nodes(self, model: str | None = None) -> list[NodeRecord]:
        return [
            node
            for node in self.nodes
            if node.routable("model") and (model is None or node.model == model)
        ]

    def find(self, identifier: bytes) -> NodeRecord | None:
        return next((node for node in self.nodes if node.id == identifier), None)


def route_set(height: int, records: list[Mapping[str, Any]]) -> RouteSet:
    """Build the route set of a ledger answer; its hash covers records, not the height, so it
    stays the same while nothing changes."""
    nodes = tuple(sorted((NodeRecord.from_wire(item) for item in records), key=lambda n: n.id))
    digest = hashlib.sha256(encode([node.to_wire() for node in nodes])).digest()
    return RouteSet(height, digest, nodes)

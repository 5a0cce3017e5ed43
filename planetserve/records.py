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
        if not _is_node_record(value):
            raise RemoteProtocolError("the ledger's answer is not a node record")
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


def _is_node_record(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    endpoints, roles = value.get("endpoints"), value.get("roles")
    reputation_ppm = value.get("reputation_ppm", "missing")
    return (
        all(
            isinstance(value.get(name), bytes) and len(value[name]) == 32
            for name in ("key", "onion_key", "transport_key")
        )
        and all(isinstance(value.get(name), str) for name in ("name", "model", "operator"))
        and all(type(value.get(name)) is int for name in ("registered", "credential_expires"))
        and value.get("status") in STATUSES
        and (reputation_ppm is None or type(reputation_ppm) is int)
        and isinstance(roles, list)
        and all(isinstance(role, str) for role in roles)
        and isinstance(endpoints, Mapping)
        and all(isinstance(item, str) for pair in endpoints.items() for item in pair)
    )


@dataclass(frozen=True, slots=True)
class ChainStatus:
    """Where the chain stands. The epoch is that of the next block: commits enter at heights from
    `epoch_start` to before `commit_end`, reveals from there to before `reveal_end`; `epoch_end` is
    the next epoch's first height. `verifiers` are ids in the ledger's order."""

    height: int
    epoch: int
    epoch_start: int
    commit_end: int
    reveal_end: int
    epoch_end: int
    verifiers: tuple[bytes, ...]


def chain_status(value: Any) -> ChainStatus:
    """Read the ledger's status. Raises `RemoteProtocolError` when it is none."""
    names = ("height", "epoch", "epoch_start", "commit_end", "reveal_end", "epoch_end")
    try:
        numbers = [value[name] for name in names]
        verifiers = tuple(item["id"] for item in value["verifiers"])
    except (KeyError, TypeError) as error:
        raise RemoteProtocolError("the ledger's answer is not a status") from error
    if not all(type(number) is int for number in numbers) or not all(
        isinstance(item, bytes) for item in verifiers
    ):
        raise RemoteProtocolError("the ledger's answer is not a status")
    height, epoch, start, commit_end, reveal_end, end = numbers
    return ChainStatus(height, epoch, start, commit_end, reveal_end, end, verifiers)


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

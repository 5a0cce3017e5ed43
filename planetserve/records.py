"""What the ledger answers to a reader: nodes and the route set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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

    def admitted(self, height: int) -> bool:
        """Whether verifiers vouch for it at `height`, whatever its conduct so far: it may be
        dialled, and probed, also before it is trusted."""
        return self.status in (TRUSTED, UNTRUSTED) or (
            self.status == CANDIDATE and self.credential_expires >= height
        )

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
class VerifierRecord:
    """A validator and its prober, as the ledger knows them. `power` is what is left of
    `voted_power` after penalties; `trust_ppm` falls with faults of the prober; up to epoch
    `benched` it may not commit, -1 for none."""

    id: NodeId
    key: bytes
    name: str
    consensus_key: bytes
    power: int
    voted_power: int
    trust_ppm: int
    benched: int


@dataclass(frozen=True, slots=True)
class ChainStatus:
    """Where the chain stands after block `height`. The epoch is that of the next block: commits
    enter at heights from `epoch_start` to before `commit_end`, reveals from there to before
    `reveal_end`; `epoch_end` is the next epoch's first height. `seed` and `sample_ppm` decide the
    epoch's assignments (`planetserve.assignment`). Verifiers are in ascending order of ids."""

    height: int
    chain_id: str
    version: int
    epoch: int
    epoch_start: int
    commit_end: int
    reveal_end: int
    epoch_end: int
    seed: bytes
    sample_ppm: int
    parameters: Mapping[str, int]
    verifiers: tuple[VerifierRecord, ...]


def chain_status(height: int, main: Any, epoch: Any, verifiers: Iterable[Any]) -> ChainStatus:
    """Read the state's `chain/main`, `chain/epoch` and verifiers. Raises `RemoteProtocolError`
    when they are not what the ledger writes."""
    try:
        parameters = {str(name): int(value) for name, value in main["params"].items()}
        start = int(epoch["start"])
        end = start + parameters["epoch_blocks"]
        found = tuple(sorted((_verifier(item) for item in verifiers), key=lambda item: item.id))
        return ChainStatus(
            height=height,
            chain_id=str(main["chain_id"]),
            version=int(main["version"]),
            epoch=int(epoch["epoch"]),
            epoch_start=start,
            commit_end=start + parameters["commit_blocks"],
            reveal_end=end - 1,
            epoch_end=end,
            seed=_bytes(epoch["seed"]),
            sample_ppm=int(epoch["sample_ppm"]),
            parameters=parameters,
            verifiers=found,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RemoteProtocolError("the ledger's answer is not a status") from error


def _bytes(value: Any) -> bytes:
    """As `bytes` of a number would make so many zeros."""
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value


def _verifier(record: Mapping[str, Any]) -> VerifierRecord:
    return VerifierRecord(
        id=node_id(record["key"]),
        key=record["key"],
        name=str(record["name"]),
        consensus_key=record["consensus_key"],
        power=int(record["power"]),
        voted_power=int(record["voted_power"]),
        trust_ppm=int(record["trust_ppm"]),
        benched=int(record["benched"]),
    )


@dataclass(frozen=True, slots=True)
class RouteSet:
    """Every node of the ledger at one height. Readers take it whole, so that what they read
    says nothing about whom they mean to use. `time_ns` is that of the header that proves it, since
    the Unix epoch; 0 where it is not known."""

    height: int
    hash: bytes
    nodes: tuple[NodeRecord, ...]
    time_ns: int = 0

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


def route_set(
    height: int, root: bytes, records: Iterable[Mapping[str, Any]], time_ns: int = 0
) -> RouteSet:
    """Build the route set from the `routes` store at a height; its hash is the store's root, so
    it stays the same while nothing changes."""
    nodes = tuple(sorted((NodeRecord.from_wire(item) for item in records), key=lambda n: n.id))
    return RouteSet(height, root, nodes, time_ns)

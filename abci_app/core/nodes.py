"""Nodes: what participants announce about themselves, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nacl.bindings import crypto_scalarmult
from nacl.exceptions import CryptoError

from abci_app.core.codes import Code, Rejected
from abci_app.core.state import Reader, View, load, records
from planetserve.keys import NodeId, node_id
from planetserve.statekeys import ONION, TRANSPORT, node_key

VERIFIER_ROLES = ("prober", "verifier")
FIELD_PRIME = (1 << 255) - 19


@dataclass(frozen=True, slots=True)
class Node:
    """`registered` is the height at which it came, or came back, and `retired` that of its
    retirement, 0 before. `waiting` is the height since which nobody endorses it, 0 while somebody
    does. `former` are its ids before rotations, the oldest first, each with the epoch that it
    ended with."""

    key: bytes
    name: str
    roles: tuple[str, ...]
    onion_key: bytes
    transport_key: bytes
    endpoints: Mapping[str, str]
    model: str
    operator: str
    registered: int
    waiting: int = 0
    retired: int = 0
    former: tuple[tuple[bytes, int], ...] = ()

    @property
    def id(self) -> NodeId:
        return node_id(self.key)

    @property
    def held_keys(self) -> tuple[tuple[bytes, bytes], ...]:
        """Kind and key of what no other node may announce."""
        return (ONION, self.onion_key), (TRANSPORT, self.transport_key)


def node_from(record: Mapping[str, Any]) -> Node:
    former = tuple((identifier, epoch) for identifier, epoch in record["former"])
    return Node(**{**record, "roles": tuple(record["roles"]), "former": former})


def load_node(reader: Reader, identifier: bytes) -> Node | None:
    record = load(reader, node_key(identifier))
    return None if record is None else node_from(record)


def require_node(reader: Reader, identifier: bytes) -> Node:
    node = load_node(reader, identifier)
    if node is None:
        raise Rejected(Code.UNKNOWN_NODE)
    return node


def save_node(view: View, node: Node) -> None:
    view.save(node_key(node.id), asdict(node))


def all_nodes(reader: Reader) -> list[Node]:
    """In ascending order of their ids."""
    return [node_from(record) for _, record in records(reader, b"nodes/")]


def is_weak(key: bytes) -> bool:
    """Whether an X25519 public key has low order, so that what it agrees on is known to all, or
    is another way to write a key, which could be held twice."""
    if int.from_bytes(key, "little") >= FIELD_PRIME:
        return True
    try:
        crypto_scalarmult(bytes([1]) * 32, key)
    except (CryptoError, RuntimeError):
        return True
    return False

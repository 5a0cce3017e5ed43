"""Nodes: what participants announce about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.reputation import initial_reputation, load_reputation, save_reputation
from abci_app.core.state import (
    CANDIDATES_KEY,
    Reader,
    View,
    load,
    node_key,
    records,
    reputation_key,
)
from abci_app.core.verifiers import load_verifier
from planetserve.keys import NodeId, node_id

VERIFIER_ROLES = ("prober", "verifier")
REGISTER_FIELDS = frozenset(
    {"name", "roles", "onion_key", "transport_key", "endpoints", "model", "operator"}
)


@dataclass(frozen=True, slots=True)
class Node:
    """`registered` is the height of the first registration; a candidate never had a
    credential."""

    key: bytes
    name: str
    roles: tuple[str, ...]
    onion_key: bytes
    transport_key: bytes
    endpoints: Mapping[str, str]
    model: str
    operator: str
    registered: int
    candidate: bool

    @property
    def id(self) -> NodeId:
        return node_id(self.key)


def node_from(record: Mapping[str, Any]) -> Node:
    return Node(**{**record, "roles": tuple(record["roles"])})


def load_node(reader: Reader, identifier: bytes) -> Node | None:
    record = load(reader, node_key(identifier))
    return None if record is None else node_from(record)


def save_node(view: View, node: Node) -> None:
    view.save(node_key(node.id), asdict(node))


def all_nodes(reader: Reader) -> list[Node]:
    """In ascending order of their ids."""
    return [node_from(record) for _, record in records(reader, b"nodes/")]


def register(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Announce the sender as a node, or replace what it announced. Credentials and reputation
    stay with the key, so announcing again neither admits a node nor clears its record."""
    fields.exact(data, REGISTER_FIELDS)
    roles = fields.roles(data)
    serves_model = "model" in roles
    former = load_node(view, context.sender)
    if load_verifier(view, context.sender) is not None:
        roles = sorted({*roles, *VERIFIER_ROLES})
    node = Node(
        key=context.key,
        name=fields.text(data, "name", 1, fields.MAX_NAME_CHARACTERS),
        roles=tuple(roles),
        onion_key=fields.octets(data, "onion_key", 32),
        transport_key=fields.octets(data, "transport_key", 32),
        endpoints=fields.endpoints(data),
        model=fields.text(data, "model", int(serves_model), fields.MAX_MODEL_CHARACTERS),
        operator=fields.text(data, "operator", 0, fields.MAX_NAME_CHARACTERS),
        registered=context.height if former is None else former.registered,
        candidate=True if former is None else former.candidate,
    )
    if node.model and not serves_model:
        raise Rejected(Code.INVALID_FIELD, "only a model node names a model")
    if former is None:
        waiting = candidates(view)
        if waiting >= context.parameters.max_candidates:
            raise Rejected(Code.TOO_MANY_CANDIDATES)
        view.save(CANDIDATES_KEY, waiting + 1)
    save_node(view, node)
    if serves_model and load_reputation(view, node.id) is None:
        save_reputation(view, node.id, initial_reputation(context.parameters))


def candidates(reader: Reader) -> int:
    """How many nodes wait for their first endorsement."""
    return int(load(reader, CANDIDATES_KEY) or 0)


def first_endorsed(view: View, node: Node) -> None:
    """Note that a node has a credential; it no longer counts as a candidate, nor is dropped."""
    if node.candidate:
        save_node(view, replace(node, candidate=False))
        view.save(CANDIDATES_KEY, candidates(view) - 1)


def drop_stale_candidates(view: View, height: int, patience_blocks: int) -> None:
    """Forget nodes that nobody endorsed in time, so that announcing costs no space for good."""
    stale = [
        node
        for node in all_nodes(view)
        if node.candidate and height - node.registered >= patience_blocks
    ]
    for node in stale:
        view.delete(node_key(node.id))
        view.delete(reputation_key(node.id))
    if stale:
        view.save(CANDIDATES_KEY, candidates(view) - len(stale))

"""Nodes: what participants announce about themselves, from registration to retirement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from nacl.bindings import crypto_scalarmult
from nacl.exceptions import CryptoError

from abci_app.core import fields
from abci_app.core.codes import Code, Rejected
from abci_app.core.context import Context
from abci_app.core.models import load_model
from abci_app.core.reputation import initial_reputation, load_reputation, save_reputation
from abci_app.core.state import Reader, View, load, records
from abci_app.core.verifiers import load_verifier
from planetserve.keys import NodeId, node_id
from planetserve.statekeys import (
    CANDIDATES_KEY,
    ONION,
    TRANSPORT,
    credential_key,
    credentials_prefix,
    expiry_key,
    holder_key,
    node_key,
    reputation_key,
    route_key,
)

VERIFIER_ROLES = ("prober", "verifier")
GENESIS_ENDORSER = bytes(20)
NODE_FIELDS = frozenset(
    {"name", "roles", "onion_key", "transport_key", "endpoints", "model", "operator"}
)


@dataclass(frozen=True, slots=True)
class Node:
    """`registered` is the height at which it came, or came back, and `retired` that of its
    retirement, 0 before; a candidate never had a credential; `former` are its ids before
    rotations, the oldest first."""

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
    retired: int = 0
    former: tuple[bytes, ...] = ()

    @property
    def id(self) -> NodeId:
        return node_id(self.key)

    @property
    def held_keys(self) -> tuple[tuple[bytes, bytes], ...]:
        """Kind and key of what no other node may announce."""
        return (ONION, self.onion_key), (TRANSPORT, self.transport_key)


def node_from(record: Mapping[str, Any]) -> Node:
    lists = {"roles": tuple(record["roles"]), "former": tuple(record["former"])}
    return Node(**{**record, **lists})


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


def register(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Announce the sender as a node. It waits as a candidate for its first credential, unless a
    verifier has endorsed the key beforehand. One that retired may come back, with the record of
    conduct that it left with."""
    former = load_node(view, context.sender)
    if former is not None and not former.retired:
        raise Rejected(Code.ALREADY_REGISTERED)
    endorsed = next(iter(view.scan(credentials_prefix(context.sender))), None) is not None
    node = replace(
        _announced(view, context, data),
        registered=context.height,
        candidate=not endorsed,
        former=() if former is None else former.former,
    )
    if node.candidate:
        waiting = candidates(view)
        if waiting >= context.parameters.max_candidates:
            raise Rejected(Code.TOO_MANY_CANDIDATES)
        view.save(CANDIDATES_KEY, waiting + 1)
        view.save(expiry_key(context.height + context.parameters.candidate_blocks, node.id), None)
    _hold_keys(view, node)
    save_node(view, node)
    _begin_reputation(view, node, context)


def update(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Replace what the sender announced. Credentials and reputation stay with the key, so this
    neither admits a node nor clears its record."""
    former = require_node(view, context.sender)
    if former.retired:
        raise Rejected(Code.NODE_RETIRED)
    node = replace(
        _announced(view, context, data),
        registered=former.registered,
        candidate=former.candidate,
        former=former.former,
    )
    release_keys(view, former)
    _hold_keys(view, node)
    save_node(view, node)
    _begin_reputation(view, node, context)


def retire(view: View, context: Context, data: Mapping[str, Any]) -> None:
    """Leave: the sender's credentials end and its keys are free. Its reputation is kept."""
    fields.exact(data, frozenset())
    node = require_node(view, context.sender)
    if node.retired:
        raise Rejected(Code.NODE_RETIRED)
    if load_verifier(view, node.id) is not None:
        raise Rejected(Code.INVALID_FIELD, "a verifier leaves by a vote")
    if node.candidate:
        # Its place stays taken, or announcing and retiring in turn would fill the state.
        raise Rejected(Code.NO_CREDENTIAL, "a candidate is forgotten by itself")
    release_keys(view, node)
    for key, _ in list(view.scan(credentials_prefix(node.id))):
        view.delete(key)
    save_node(view, replace(node, retired=context.height))


def _announced(view: Reader, context: Context, data: Mapping[str, Any]) -> Node:
    """The node as the transaction's data describes it, checked."""
    fields.exact(data, NODE_FIELDS)
    roles = fields.roles(data)
    serves_model = "model" in roles
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
        registered=0,
        candidate=False,
    )
    if node.model and not serves_model:
        raise Rejected(Code.INVALID_FIELD, "only a model node names a model")
    if serves_model and load_model(view, node.model) is None:
        raise Rejected(Code.UNKNOWN_MODEL)
    return node


def _hold_keys(view: View, node: Node) -> None:
    for kind, key in node.held_keys:
        if is_weak(key):
            raise Rejected(Code.WEAK_KEY)
        holder = load(view, holder_key(kind, key))
        if holder is not None and holder != node.id:
            raise Rejected(Code.KEY_IN_USE)
        view.save(holder_key(kind, key), bytes(node.id))


def release_keys(view: View, node: Node) -> None:
    for kind, key in node.held_keys:
        if load(view, holder_key(kind, key)) == node.id:
            view.delete(holder_key(kind, key))


def is_weak(key: bytes) -> bool:
    """Whether an X25519 public key has low order, so that what it agrees on is known to all."""
    try:
        crypto_scalarmult(bytes([1]) * 32, key)
    except (CryptoError, RuntimeError):
        return True
    return False


def _begin_reputation(view: View, node: Node, context: Context) -> None:
    if "model" not in node.roles or load_reputation(view, node.id) is not None:
        return
    # Genesis vouches for the nodes that a network starts with; others show what they can first.
    founder = view.get(credential_key(node.id, "model", GENESIS_ENDORSER)) is not None
    save_reputation(view, node.id, initial_reputation(context.parameters, admitted=founder))


def candidates(reader: Reader) -> int:
    """How many nodes wait for their first credential."""
    return int(load(reader, CANDIDATES_KEY) or 0)


def first_endorsed(view: View, node: Node) -> None:
    """Note that a node has a credential; it no longer counts as a candidate, nor is dropped."""
    if node.candidate:
        save_node(view, replace(node, candidate=False))
        view.save(CANDIDATES_KEY, candidates(view) - 1)


def drop_stale_candidate(view: View, node: Node, height: int, patience_blocks: int) -> bool:
    """Forget a node that nobody endorsed in time, so that announcing costs no space for good."""
    if not node.candidate or height - node.registered < patience_blocks:
        return False
    release_keys(view, node)
    view.save(CANDIDATES_KEY, candidates(view) - 1)
    for key in (node_key(node.id), reputation_key(node.id), route_key(node.id)):
        view.delete(key)
    return True

"""Which node a person means, and what its name is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planetserve.ledger_cli.display import short

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.light.proven import Proven
    from planetserve.records import NodeRecord, RouteSet

MIN_PREFIX = 4
KEY_DIGITS = re.compile(r"[0-9a-fA-F]{64}")
ID_DIGITS = re.compile(r"[0-9a-fA-F]{40}")
HEX_DIGITS = re.compile(r"[0-9a-fA-F]*")
GENESIS = bytes(20)
"""Who endorsed what a chain began with."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a command is about. `key` is None when only the id is known, `record` when the key is
    not registered."""

    id: bytes
    key: bytes | None
    record: NodeRecord | None

    @property
    def label(self) -> str:
        return short(self.id) if self.record is None else self.record.name


async def read_nodes(ledger: LedgerClient) -> RouteSet:
    """Every node, also those that nobody endorses."""
    return every_node(await ledger.read(stores=["routes", "waiting"]))


def every_node(proven: Proven) -> RouteSet:
    """The same, of a read of the stores `routes` and `waiting`."""
    from planetserve.records import route_set

    records = [*proven.stores["routes"].values(), *proven.stores["waiting"].values()]
    return route_set(proven.height, proven.roots["routes"], records)


def find_node(found: RouteSet, text: str) -> NodeRecord:
    """The node with this name, public key or id, or whose id begins so. Raises `UsageError` for
    none or several.

    A name that looks like another node's whole id or key is not believed, and one that looks like
    the beginning of an id is ambiguous: names are free, ids are not.
    """
    from planetserve.errors import UsageError

    identifier = whole_id(text)
    if identifier is not None:
        matches = [node for node in found.nodes if node.id == identifier]
    else:
        matches = [node for node in found.nodes if node.name == text or begins(node.id, text)]
    if not matches:
        raise UsageError(
            f"no node is called {text!r} or has an id of {MIN_PREFIX} or more digits that begins "
            "so; `ps-ledger nodes` lists them"
        )
    if len(matches) > 1:
        identifiers = ", ".join(node.id.hex() for node in matches[:5])
        raise UsageError(f"{len(matches)} nodes match {text!r}; use an id: {identifiers}")
    return matches[0]


def find_target(found: RouteSet, text: str) -> Target:
    """Like `find_node`, but a whole public key or id need not be registered."""
    identifier = whole_id(text)
    if identifier is None:
        record = find_node(found, text)
        return Target(record.id, record.key, record)
    known = found.find(identifier)
    key = bytes.fromhex(text) if KEY_DIGITS.fullmatch(text) else None
    return Target(identifier, known.key if known else key, known)


def whole_id(text: str) -> bytes | None:
    """The id that a whole public key or id stands for, None for other text."""
    from planetserve.keys import node_id

    if KEY_DIGITS.fullmatch(text):
        return node_id(bytes.fromhex(text))
    return bytes.fromhex(text) if ID_DIGITS.fullmatch(text) else None


def begins(identifier: bytes, text: str) -> bool:
    return (
        len(text) >= MIN_PREFIX
        and HEX_DIGITS.fullmatch(text) is not None
        and identifier.hex().startswith(text.lower())
    )


def successor(nodes: Iterable[Mapping[str, Any]], text: str) -> bytes | None:
    """The public key of the node that went on, by rotation, from the id or key that `text` is or
    begins; `nodes` are records of the store of that name. None for none or several."""
    wanted = whole_id(text)
    found = {
        bytes(node["key"])
        for node in nodes
        for former, _ in node["former"]
        if (former == wanted if wanted else begins(former, text))
    }
    return found.pop() if len(found) == 1 else None


def names_of(found: RouteSet, verifiers: Iterable[Mapping[str, Any]]) -> dict[bytes, str]:
    """Names by id; verifiers also by the ids that they had before rotations."""
    from planetserve.keys import node_id

    names = {bytes(node.id): node.name for node in found.nodes}
    for verifier in verifiers:
        for identifier in (node_id(verifier["key"]), *verifier["former"]):
            names[bytes(identifier)] = str(verifier["name"])
    return names


def name_in(names: Mapping[bytes, str], identifier: bytes) -> str:
    if identifier == GENESIS:
        return "genesis"
    return names.get(identifier) or short(identifier)

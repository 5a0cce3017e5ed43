"""`ps-ledger nodes`, and how a command finds the node that a person means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planetserve.ledger_cli.application import AsJson, NetworkFile, app
from planetserve.ledger_cli.conversation import ask
from planetserve.ledger_cli.display import share, short, show_json, show_table, show_verified

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.records import NodeRecord, RouteSet


@app.command()
def nodes(network: NetworkFile = None, as_json: AsJson = False) -> None:
    """Every node with its status and reputation, also who waits to be endorsed."""
    from planetserve.ledger_cli.lookup import read_nodes

    found = ask(network, read_nodes)
    if as_json:
        entries = [node_json(node) for node in found.nodes]
        show_json({"height": found.height, "verified_height": found.height, "nodes": entries})
        return
    rows = [
        [
            node.name,
            ", ".join(node.roles),
            node.status,
            share(node.reputation_ppm),
            node.model or "-",
            short(node.id),
        ]
        for node in sorted(found.nodes, key=lambda node: (node.roles, node.name))
    ]
    show_table(["name", "roles", "status", "reputation", "model", "id"], rows)
    show_verified(found.height)


def node_json(node: NodeRecord) -> dict[str, Any]:
    """The form of a node that programs rely on."""
    return {
        "id": node.id.hex(),
        "name": node.name,
        "roles": list(node.roles),
        "status": node.status,
        "reputation_ppm": node.reputation_ppm,
        "credential_expires": node.credential_expires,
        "endpoints": dict(node.endpoints),
    }


async def find_or_follow(ledger: LedgerClient, found: RouteSet, text: str) -> NodeRecord:
    """The node that `text` names, also by a key or id that it has rotated away from. Raises
    `UsageError`."""
    from planetserve.errors import UsageError
    from planetserve.keys import node_id
    from planetserve.ledger_cli.lookup import find_node

    try:
        return find_node(found, text)
    except UsageError:
        key = await follow(ledger, text)
        record = None if key is None else found.find(node_id(key))
        if record is None:
            raise
        return record


async def follow(ledger: LedgerClient, text: str) -> bytes | None:
    """The public key that took over from the one that `text` is, or whose id it begins."""
    from planetserve.ledger_cli.conversation import answers_of_expected_form
    from planetserve.ledger_cli.lookup import HEX_DIGITS, MIN_PREFIX, successor, whole_id
    from planetserve.statekeys import SUCCESSION, holder_key, node_key

    if not HEX_DIGITS.fullmatch(text) or len(text) < MIN_PREFIX:
        return None
    wanted = whole_id(text)
    if wanted is not None:
        reserved = holder_key(SUCCESSION, wanted)
        holder = (await ledger.read([reserved])).records[reserved]
        if holder is None:
            return None
        proven = await ledger.read([node_key(holder)])
        with answers_of_expected_form():
            return successor([r for r in proven.records.values() if r is not None], text)
    proven = await ledger.read(stores=["nodes"])
    with answers_of_expected_form():
        return successor(proven.stores["nodes"].values(), text)

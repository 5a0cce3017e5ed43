"""`ps-ledger credential`: who vouches for a key, for which role and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planetserve.ledger_cli.application import AsJson, NetworkFile, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask, read_from
from planetserve.ledger_cli.display import (
    plural,
    short,
    show_json,
    show_lines,
    show_pairs,
    show_table,
    show_verified,
)

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.ledger_cli.lookup import Target

VALID, REVOKED = "valid", "revoked"


@dataclass(frozen=True, slots=True)
class Credential:
    """One endorsement; heights as in the ledger's record, `revoked` 0 while it stands."""

    role: str
    endorser: bytes
    endorser_name: str
    issued: int
    expires: int
    revoked: int
    standing: str


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of a key at `height`. `successor` is the key that took over from it, and
    `rotates_to` the one that will at the epoch's end; `takes_over` is the id of the node that it
    takes over from then."""

    target: Target
    credentials: tuple[Credential, ...]
    successor: bytes | None
    rotates_to: bytes | None
    takes_over: bytes | None
    names: Mapping[bytes, str]
    height: int


@app.command()
def credential(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY-or-NODE", help="A public key, an id or how one begins, or a name."
        ),
    ],
    network: NetworkFile = None,
    as_json: AsJson = False,
) -> None:
    """Who vouches for a key or node, for which role and until when; also before it registers."""
    held = ask(network, lambda ledger: read_held(ledger, key))
    if as_json:
        show_json(_json(held))
        return
    record = held.target.record
    pairs = [
        ("id", held.target.id.hex()),
        ("key", "not registered" if held.target.key is None else held.target.key.hex()),
    ]
    if record is None:
        pairs.append(("registered", _unregistered(held)))
    else:
        pairs = [
            ("node", record.name),
            *pairs,
            ("roles", ", ".join(record.roles)),
            ("registered", f"at height {record.registered}"),
            ("status", record.status),
        ]
    if held.rotates_to is not None:
        pairs.append(("rotates to", f"{held.rotates_to.hex()} at the end of this epoch"))
    show_pairs(pairs)
    if held.credentials:
        rows = [
            [item.role, item.endorser_name, item.issued, item.expires, _standing(item, held.height)]
            for item in held.credentials
        ]
        show_table(["role", "endorsed by", "issued", "expires", "standing"], rows)
    else:
        show_lines([_nobody(held)])
    show_verified(held.height)


async def read_held(ledger: LedgerClient, text: str) -> Held:
    """Raises `UsageError` when `text` is neither a key, an id nor a node."""
    from planetserve.errors import UsageError
    from planetserve.keys import node_id
    from planetserve.ledger_cli.lookup import Target, every_node, find_target, names_of
    from planetserve.ledger_cli.nodes import follow
    from planetserve.statekeys import SUCCESSION, holder_key, rotation_key

    # Whole stores: that nobody else endorsed a key can only be seen from all credentials.
    proven = await ledger.read(stores=["credentials", "routes", "verifiers", "waiting"])
    found = every_node(proven)
    successor: bytes | None = None
    try:
        target = find_target(found, text)
        if target.record is None:
            successor = await follow(ledger, text)
    except UsageError:
        successor = await follow(ledger, text)
        record = None if successor is None else found.find(node_id(successor))
        if record is None:
            raise
        target = Target(record.id, record.key, record)
    with answers_of_expected_form():
        names = names_of(found, proven.stores["verifiers"].values())
        credentials = credentials_of(proven.stores["credentials"], target.id, names)
    asked, reserved = rotation_key(target.id), holder_key(SUCCESSION, target.id)
    pending = await read_from(ledger, proven.height, [asked, reserved])
    with answers_of_expected_form():
        rotation, holder = pending.records[asked], pending.records[reserved]
        rotates_to = None if rotation is None else bytes(rotation["new_key"])
        takes_over = None if holder is None or successor is not None else bytes(holder)
    return Held(target, credentials, successor, rotates_to, takes_over, names, proven.height)


def credentials_of(
    store: Mapping[bytes, Any], node: bytes, names: Mapping[bytes, str]
) -> tuple[Credential, ...]:
    """The credentials of a node among all of the ledger's, in the ledger's order of roles and
    endorsers."""
    from planetserve.ledger_cli.lookup import name_in
    from planetserve.statekeys import credentials_prefix

    prefix = credentials_prefix(node)
    found = []
    for key, record in sorted(store.items()):
        if not key.startswith(prefix):
            continue
        # An endorser's id may hold the byte of a slash, a role does not.
        role, _, endorser = key[len(prefix) :].partition(b"/")
        found.append(
            Credential(
                role=role.decode(),
                endorser=endorser,
                endorser_name=name_in(names, endorser),
                issued=int(record["issued"]),
                expires=int(record["expires"]),
                revoked=int(record["revoked"]),
                standing=REVOKED if record["revoked"] else VALID,
            )
        )
    return tuple(found)


def _standing(item: Credential, height: int) -> str:
    if item.standing == REVOKED:
        return f"revoked at height {item.revoked}"
    left = item.expires - height
    return f"valid, {plural(left, 'block')} left" if left else "valid up to this block"


def _unregistered(held: Held) -> str:
    if held.successor is not None:
        from planetserve.keys import node_id

        return f"no longer: rotated to {held.successor.hex()} (id {short(node_id(held.successor))})"
    if held.takes_over is not None:
        from planetserve.ledger_cli.lookup import name_in

        old = name_in(held.names, held.takes_over)
        return f"not yet: it takes over from {old} at the end of this epoch"
    if any(item.standing == VALID for item in held.credentials):
        return "not yet; it may, and needs no place among the candidates"
    return "not yet"


def _nobody(held: Held) -> str:
    if held.successor is not None:
        return "its credentials went to the key that took over"
    if held.target.record is not None and held.target.record.status == "retired":
        return "it has retired: its credentials ended with that"
    if held.target.record is not None and "verifier" in held.target.record.roles:
        return "a verifier needs no endorsement: it was voted in, or founded the chain"
    return "no verifier endorses it"


def _json(held: Held) -> dict[str, Any]:
    record = held.target.record
    return {
        "height": held.height,
        "verified_height": held.height,
        "id": held.target.id,
        "key": held.target.key,
        "name": None if record is None else record.name,
        "roles": [] if record is None else list(record.roles),
        "status": None if record is None else record.status,
        "registered": None if record is None else record.registered,
        "successor": held.successor,
        "rotates_to": held.rotates_to,
        "takes_over": held.takes_over,
        "credentials": [asdict(item) for item in held.credentials],
    }

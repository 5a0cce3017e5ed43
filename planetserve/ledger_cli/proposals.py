"""`ps-ledger proposals | vote`: what verifiers vote on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planetserve.ledger_cli.application import AsJson, NetworkFile, VerifierKey, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask, send
from planetserve.ledger_cli.display import (
    decimal,
    short,
    show_json,
    show_lines,
    show_table,
    show_verified,
)
from planetserve.ledger_cli.lookup import name_in

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient

OPEN = "open"
SHOWN = 10
ANSWERS = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Count:
    """Powers of today: of all verifiers, and of those that voted yes and no."""

    total: int
    yes: int
    no: int


@app.command()
def proposals(
    every: Annotated[
        bool, typer.Option("--all", help=f"Also settled ones before the last {SHOWN}.")
    ] = False,
    network: NetworkFile = None,
    as_json: AsJson = False,
) -> None:
    """What is put to the vote, how the votes stand, and what was decided lately."""
    from planetserve.ledger_cli.lookup import every_node, names_of

    stores = ["proposals", "routes", "verifiers", "waiting"]
    proven = ask(network, lambda ledger: ledger.read(stores=stores))
    found = every_node(proven)
    verifiers = list(proven.stores["verifiers"].values())
    with answers_of_expected_form():
        names = names_of(found, verifiers)
        records = [proven.stores["proposals"][key] for key in sorted(proven.stores["proposals"])]
        listed = records if every else _recent(records)
        if as_json:
            entries = [_json(record, verifiers) for record in listed]
            show_json(
                {"height": proven.height, "verified_height": proven.height, "proposals": entries}
            )
            return
        rows = [_row(record, verifiers, names) for record in listed]
        if rows:
            show_table(["number", "change", "by", "votes", "outcome"], rows)
        else:
            show_lines(["nothing is or was put to the vote"])
    show_verified(proven.height)


@app.command()
def vote(
    number: Annotated[int, typer.Argument(metavar="N", min=1, help="The proposal's number.")],
    answer: Annotated[str, typer.Argument(metavar="yes|no")],
    key: VerifierKey,
    network: NetworkFile = None,
) -> None:
    """Vote on an open proposal, once; a vote is not taken back (verifiers only)."""
    from planetserve import transactions
    from planetserve.errors import UsageError

    if answer not in ANSWERS:
        raise UsageError("the vote is yes or no")

    async def write(ledger: LedgerClient) -> tuple[int, str]:
        data = transactions.vote(proposal=number, approve=ANSWERS[answer])
        height = await send(ledger, key, transactions.VOTE, data)
        return height, await standing(ledger, number, height)

    height, how = ask(network, write)
    typer.echo(f"voted {answer} on proposal {number} at height {height}; {how}")


async def standing(ledger: LedgerClient, number: int, height: int) -> str:
    """How the votes on a proposal stand after block `height`."""
    from planetserve.ledger_cli.conversation import read_from
    from planetserve.statekeys import proposal_key

    proven = await read_from(ledger, height, [proposal_key(number)], ["verifiers"])
    with answers_of_expected_form():
        record = proven.records[proposal_key(number)]
        if record is None:
            return "it is not kept any more"
        counted = count(record, proven.stores["verifiers"].values())
        return f"it is {_outcome(record)}: {_votes(record, counted)}"


def count(record: Mapping[str, Any], verifiers: Iterable[Mapping[str, Any]]) -> Count:
    """Weigh the votes with today's powers; a vote follows its verifier through rotations."""
    from planetserve.keys import node_id

    total = yes = no = 0
    for verifier in verifiers:
        power = int(verifier["power"])
        total += power
        votes = [
            record["votes"][identifier.hex()]
            for identifier in (node_id(verifier["key"]), *verifier["former"])
            if identifier.hex() in record["votes"]
        ]
        if votes:
            yes += power * votes[0]
            no += power * (not votes[0])
    return Count(total, yes, no)


def change_text(change: Mapping[str, Any], names: Mapping[bytes, str]) -> str:
    """A proposed change in words."""
    kind = change["kind"]
    if kind == "parameter":
        name, value = str(change["name"]), int(change["value"])
        return f"{name} = {decimal(value) if name.endswith('_ppm') else value}"
    if kind == "join":
        return f"{change['name']} joins the verifiers with power {change['power']}"
    if kind == "leave":
        return f"{name_in(names, change['verifier'])} leaves the verifiers"
    if kind == "power":
        return f"the power of {name_in(names, change['verifier'])} becomes {change['power']}"
    if kind == "upgrade":
        return f"version {change['version']} of the rules at height {change['height']}"
    if kind == "cancel":
        return f"no upgrade to version {change['version']} of the rules"
    if kind == "expel":
        return f"{name_in(names, change['node'])} loses its credentials"
    if kind == "model":
        exactly = ", deterministic" if change["deterministic"] else ""
        return (
            f"nodes may serve {change['name']} ({change['quantization']}, "
            f"{change['context_tokens']} tokens{exactly}), weights "
            f"{change['weights_digest'].hex()[:16]}"
        )
    return f"{kind}: {', '.join(f'{name} {value}' for name, value in change.items())}"


def _recent(records: list[Any]) -> list[Any]:
    settled = [record["number"] for record in records if record["outcome"] != OPEN]
    first = settled[-SHOWN] if len(settled) > SHOWN else 0
    return [r for r in records if r["outcome"] == OPEN or r["number"] >= first]


def _row(
    record: Mapping[str, Any], verifiers: list[Mapping[str, Any]], names: Mapping[bytes, str]
) -> list[Any]:
    by = names.get(record["proposer"]) or short(record["proposer"])
    votes = _votes(record, count(record, verifiers)) if record["outcome"] == OPEN else "-"
    return [record["number"], change_text(record["change"], names), by, votes, _outcome(record)]


def _outcome(record: Mapping[str, Any]) -> str:
    if record["outcome"] == OPEN:
        return f"open up to height {record['closes']}"
    return f"{record['outcome']} at height {record['settled']}"


def _votes(record: Mapping[str, Any], counted: Count) -> str:
    needed = 2 * counted.total // 3 + 1
    return f"power {counted.yes} yes, {counted.no} no, {needed} of {counted.total} needed"


def _json(record: Mapping[str, Any], verifiers: list[Mapping[str, Any]]) -> dict[str, Any]:
    counted = count(record, verifiers)
    powers = {"total": counted.total, "yes": counted.yes, "no": counted.no}
    return {**record, "power": powers}

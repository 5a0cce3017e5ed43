"""`ps-ledger propose ...`: put a change to the vote of the verifiers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planetserve.ledger_cli.application import NetworkFile, VerifierKey, app
from planetserve.ledger_cli.conversation import answers_of_expected_form, ask, read_from, send
from planetserve.ledger_cli.endorsing import NodeOrKey
from planetserve.ledger_cli.models import (
    ContextTokens,
    ModelName,
    Quantization,
    Weights,
    WeightsDigest,
    digest_of,
)

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.records import VerifierRecord

propose = typer.Typer(
    help="Put a change to the vote, and vote yes on it (verifiers only).", no_args_is_help=True
)
app.add_typer(propose, name="propose")

LOOKED_BACK = 20
JOIN_KEYS = {
    "key": "prober_key",
    "consensus_key": "consensus_key",
    "onion_key": "onion_key",
    "transport_key": "transport_key",
}
"""Fields of the change, and what a genesis file calls them."""
VerifierName = Annotated[
    str, typer.Argument(metavar="VERIFIER", help="A name, an id or how one begins.")
]
Power = Annotated[int, typer.Argument(metavar="POWER", min=1)]


@propose.command()
def parameter(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `ps-ledger params` lists it.")],
    value: Annotated[int, typer.Argument(metavar="VALUE", help="An integer; _ppm are millionths.")],
    key: VerifierKey,
    network: NetworkFile = None,
) -> None:
    """Change a parameter with the epoch after the one in which the vote passes."""

    async def write(ledger: LedgerClient) -> str:
        from planetserve.errors import UsageError

        known = (await ledger.status()).parameters
        if name not in known:
            raise UsageError(f"no parameter is called {name!r}; `ps-ledger params` lists them")
        return await _propose(ledger, key, {"kind": "parameter", "name": name, "value": value})

    typer.echo(ask(network, write))


@propose.command()
def join(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The joiner's entry, as in a genesis file.")
    ],
    key: VerifierKey,
    power: Annotated[
        int | None, typer.Option(min=1, help="Its power, instead of the file's.")
    ] = None,
    network: NetworkFile = None,
) -> None:
    """Let a verifier join, whose public keys are in a JSON file of the form of a genesis file's
    verifiers: name, prober_key, onion_key, transport_key, consensus_key and power."""
    change = join_change(file, power)
    typer.echo(ask(network, lambda ledger: _propose(ledger, key, change)))


@propose.command()
def leave(verifier: VerifierName, key: VerifierKey, network: NetworkFile = None) -> None:
    """Let a verifier leave."""

    async def write(ledger: LedgerClient) -> str:
        found = find_verifier((await ledger.status()).verifiers, verifier)
        return await _propose(ledger, key, {"kind": "leave", "verifier": bytes(found.id)})

    typer.echo(ask(network, write))


@propose.command("power")
def change_power(
    verifier: VerifierName, power: Power, key: VerifierKey, network: NetworkFile = None
) -> None:
    """Change a verifier's power."""

    async def write(ledger: LedgerClient) -> str:
        found = find_verifier((await ledger.status()).verifiers, verifier)
        change = {"kind": "power", "verifier": bytes(found.id), "power": power}
        return await _propose(ledger, key, change)

    typer.echo(ask(network, write))


@propose.command()
def upgrade(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=2)],
    height: Annotated[int, typer.Argument(metavar="HEIGHT", min=1)],
    key: VerifierKey,
    network: NetworkFile = None,
) -> None:
    """Let the next version of the rules take over at a height. Nodes that do not know it stop
    there."""
    change = {"kind": "upgrade", "version": version, "height": height}
    typer.echo(ask(network, lambda ledger: _propose(ledger, key, change)))


@propose.command()
def cancel(
    version: Annotated[int, typer.Argument(metavar="VERSION", min=2)],
    key: VerifierKey,
    network: NetworkFile = None,
) -> None:
    """Call off the upgrade to a version of the rules that was voted and is still to come."""
    change = {"kind": "cancel", "version": version}
    typer.echo(ask(network, lambda ledger: _propose(ledger, key, change)))


@propose.command()
def expel(node: NodeOrKey, key: VerifierKey, network: NetworkFile = None) -> None:
    """End all credentials of a node, whoever gave them. It may be endorsed again."""

    async def write(ledger: LedgerClient) -> str:
        from planetserve.ledger_cli.lookup import find_target, read_nodes

        target = find_target(await read_nodes(ledger), node)
        return await _propose(ledger, key, {"kind": "expel", "node": bytes(target.id)})

    typer.echo(ask(network, write))


@propose.command("model")
def add_model(
    name: ModelName,
    quantization: Quantization,
    context_tokens: ContextTokens,
    key: VerifierKey,
    weights: Weights = None,
    weights_digest: WeightsDigest = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Replies at temperature 0 are the same to the byte on every machine and under "
            "every load. A node can be convicted over it.",
        ),
    ] = False,
    network: NetworkFile = None,
) -> None:
    """Register a model once and for all: its name never changes its meaning."""
    from planetserve import transactions

    data = transactions.model(
        name=name,
        weights_digest=digest_of(weights, weights_digest),
        quantization=quantization,
        context_tokens=context_tokens,
        deterministic=deterministic,
    )
    typer.echo(ask(network, lambda ledger: _propose(ledger, key, {"kind": "model", **data})))


def join_change(file: Path, power: int | None) -> dict[str, Any]:
    """The change that a joiner's file describes. Raises `UsageError`."""
    import json

    from planetserve.errors import UsageError

    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is not JSON") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} holds one JSON object with the fields of a genesis verifier")
    change: dict[str, Any] = {"kind": "join", "name": content.get("name")}
    for field, called in JOIN_KEYS.items():
        change[field] = _key(file, called, content.get(called))
    change["power"] = content.get("power") if power is None else power
    if not isinstance(change["name"], str) or type(change["power"]) is not int:
        raise UsageError(f"{file} must give a name, and a power unless --power does")
    return change


def find_verifier(verifiers: tuple[VerifierRecord, ...], text: str) -> VerifierRecord:
    """Raises `UsageError` for none or several."""
    from planetserve.errors import UsageError
    from planetserve.ledger_cli.lookup import begins, whole_id

    wanted = whole_id(text)
    matches = [
        verifier
        for verifier in verifiers
        if (verifier.id == wanted if wanted else verifier.name == text or begins(verifier.id, text))
    ]
    if len(matches) != 1:
        how_many = "no verifier" if not matches else f"{len(matches)} verifiers"
        raise UsageError(f"{how_many} match {text!r}; `ps-ledger status` lists them with their ids")
    return matches[0]


async def _propose(ledger: LedgerClient, key: Path, change: Mapping[str, Any]) -> str:
    from planetserve import transactions
    from planetserve.keys import read_identity
    from planetserve.ledger_cli.proposals import standing

    data = transactions.propose(change=change)
    height = await send(ledger, key, transactions.PROPOSE, data)
    number = await _number(ledger, bytes(read_identity(key).id), height, change)
    return f"proposal {number} at height {height}; {await standing(ledger, number, height)}"


async def _number(
    ledger: LedgerClient, proposer: bytes, height: int, change: Mapping[str, Any]
) -> int:
    """The number that the ledger gave to a proposal of block `height`."""
    from planetserve.errors import RemoteProtocolError
    from planetserve.statekeys import NEXT_PROPOSAL_KEY, proposal_key

    proven = await read_from(ledger, height, [NEXT_PROPOSAL_KEY])
    with answers_of_expected_form():
        following = int(proven.records[NEXT_PROPOSAL_KEY])
        numbers = range(following - 1, max(0, following - 1 - LOOKED_BACK), -1)
        proven = await read_from(ledger, height, [proposal_key(number) for number in numbers])
        for number in numbers:
            record = proven.records[proposal_key(number)]
            made = (record["proposer"], record["height"], record["change"])
            if made == (proposer, height, dict(change)):
                return number
    raise RemoteProtocolError(
        f"the proposal was accepted at height {height}; `ps-ledger proposals` shows its number"
    )


def _key(file: Path, called: str, value: Any) -> bytes:
    from planetserve.errors import UsageError

    try:
        key = bytes.fromhex(value)
    except (TypeError, ValueError):
        key = b""
    if len(key) != 32:
        raise UsageError(f"{file}: {called} must be 64 hex digits")
    return key

"""`ps-ledger`: ask the ledger, and write credentials to it as a verifier."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from planetserve.cli import run

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.records import NodeRecord, RouteSet

Result = TypeVar("Result")
DEFAULT_EXPIRY_BLOCKS = 100_000
MIN_PREFIX = 4
MAX_HISTORY = 100

app = typer.Typer(
    help="The network's ledger: who serves, who verifies, and what the probes said.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
NetworkFile = Annotated[
    Path | None, typer.Option("--network", help="The network file; otherwise it is searched for.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="A name, or how an id begins.")]
Role = Annotated[str, typer.Option(help="model, prober, relay or user.")]
KeyFile = Annotated[Path, typer.Option("--key", help="The verifier's prober key file.")]


@app.command()
def status(network: NetworkFile = None, as_json: AsJson = False) -> None:
    """Height, epoch and its windows, verifiers and parameters."""
    from dataclasses import asdict

    found = ask(network, lambda ledger: ledger.status())
    if as_json:
        show_json(asdict(found))
        return
    show_pairs(
        [
            ("chain", found.chain_id),
            ("verified", f"at height {found.height}"),
            ("epoch", f"{found.epoch} (heights {found.epoch_start} to {found.epoch_end - 1})"),
            ("commits", f"at heights {found.epoch_start} to {found.commit_end - 1}"),
            ("reveals", f"at heights {found.commit_end} to {found.reveal_end - 1}"),
        ]
    )
    verifiers = [[item.name, item.id.hex(), item.power] for item in found.verifiers]
    show_table(["verifier", "id", "power"], verifiers)
    show_table(["parameter", "value"], [list(item) for item in found.parameters.items()])


@app.command()
def nodes(network: NetworkFile = None, as_json: AsJson = False) -> None:
    """Every node with its status and reputation."""
    found = ask(network, lambda ledger: ledger.routes())
    with answers_of_expected_form():
        if as_json:
            entries = [node_json(node) for node in found.nodes]
            show_json({"height": found.height, "nodes": entries})
            return
        rows = [
            [
                node.name,
                ", ".join(node.roles),
                node.status,
                _share(node.reputation_ppm),
                node.model or "-",
                node.id.hex()[:12],
            ]
            for node in sorted(found.nodes, key=lambda node: (node.roles, node.name))
        ]
        show_table(["name", "roles", "status", "reputation", "model", "id"], rows)


@app.command()
def reputation(node: NodeName, network: NetworkFile = None, as_json: AsJson = False) -> None:
    """A node's reputation and the settled epochs that made it."""

    async def read(ledger: LedgerClient) -> tuple[NodeRecord, list[Any]]:
        record = find_node(await ledger.routes(), node)
        return record, await _history(ledger, record.id)

    record, history = ask(network, read)
    with answers_of_expected_form():
        if as_json:
            show_json({"node": node_json(record), "history": history})
            return
        show_pairs(
            [
                ("node", f"{record.name} {record.id.hex()}"),
                ("roles", ", ".join(record.roles)),
                ("status", record.status),
                ("reputation", _share(record.reputation_ppm)),
            ]
        )
        rows = [
            [
                item["epoch"],
                _share(item["credit_ppm"]),
                f"{_share(item['before_ppm'])} -> {_share(item['after_ppm'])}",
                item["abnormal"],
                ", ".join(_share(score[2]) for score in item["scores"]),
                item["reason"],
            ]
            for item in history
        ]
        show_table(["epoch", "credit C", "reputation R", "abnormal", "scores", "why"], rows)


@app.command()
def epoch(
    number: Annotated[int, typer.Argument(metavar="N", min=0)],
    network: NetworkFile = None,
    as_json: AsJson = False,
) -> None:
    """An epoch's commits, reveals and results."""
    from planetserve.errors import UsageError
    from planetserve.statekeys import epoch_key, result_key

    async def read(ledger: LedgerClient) -> tuple[Any, list[Any], RouteSet]:
        found = await ledger.routes()
        key = epoch_key(number)
        content = (await ledger.read((key,))).records[key]
        nodes = [] if content is None else [result_key(number, node.id) for node in found.nodes]
        results = (await ledger.read(nodes)).records.values()
        return content, [item for item in results if item is not None], found

    content, results, found = ask(network, read)
    if content is None:
        raise UsageError(f"epoch {number} is not settled; `ps-ledger status` names the current one")
    if as_json:
        show_json({**content, "results": results})
        return
    with answers_of_expected_form():
        names = {bytes(item.id): item.name for item in found.nodes}
        show_pairs(
            [
                ("epoch", content["epoch"]),
                ("start", f"at height {content['start']}"),
                ("settled", f"at height {content['settled']}"),
                ("commits", content["commits"]),
                ("reveals", content["reveals"]),
            ]
        )
        rows = [
            [
                names.get(item["node"], item["node"].hex()[:12]),
                _share(item["credit_ppm"]),
                f"{_share(item['before_ppm'])} -> {_share(item['after_ppm'])}",
                item["status"],
                item["reason"],
            ]
            for item in results
        ]
        show_table(["node", "credit C", "reputation R", "status", "why"], rows)


@app.command()
def endorse(
    node: NodeName,
    role: Role,
    key: KeyFile,
    expires_in: Annotated[
        int, typer.Option(metavar="BLOCKS", min=1, help="For how many blocks.")
    ] = DEFAULT_EXPIRY_BLOCKS,
    network: NetworkFile = None,
) -> None:
    """Admit a node to a role, or renew that (verifiers only)."""
    from planetserve import transactions

    async def write(ledger: LedgerClient) -> tuple[NodeRecord, int]:
        found = await ledger.routes()
        record = find_node(found, node)
        expires = found.height + expires_in
        data = transactions.endorse(node=record.id, role=role, expires=expires)
        return record, await _send(ledger, key, transactions.ENDORSE, data)

    record, height = ask(network, write)
    typer.echo(f"{record.name} is endorsed as {role} from height {height}")


@app.command()
def revoke(node: NodeName, role: Role, key: KeyFile, network: NetworkFile = None) -> None:
    """End one's own endorsement of a node (verifiers only)."""
    from planetserve import transactions

    async def write(ledger: LedgerClient) -> tuple[NodeRecord, int]:
        record = find_node(await ledger.routes(), node)
        data = transactions.revoke(node=record.id, role=role)
        return record, await _send(ledger, key, transactions.REVOKE, data)

    record, height = ask(network, write)
    typer.echo(f"the endorsement of {record.name} as {role} ended at height {height}")


async def _send(ledger: LedgerClient, key: Path, kind: str, data: Any) -> int:
    from planetserve.keylock import locked_key
    from planetserve.keys import read_identity

    identity = read_identity(key)
    with locked_key(key):
        return await ledger.send(identity, kind, data)


async def _history(ledger: LedgerClient, node: bytes) -> list[Any]:
    """A node's last settled results, oldest first: each names the one before."""
    from planetserve.statekeys import reputation_key, result_key

    key = reputation_key(node)
    record = (await ledger.read((key,))).records[key]
    history: list[Any] = []
    with answers_of_expected_form():
        last = None if record is None else record["last"]
        while last is not None and len(history) < MAX_HISTORY:
            key = result_key(last[1], last[0])
            result = (await ledger.read((key,))).records[key]
            if result is None:  # dropped, being too old
                break
            history.insert(0, result)
            last = result["previous"]
    return history


def ask(network: Path | None, question: Callable[[LedgerClient], Awaitable[Result]]) -> Result:
    """Run one conversation with the ledger of a network file."""
    import asyncio

    from planetserve.ledger import LedgerClient
    from planetserve.light.trust import trust_file
    from planetserve.network import find_network, load_network

    async def converse() -> Result:
        path = find_network(network)
        content = load_network(path)
        async with LedgerClient(content, trust_file(path, content)) as ledger:
            return await question(ledger)

    return asyncio.run(converse())


def find_node(found: RouteSet, text: str) -> NodeRecord:
    """The node with this name or whose id begins so. Raises `UsageError` for none or several."""
    from planetserve.errors import UsageError

    matches = [node for node in found.nodes if node.name == text]
    if not matches and len(text) >= MIN_PREFIX:
        matches = [node for node in found.nodes if node.id.hex().startswith(text.lower())]
    if not matches:
        raise UsageError(
            f"no node is called {text!r} or has an id of {MIN_PREFIX} or more digits that begins "
            "so; `ps-ledger nodes` lists them"
        )
    if len(matches) > 1:
        identifiers = ", ".join(node.id.hex() for node in matches[:5])
        raise UsageError(f"{len(matches)} nodes match {text!r}; use an id: {identifiers}")
    return matches[0]


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


@contextmanager
def answers_of_expected_form() -> Iterator[None]:
    """A server may answer anything; what cannot be shown is its fault, not a crash of ours."""
    from planetserve.errors import RemoteProtocolError

    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteProtocolError("an RPC server's answer is not what was asked for") from error


def show_json(content: Any) -> None:
    import json

    typer.echo(json.dumps(_hexed(content), indent=2))


def show_pairs(pairs: list[tuple[str, Any]]) -> None:
    for name, value in pairs:
        typer.echo(f"{name:<12}{_printable(value)}")


def show_table(columns: list[str], rows: list[list[Any]]) -> None:
    """A drawn table for a terminal, aligned columns for a pipe."""
    import sys

    cells = [[_printable(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, *cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            typer.echo(line.rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _hexed(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _hexed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hexed(item) for item in value]
    return value


def _printable(value: Any) -> str:
    return "".join(character if character.isprintable() else "?" for character in str(value))


def _share(ppm: int | None) -> str:
    return "-" if ppm is None else f"{ppm / 1_000_000:.3f}"


def main() -> None:
    run(app)

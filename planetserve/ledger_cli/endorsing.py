"""`ps-ledger endorse | revoke`: credentials that a verifier gives and takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from planetserve.ledger_cli.application import NetworkFile, Role, VerifierKey, app
from planetserve.ledger_cli.conversation import ask, send
from planetserve.ledger_cli.display import printable

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient

DEFAULT_EXPIRY_BLOCKS = 100_000
NodeOrKey = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        help="A name, an id or how one begins, or a public key, registered or not.",
    ),
]


@app.command()
def endorse(
    node: NodeOrKey,
    role: Role,
    key: VerifierKey,
    expires_in: Annotated[
        int, typer.Option(metavar="BLOCKS", min=1, help="For how many blocks.")
    ] = DEFAULT_EXPIRY_BLOCKS,
    network: NetworkFile = None,
) -> None:
    """Admit a node to a role, or renew that (verifiers only)."""
    from planetserve import transactions
    from planetserve.ledger_cli.lookup import find_target, read_nodes

    async def write(ledger: LedgerClient) -> tuple[str, int, int]:
        found = await read_nodes(ledger)
        target = find_target(found, node)
        expires = found.height + expires_in
        data = transactions.endorse(node=target.id, role=role, expires=expires)
        return target.label, expires, await send(ledger, key, transactions.ENDORSE, data)

    label, expires, height = ask(network, write)
    typer.echo(
        f"{printable(label)} is endorsed as {role} from height {height} up to height {expires}"
    )


@app.command()
def revoke(node: NodeOrKey, role: Role, key: VerifierKey, network: NetworkFile = None) -> None:
    """End one's own endorsement of a node (verifiers only)."""
    from planetserve import transactions
    from planetserve.ledger_cli.lookup import find_target, read_nodes

    async def write(ledger: LedgerClient) -> tuple[str, int]:
        target = find_target(await read_nodes(ledger), node)
        data = transactions.revoke(node=target.id, role=role)
        return target.label, await send(ledger, key, transactions.REVOKE, data)

    label, height = ask(network, write)
    typer.echo(f"the endorsement of {printable(label)} as {role} ended at height {height}")

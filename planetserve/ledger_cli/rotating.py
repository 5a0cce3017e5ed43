"""`ps-ledger retire | rotate`: a node leaves, or goes on under a new signing key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planetserve.ledger_cli.application import NetworkFile, app
from planetserve.ledger_cli.conversation import ask, send

if TYPE_CHECKING:
    from planetserve.keys import Identity
    from planetserve.ledger import LedgerClient

OwnKey = Annotated[Path, typer.Option("--key", help="The node's own key file.")]


@app.command()
def retire(key: OwnKey, network: NetworkFile = None) -> None:
    """Leave the network: the node's credentials end, its reputation is kept for a while."""
    from planetserve import transactions

    height = ask(
        network, lambda ledger: send(ledger, key, transactions.RETIRE, transactions.retire())
    )
    typer.echo(f"the node has retired at height {height}; its key may register again")


@app.command()
def rotate(
    key: OwnKey,
    new_key: Annotated[
        Path, typer.Option("--new-key", help="The new key file; made when there is none.")
    ],
    network: NetworkFile = None,
) -> None:
    """Go on under a new signing key, with credentials and reputation, from the epoch's end.

    A new key file keeps the onion and transport keys of the old one, under which others reach the
    node; `ps-relay run` and `ps-model run` announce others when they start.
    """
    from planetserve import transactions
    from planetserve.keys import read_identity

    old = read_identity(key)
    made = not new_key.exists()
    new = _new_identity(old, new_key)

    async def write(ledger: LedgerClient) -> tuple[int, int]:
        data = transactions.rotate(ledger.network.chain_id, old.public_key, new)
        height = await send(ledger, key, transactions.ROTATE, data)
        return height, (await ledger.status()).epoch_end - 1

    height, end = ask(network, write)
    if made:
        typer.echo(f"made {new_key}: keep a copy of it")
    typer.echo(
        f"accepted at height {height}. Run the node with {key} up to height {end}, the end of the "
        f"epoch, and with {new_key} from then on; its id becomes {new.id.hex()}"
    )


def _new_identity(old: Identity, path: Path) -> Identity:
    import os

    from planetserve.errors import UsageError
    from planetserve.keys import Identity, read_identity, write_identity

    if not path.exists():
        write_identity(path, Identity(os.urandom(32), old.onion_secret, old.transport_secret))
    new = read_identity(path)
    if new.public_key == old.public_key:
        raise UsageError(f"{path} holds the same signing key; name another file to make a new one")
    return new

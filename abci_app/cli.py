"""`ps-node`: run a validator, make its home, look into its ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from planetserve.cli import run as run_command_line

app = typer.Typer(
    help="A validator: CometBFT and the ledger that it agrees on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Home = Annotated[Path, typer.Option(help="The validator's folder.")]


@app.command()
def run(
    home: Home,
    http: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve /health and /metrics here.")
    ] = None,
    cometbft: Annotated[
        Path | None, typer.Option(help="The CometBFT binary, if not the one of `make setup`.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the validator of a home until SIGTERM or Ctrl-C."""
    import asyncio

    from abci_app.cometbft import find_cometbft
    from abci_app.node import NodeOptions, run_node
    from planetserve.errors import UsageError
    from planetserve.logs import configure_logging

    if log_level not in ("debug", "info", "warning", "error"):
        raise UsageError("--log-level is debug, info, warning or error")
    configure_logging(log_level)
    asyncio.run(run_node(NodeOptions(home, find_cometbft(cometbft), http)))


@app.command()
def init(
    home: Home,
    genesis: Annotated[Path, typer.Option(help="The network's genesis document.")],
    moniker: Annotated[str, typer.Option(help="What peers call this node.")] = "validator",
    p2p: Annotated[str, typer.Option(metavar="HOST:PORT")] = "0.0.0.0:26656",
    rpc: Annotated[str, typer.Option(metavar="HOST:PORT")] = "127.0.0.1:26657",
    peer: Annotated[
        list[str] | None, typer.Option(metavar="ID@HOST:PORT", help="Repeat for each peer.")
    ] = None,
    block_interval_s: Annotated[float, typer.Option(min=0.05, max=600.0)] = 1.0,
) -> None:
    """Make a home with new keys; prints what the other validators need to know."""
    import os

    from abci_app.home import node_id_of, public_key_of, read_settings, write_home
    from planetserve.errors import ConfigurationError

    try:
        document = genesis.read_text()
    except OSError as error:
        raise ConfigurationError(f"cannot read {genesis}: {error.strerror}") from error
    consensus_seed, node_seed = os.urandom(32), os.urandom(32)
    write_home(
        home,
        genesis=document,
        moniker=moniker,
        consensus_seed=consensus_seed,
        node_seed=node_seed,
        p2p=p2p,
        rpc=rpc,
        peers=peer or [],
        block_interval_s=block_interval_s,
    )
    settings = read_settings(home)
    typer.echo(f"chain          {settings.chain_id}")
    typer.echo(f"peer           {node_id_of(node_seed)}@{p2p}")
    typer.echo(f"consensus key  {public_key_of(consensus_seed).hex()}")


@app.command()
def inspect(home: Home) -> None:
    """Print the committed height, app hash and number of records of a node that is not running."""
    from abci_app.home import DATABASE, read_settings
    from abci_app.store import open_store
    from planetserve.errors import ConfigurationError
    from planetserve.statekeys import STORES

    settings = read_settings(home)
    if not (home / DATABASE).is_dir():
        raise ConfigurationError(f"{home / DATABASE} does not exist: the node has not run yet")
    store = open_store(home / DATABASE, settings.chain_id)
    try:
        latest = store.latest
        report = {
            "chain_id": settings.chain_id,
            "height": latest.head.height,
            "app_hash": latest.head.app_hash.hex(),
            "roots": {name: root.hex() for name, root in sorted(latest.head.roots.items())},
            "records": {name: sum(1 for _ in latest.scan(name.encode() + b"/")) for name in STORES},
        }
    finally:
        store.close()
    typer.echo(json.dumps(report, indent=2))


def main() -> None:
    run_command_line(app)

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
    snapshot_blocks: Annotated[
        int, typer.Option(min=0, help="Make a snapshot every so many blocks; 0: none.")
    ] = 1_000,
    keep_snapshots: Annotated[int, typer.Option(min=1, max=100, help="Keep so many of them.")] = 2,
    keep_blocks: Annotated[
        int, typer.Option(min=0, help="Delete blocks older than this; 0: none.")
    ] = 0,
    keep_hours: Annotated[
        int, typer.Option(min=0, help="But never blocks younger than this.")
    ] = 360,
    restore_mib: Annotated[
        int, typer.Option(min=1, help="The most that a snapshot to join from may take.")
    ] = 32_768,
    tx_index: Annotated[
        str, typer.Option(help="kv lets clients find transactions here; null saves its room.")
    ] = "kv",
    local: Annotated[
        bool, typer.Option("--local", help="All nodes share a machine and know each other.")
    ] = False,
    state_sync: Annotated[
        str | None,
        typer.Option(
            metavar="RPC1,RPC2", help="Join from a snapshot that these nodes' headers confirm."
        ),
    ] = None,
    trust_height: Annotated[
        int | None, typer.Option(min=1, help="A height whose header you trust.")
    ] = None,
    trust_hash: Annotated[
        str | None, typer.Option(metavar="HEX", help="The hash of that header.")
    ] = None,
) -> None:
    """Make a home with new keys; prints what the other validators need to know."""
    import os

    from abci_app.config_file import Schedule, StateSyncFrom
    from abci_app.home import node_id_of, public_key_of, read_settings, write_home
    from abci_app.transfer import check_genesis
    from planetserve.errors import UsageError

    asked = (state_sync, trust_height, trust_hash)
    if any(asked) and not all(asked):
        raise UsageError("--state-sync, --trust-height and --trust-hash go together")
    document = _text_of(genesis)
    imported = check_genesis(document)
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
        schedule=Schedule(
            snapshot_blocks=snapshot_blocks,
            keep_snapshots=keep_snapshots,
            keep_blocks=keep_blocks,
            keep_hours=keep_hours,
            restore_mib=restore_mib,
        ),
        tx_index=tx_index,
        local=local,
        state_sync=StateSyncFrom(state_sync.split(","), trust_height, trust_hash)
        if state_sync and trust_height and trust_hash
        else None,
    )
    settings = read_settings(home)
    typer.echo(f"chain          {settings.chain_id}")
    typer.echo(f"peer           {node_id_of(node_seed)}@{p2p}")
    typer.echo(f"consensus key  {public_key_of(consensus_seed).hex()}")
    if imported:
        typer.echo(f"app hash       {imported}")


@app.command()
def export(
    home: Home,
    height: Annotated[
        int | None, typer.Option(min=1, help="The last height, or that of a snapshot.")
    ] = None,
) -> None:
    """Print the genesis document that goes on from a stopped node's state; every validator prints
    the same."""
    from abci_app.transfer import exported_genesis

    typer.echo(exported_genesis(home, height), nl=False)


@app.command("import")
def import_(
    home: Home,
    genesis: Annotated[Path, typer.Argument(help="What `ps-node export` has printed.")],
) -> None:
    """Let a stopped validator go on from an exported state; what it had is moved aside."""
    from abci_app.transfer import check_genesis, import_genesis

    document = _text_of(genesis)
    imported = check_genesis(document)
    aside = import_genesis(home, document)
    typer.echo(f"moved aside    {aside}")
    if imported:
        typer.echo(f"app hash       {imported}")


@app.command()
def compact(
    home: Home,
    cometbft: Annotated[
        Path | None, typer.Option(help="The CometBFT binary, if not the one of `make setup`.")
    ] = None,
) -> None:
    """Give back the room of what a stopped node has deleted; takes minutes on a large one."""
    from abci_app.cometbft import compact_databases, find_cometbft
    from abci_app.transfer import stopped_store

    binary = find_cometbft(cometbft)
    with stopped_store(home) as store:
        store.compact()
    compact_databases(binary, home)


@app.command()
def inspect(
    home: Home,
    height: Annotated[
        int | None, typer.Option(min=1, help="Show the stores' roots of this recent height.")
    ] = None,
) -> None:
    """Print the committed height, app hash, store roots and records of a stopped node."""
    from abci_app.transfer import inspection

    typer.echo(json.dumps(inspection(home, height), indent=2))


def _text_of(path: Path) -> str:
    from planetserve.errors import ConfigurationError

    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error


def main() -> None:
    run_command_line(app)

"""`ps-relay`: pass other people's cells on."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from overlay.directory import Directory
from overlay.relay_node import RelayNode, collect_seldom
from overlay.relaying import RelaySettings, announcement
from overlay.replay_log import folder_beside, node_identity
from planetserve import cli
from planetserve.health import HealthServer
from planetserve.keylock import locked_key
from planetserve.keys import Identity
from planetserve.ledger import LedgerClient
from planetserve.logs import configure_logging, get_logger
from planetserve.network import Network, load_network
from planetserve.records import TRUSTED
from planetserve.registration import announce

app = typer.Typer(
    help="Relay other people's requests, without learning who asks or what.",
    no_args_is_help=True,
    add_completion=False,
)
log = get_logger()


@app.callback()
def relay() -> None:
    """Relay other people's requests, without learning who asks or what."""


@app.command()
def run(
    name: Annotated[str, typer.Option(help="The name to show on the ledger.")],
    bind: Annotated[str, typer.Option(help="HOST:PORT to take overlay links at.")],
    network: Annotated[Path | None, typer.Option(help="The network file.")] = None,
    key: Annotated[
        Path, typer.Option(help="The relay's key file; made when there is none.")
    ] = Path("relay.key"),
    public: Annotated[
        str, typer.Option(help="HOST:PORT that others reach `bind` at, if it differs.")
    ] = "",
    operator: Annotated[
        str, typer.Option(help="Who runs it; paths avoid two relays of one operator.")
    ] = "",
    http: Annotated[str, typer.Option(help="HOST:PORT of /health and /metrics.")] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Join the network as a relay and serve until stopped.

    The relay registers itself; it carries traffic once a verifier has endorsed it.
    """
    configure_logging(log_level)
    known = load_network(network)
    identity = node_identity(key)
    with locked_key(key):
        settings = RelaySettings(bind, key, name, public, operator)
        asyncio.run(_run(known, identity, settings, http))


async def _run(network: Network, identity: Identity, settings: RelaySettings, http: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ledger = LedgerClient(network)
    directory = Directory(ledger)
    node = RelayNode(identity, settings.bind, directory, folder_beside(settings.key))
    node.start()
    collect_seldom()

    def health() -> dict[str, Any]:
        record = directory.find(identity.id)
        status = record.status if record is not None else "unregistered"
        return {
            "healthy": status == TRUSTED,
            "name": settings.name,
            "id": identity.id.hex(),
            "status": status,
            "paths": node.paths,
        }

    server = HealthServer(http, health) if http else None
    announcing = asyncio.create_task(announce(ledger, identity, announcement(identity, settings)))
    directory.follow()
    log.info("relay_started", name=settings.name, node=identity.id.hex())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({announcing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()  # a refused registration ends the process with its reason
        await stopping
    finally:
        for task in (announcing, stopping):
            task.cancel()
        await asyncio.gather(announcing, stopping, return_exceptions=True)
        if server is not None:
            server.close()
        await directory.close()
        await node.close()
        await ledger.close()
        log.info("relay_stopped", name=settings.name)


def main() -> None:
    cli.run(app)

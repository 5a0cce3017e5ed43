"""`ps-prober`: verify what model nodes serve."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from planetserve import cli
from planetserve.errors import PlanetServeError, UsageError
from planetserve.health import HealthServer
from planetserve.keylock import locked_key
from planetserve.keys import Identity, read_identity
from planetserve.ledger import LedgerClient
from planetserve.logs import configure_logging, get_logger
from planetserve.network import Network, load_network
from prober.service import Event, Prober, ProberSettings

app = typer.Typer(
    help="Ask model nodes questions like any user, and tell the ledger how well they answer.",
    no_args_is_help=True,
    add_completion=False,
)
log = get_logger()

WAIT_FOR_ROUTES_S = 2.0
QUIET_S = 4.0
MAX_QUIET_WAIT_S = 30.0
CHALLENGE_SEED_DOMAIN = b"planetserve/challenge-seed/v1\0"


@app.callback()
def prober() -> None:
    """Ask model nodes questions like any user, and tell the ledger how well they answer."""


@app.command()
def run(
    key: Annotated[Path, typer.Option(help="The verifier's prober key file.")],
    network: Annotated[Path | None, typer.Option(help="The network file.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Challenges a node and epoch.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="End after so many epochs.")] = None,
    endorse: Annotated[
        str, typer.Option(help="open: admit every node that registers; none: admit nobody.")
    ] = "none",
    transcripts: Annotated[
        Path | None, typer.Option(help="Where probes are kept; beside the key file else.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="GGUF of the reference; the default model else.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
    http: Annotated[str, typer.Option(help="HOST:PORT of /health and /metrics.")] = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "warning",
) -> None:
    """Probe every model node each epoch, commit the scores and reveal them.

    Runs until stopped, or for --epochs. The key must be one of the ledger's verifiers'.
    """
    if endorse not in ("open", "none"):
        raise UsageError("--endorse takes open or none")
    configure_logging(log_level)
    settings = ProberSettings(
        samples=samples,
        epochs=epochs,
        endorse_open=endorse == "open",
        transcripts=transcripts or key.with_suffix(".transcripts.jsonl"),
        pending=key.with_suffix(".pending.json"),
    )
    identity = read_identity(key)
    with locked_key(key), _shown(plain, as_json) as observe:
        asyncio.run(_run(load_network(network), identity, settings, reference, http, observe))


def _shown(plain: bool, as_json: bool) -> AbstractContextManager[Callable[[Event], None]]:
    from rich.console import Console

    from prober import table

    if as_json:
        return nullcontext(table.print_json)
    console = Console()
    if plain or not console.is_terminal:
        return nullcontext(table.print_line)
    return table.LiveTable(console)


async def _run(
    network: Network,
    identity: Identity,
    settings: ProberSettings,
    reference: Path | None,
    http: str,
    observe: Callable[[Event], None],
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with LedgerClient(network) as ledger:
        prober = Prober(identity, ledger, settings, observe)

        def health() -> dict[str, Any]:
            return {
                "healthy": prober.chain_seen,
                "judging": prober.judge is not None,
                "epochs_done": prober.epochs_done,
            }

        server = HealthServer(http, health) if http else None
        tasks = [
            asyncio.create_task(prober.run(), name="prober"),
            asyncio.create_task(_provide_judge(network, prober, identity, reference), name="judge"),
            asyncio.create_task(stop.wait(), name="stop"),
        ]
        running, judging, stopping = tasks
        try:
            await asyncio.wait({running, judging, stopping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (running, judging):
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if server is not None:
                server.close()


async def _provide_judge(
    network: Network, prober: Prober, identity: Identity, reference: Path | None
) -> None:
    """Load the reference and connect, then let the prober judge. Ends only with its task."""
    from modelnode.engines.default_model import default_model_path
    from modelnode.engines.llamacpp import LlamaCppSettings, load_llamacpp
    from planetserve.client import AsyncClient
    from prober.judge import Judge

    client = AsyncClient(network)
    engine = None
    try:
        await _connect(client)
        await _until_quiet(prober)
        engine = await load_llamacpp(
            LlamaCppSettings(reference or default_model_path(), threads=1, parallel=1)
        )
        seed = hashlib.sha256(CHALLENGE_SEED_DOMAIN + identity.seed).digest()
        judge = Judge(client, engine, seed)
        await judge.load()
        prober.judge = judge
        await asyncio.Event().wait()
    finally:
        prober.judge = None
        await client.close()
        if engine is not None:
            await engine.close()


async def _connect(client: object) -> None:
    """Wait until enough relays have joined."""
    from planetserve.client import AsyncClient

    assert isinstance(client, AsyncClient)
    while True:
        try:
            await client.connect()
            return
        except PlanetServeError as error:
            log.info("waiting_for_relays", reason=str(error))
            await asyncio.sleep(WAIT_FOR_ROUTES_S)


async def _until_quiet(prober: Prober) -> None:
    """Wait while nodes keep asking to be admitted, as when a network starts: loading the judge
    holds the interpreter for seconds, in which nobody would be."""
    now_s = asyncio.get_running_loop().time
    start_s = quiet_since_s = now_s()
    while now_s() - quiet_since_s < QUIET_S and now_s() - start_s < MAX_QUIET_WAIT_S:
        await asyncio.sleep(0.5)
        if prober.admitting:
            quiet_since_s = now_s()


def main() -> None:
    cli.run(app)

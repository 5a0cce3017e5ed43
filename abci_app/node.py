"""One validator: the ledger, its ABCI server, CometBFT as a child, health and metrics."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from abci_app.application import Application
from abci_app.cometbft import relay_output, start_cometbft, stop_cometbft, sync_status
from abci_app.handlers import Handlers, Operations
from abci_app.home import DATABASE, SNAPSHOTS, read_settings
from abci_app.housekeeping import Housekeeping
from abci_app.metrics import LedgerMetrics
from abci_app.restore import StateSync
from abci_app.server import AbciServer
from abci_app.snapshots import Archive
from abci_app.store import open_store
from planetserve.errors import ConfigurationError, PlanetServeError
from planetserve.health import HealthServer
from planetserve.logs import get_logger

HALT_POLL_S = 0.5
HALT_AFTER_S = 5.0
"""Before an upgrade that this program lacks: by then every validator has got the last block."""

log = get_logger()


class NodeStopped(PlanetServeError):
    """The node ended without being told to."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """`http` is HOST:PORT for health and metrics, or None."""

    home: Path
    cometbft: Path
    http: str | None = None


async def run_node(options: NodeOptions) -> None:
    """Run until SIGTERM or SIGINT. Raises `ConfigurationError` when it cannot start, and
    `NodeStopped` when CometBFT or the ledger ends by itself."""
    home = options.home.resolve()
    settings = read_settings(home)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # A socket's path is limited to some 100 characters, so it is named from within the home.
    os.chdir(home)
    options = replace(options, home=home)
    store = open_store(home / DATABASE, settings.chain_id)
    idle = True
    try:
        application = Application(store, settings.chain_id)
        metrics = LedgerMetrics()
        failed: asyncio.Future[Exception] = loop.create_future()

        def fail(error: Exception) -> None:
            if not failed.done():
                failed.set_result(error)

        def fail_soon(error: Exception) -> None:
            loop.call_soon_threadsafe(fail, error)

        schedule = settings.schedule
        archive = Archive(home / SNAPSHOTS, settings.chain_id, schedule.keep_snapshots)
        housekeeping = Housekeeping(store, archive, schedule, metrics)
        state_sync = StateSync(
            application,
            store,
            settings.chain_id,
            schedule.restore_mib << 20,
            lambda: shutil.disk_usage(home).free,
        )
        operations = Operations(archive, state_sync, housekeeping)
        server = AbciServer(Handlers(application, metrics, operations), fail_soon)
        server.listen(settings.abci)
        log.info("the ledger listens", address=settings.abci, height=application.head.height)
        joins = settings.state_sync and (application.head.height == 0 or store.restored)
        relaying: asyncio.Task[None] | None = None
        try:
            # The child is made before any thread, as `preexec_fn` wants it.
            process = await start_cometbft(options.cometbft, home, piped=joins)
            if joins:
                relaying = asyncio.create_task(
                    relay_output(process, lambda line: fail(_not_joined(line)))
                )
            server.serve()
            housekeeping.start()
            try:
                await _supervise(options, application, metrics, failed, process, stopping)
            finally:
                await stop_cometbft(process)
                if relaying is not None:
                    await relaying
        finally:
            await asyncio.to_thread(server.close)
            idle = await asyncio.to_thread(housekeeping.close)
    finally:
        # LevelDB ends well without it; whoever still uses the store would not.
        if idle:
            store.close()


def _not_joined(line: str) -> NodeStopped:
    return NodeStopped(
        f"CometBFT could not join from a snapshot: {line}. Check the RPC servers and the trusted "
        "header in [statesync] of its config.toml, then start again"
    )


async def _supervise(
    options: NodeOptions,
    application: Application,
    metrics: LedgerMetrics,
    failed: asyncio.Future[Exception],
    process: asyncio.subprocess.Process,
    stopping: asyncio.Event,
) -> None:
    rpc = read_settings(options.home).rpc

    def health() -> dict[str, Any]:
        status = sync_status(rpc)
        head = application.head
        alive = process.returncode is None
        return {
            "healthy": alive and status is not None and not status.catching_up and head.height > 0,
            "role": "validator",
            "pid": os.getpid(),
            "cometbft_pid": process.pid,
            "height": head.height,
            "app_hash": head.app_hash.hex(),
            "catching_up": status is None or status.catching_up,
            "since_block_s": round(time.monotonic() - application.committed_at_s, 1),
        }

    web = HealthServer(options.http, health, metrics.registry) if options.http else None
    endings: list[asyncio.Future[Any]] = [
        asyncio.ensure_future(stopping.wait()),
        asyncio.ensure_future(process.wait()),
        asyncio.ensure_future(_until_halted(application)),
        failed,
    ]
    try:
        await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for ending in endings[:-1]:
            ending.cancel()
        if web is not None:
            await asyncio.to_thread(web.close)
    if stopping.is_set():
        log.info("the node stops")
        return
    if failed.done():
        error = failed.result()
        if isinstance(error, (ConfigurationError, NodeStopped)):
            raise error
        raise NodeStopped(
            f"the ledger stopped at height {application.head.height} on a fault of its own "
            f"({type(error).__name__}); the log above has the details"
        ) from error
    if application.halted is not None:
        raise application.halted
    raise NodeStopped(
        f"CometBFT ended by itself with code {process.returncode}; its log above says why"
    )


async def _until_halted(application: Application) -> None:
    while True:
        await asyncio.sleep(HALT_POLL_S)
        if application.halted is not None:
            await asyncio.sleep(HALT_AFTER_S)
            return

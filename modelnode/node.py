"""A model node process: engine, ledger, overlay, group and HTTP, started and stopped together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelnode.dispatch import Dispatcher
from modelnode.engines.protocol import Engine
from modelnode.group import Group
from modelnode.http import HttpServer, create_application, loopback_address
from modelnode.incoming import answer
from modelnode.lifetime import (
    EngineLoader,
    cancel,
    drain,
    engine_health,
    first,
    until_stopped,
)
from modelnode.serving import Server
from overlay.directory import Directory
from overlay.server import IncomingRequest, OverlayServer
from planetserve.errors import PlanetServeError
from planetserve.evidence import Terms
from planetserve.keys import Identity
from planetserve.ledger import LedgerClient
from planetserve.logs import get_logger
from planetserve.network import Network
from planetserve.registration import announce
from planetserve.statekeys import model_key
from planetserve.transactions import register

ROUTES_INTERVAL_S = 1.0

log = get_logger()


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a model node runs. `overlay`, `group` and `http` are HOST:PORT to bind; the `public_`
    ones are what others connect to."""

    name: str
    model: str
    operator: str
    overlay: str
    group: str
    http: str
    public_overlay: str
    public_group: str
    replay_folder: Path
    """Where it keeps which requests it took."""

    def registration(self, identity: Identity) -> dict[str, Any]:
        """What the node announces on the ledger."""
        return register(
            name=self.name,
            roles=["model"],
            onion_key=identity.onion_public,
            transport_key=identity.transport_public,
            endpoints={
                "overlay": f"tcp://{self.public_overlay}",
                "group": f"tcp://{self.public_group}",
            },
            model=self.model,
            operator=self.operator,
        )


class ModelNode:
    """One model node; `run` is its whole life."""

    def __init__(self, network: Network, identity: Identity, settings: NodeSettings) -> None:
        self._network = network
        self._identity = identity
        self._settings = settings
        self._registered = False
        self._directory: Directory | None = None
        self._dispatcher: Dispatcher | None = None
        self._group: Group | None = None
        self._overlay: OverlayServer | None = None

    async def run(self, load_engine: EngineLoader, stop: asyncio.Event) -> None:
        """Load, join and serve until `stop` is set; then finish what runs, for `DRAIN_S` at most.

        Raises `ConfigurationError` when an address cannot be bound or the engine cannot be
        loaded, `TransactionRejected` when the ledger refuses the registration.
        """
        loopback_address(self._settings.http)
        async with AsyncExitStack() as stack:
            ledger = LedgerClient(self._network)
            stack.push_async_callback(ledger.close)
            announcing = asyncio.create_task(self._announce(ledger), name="announce")
            stack.push_async_callback(cancel, announcing)
            engine = await first(load_engine(), stop)
            if engine is None:
                return
            stack.push_async_callback(engine.close)
            await self._serve(stack, engine, ledger)
            log.info("model_node_started", name=self._settings.name, node=self._identity.id.hex())
            await until_stopped(stop, announcing)
            await self._drain()
        log.info("model_node_stopped", name=self._settings.name)

    async def _serve(self, stack: AsyncExitStack, engine: Engine, ledger: LedgerClient) -> None:
        settings = self._settings
        server = Server(engine, self._identity, self._network.chain_id, settings.model)
        group = Group(self._identity, settings.group, server)
        self._group = group
        self._dispatcher = Dispatcher(server, group)
        await group.start()
        stack.push_async_callback(group.close)
        learning = asyncio.create_task(self._learn_terms(ledger, server), name="terms")
        stack.push_async_callback(cancel, learning)
        self._directory = Directory(ledger, ROUTES_INTERVAL_S, group.routes_changed)
        self._directory.follow()
        stack.push_async_callback(self._directory.close)
        self._overlay = OverlayServer(
            self._identity,
            settings.overlay,
            self.handle,
            settings.replay_folder,
            node_of_key=self._directory.node_of_transport_key,
        )
        await self._overlay.start()
        stack.push_async_callback(self._overlay.close)
        http = HttpServer(create_application(self._dispatcher, self.health), settings.http)
        await http.start()
        stack.push_async_callback(http.close)

    async def _announce(self, ledger: LedgerClient) -> None:
        await announce(ledger, self._identity, self._settings.registration(self._identity))
        self._registered = True

    async def _learn_terms(self, ledger: LedgerClient, server: Server) -> None:
        """What the ledger promises of the model, which the node's replies must keep to."""
        key = model_key(self._settings.model)
        while server.terms is None:
            try:
                record = (await ledger.read((key,))).records[key]
                if record is not None:
                    server.terms = Terms(record["context_tokens"], record["deterministic"])
            except PlanetServeError as error:
                log.warning("model_terms_unavailable", reason=str(error))
            await asyncio.sleep(ROUTES_INTERVAL_S)

    async def handle(self, incoming: IncomingRequest) -> None:
        """Answer one request from the overlay. Raises `ReplyGone` when its client left."""
        assert self._dispatcher is not None
        await answer(self._dispatcher, incoming)

    def health(self) -> dict[str, Any]:
        """Healthy: the engine runs, the node is registered and a verifier endorsed it."""
        routes = self._directory.current if self._directory else None
        record = routes.find(self._identity.id) if routes else None
        status = record.status if record is not None else "unregistered"
        report: dict[str, Any] = {
            "healthy": self._registered
            and routes is not None
            and record is not None
            and record.admitted(routes.height),
            "name": self._settings.name,
            "id": self._identity.id.hex(),
            "model": self._settings.model,
            "engine_loaded": self._dispatcher is not None,
            "registered": self._registered,
            "status": status,
            "reputation_ppm": record.reputation_ppm if record is not None else None,
        }
        if self._dispatcher is not None and self._group is not None:
            report |= engine_health(self._dispatcher, self._group)
            report["healthy"] = report["healthy"] and report["engine_serving"]
        return report

    async def _drain(self) -> None:
        """Take nothing new and let what runs finish, here and for peers."""
        assert self._dispatcher is not None
        assert self._group is not None
        overlay = self._overlay
        assert overlay is not None
        # Beyond the last token, answers wait for the beat on which their last bytes leave.
        await drain(self._dispatcher, self._group, lambda: overlay.running)

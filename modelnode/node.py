"""A model node process: engine, ledger, overlay, group and HTTP, started and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelnode.dispatch import Dispatcher
from modelnode.engines.protocol import Engine
from modelnode.group import Group
from modelnode.http import HttpServer, create_application, loopback_address
from modelnode.serving import Server
from overlay.directory import Directory
from overlay.server import IncomingRequest, OverlayServer
from planetserve.errors import PlanetServeError, RemoteProtocolError
from planetserve.evidence import Terms
from planetserve.keys import Identity
from planetserve.ledger import LedgerClient
from planetserve.logs import get_logger
from planetserve.messages import Accepted, Failed, decode_payload, encode_event
from planetserve.network import Network
from planetserve.registration import announce
from planetserve.statekeys import model_key
from planetserve.transactions import register

ROUTES_INTERVAL_S = 1.0
DRAIN_S = 5.0
DRAIN_STEP_S = 0.05

log = get_logger()

EngineLoader = Callable[[], Awaitable[Engine]]


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
            stack.push_async_callback(_cancel, announcing)
            engine = await _first(load_engine(), stop)
            if engine is None:
                return
            stack.push_async_callback(engine.close)
            await self._serve(stack, engine, ledger)
            log.info("model_node_started", name=self._settings.name, node=self._identity.id.hex())
            await _until_stopped(stop, announcing)
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
        stack.push_async_callback(_cancel, learning)
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
        try:
            payload = decode_payload(incoming.payload)
        except RemoteProtocolError as error:
            await incoming.write(encode_event(Failed("bad_request", str(error))))
            await incoming.finish()
            return
        await incoming.write(encode_event(Accepted(self._identity.id)))
        async with aclosing(self._dispatcher.answer(payload.body, payload.prefer)) as events:
            async for event in events:
                await incoming.write(encode_event(event))
        await incoming.finish()

    def health(self) -> dict[str, Any]:
        """Healthy: the engine is loaded, the node is registered and a verifier endorsed it."""
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
            stats = self._dispatcher.server.stats()
            report |= {
                "running": stats.running,
                "waiting": stats.waiting,
                "capacity": stats.capacity,
                "context_tokens": stats.context_tokens,
                "cached_tokens": stats.cached_tokens,
                "served": self._dispatcher.server.served,
                "group": len(self._group.balancer.members()),
            }
        return report

    async def _drain(self) -> None:
        """Take nothing new and let what runs finish, here and for peers."""
        assert self._dispatcher is not None
        assert self._group is not None
        assert self._overlay is not None
        self._dispatcher.server.accepting = False
        deadline_s = asyncio.get_running_loop().time() + DRAIN_S
        # Beyond the last token, answers wait for the beat on which their last bytes leave.
        while self._dispatcher.running or self._overlay.running or self._group.load().running:
            if asyncio.get_running_loop().time() > deadline_s:
                log.warning("requests_cut_short", count=self._dispatcher.running)
                return
            await asyncio.sleep(DRAIN_STEP_S)


async def _first(loading: Awaitable[Engine], stop: asyncio.Event) -> Engine | None:
    """The loaded engine, or None when we are told to stop before it is there."""
    engine = asyncio.ensure_future(loading)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({engine, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if engine.done():
        return engine.result()
    engine.cancel()
    await asyncio.gather(engine, return_exceptions=True)
    return None


async def _until_stopped(stop: asyncio.Event, announcing: asyncio.Task[None]) -> None:
    """Returns when `stop` is set. Raises what the announcement raises."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, announcing}, return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()
        await stopping
    finally:
        stopping.cancel()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

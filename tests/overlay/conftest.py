"""A whole overlay in one event loop: real sockets, real crypto, a route set made by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.overlay_node import record_of
from overlay.client import OverlayClient, PathSettings
from overlay.core.exchange import ExchangeLimits
from overlay.directory import Directory
from overlay.relay_node import RelayNode
from overlay.replay_log import mark_new
from overlay.server import Handler, OverlayServer
from planetserve.encoding import encode
from planetserve.keys import Identity, identity_from
from planetserve.merkle import EMPTY_HASH, root_of
from planetserve.records import NodeRecord, RouteSet, route_set
from planetserve.statekeys import route_key


def record(identity: Identity, name: str, role: str, port: int) -> NodeRecord:
    return record_of(identity, name, role, port, model="tiny")


class StaticLedger:
    """Stands where a `LedgerClient` would; only its route set is read."""

    def __init__(self) -> None:
        self.answer = route_set(0, EMPTY_HASH, [])

    async def routes(self) -> RouteSet:
        return self.answer


def seeded_identity(number: int) -> Identity:
    return identity_from(bytes((number,)) * 96)


@dataclass
class Overlay:
    routes: RouteSet
    relays: dict[bytes, RelayNode]
    server: OverlayServer
    target: NodeRecord
    clients: list[OverlayClient] = field(default_factory=list)
    directory: Directory | None = None
    ledger: StaticLedger | None = None

    def client(self, limits: ExchangeLimits | None = None, **options: Any) -> OverlayClient:
        """With one set of paths at a time; `options` are those of `OverlayClient`."""
        assert self.directory is not None
        settings = PathSettings(keep_ahead=False, limits=limits or ExchangeLimits())
        client = OverlayClient(self.directory, settings, **options)
        self.clients.append(client)
        return client

    def names(self, client: OverlayClient) -> list[list[str]]:
        """The open paths of `client` as node names, nearest relay first."""
        return [[relay.name for relay in hops.relays] for hops in client.open_paths()]

    async def kill_relay(self, name: str) -> None:
        node = next(n for n in self.routes.nodes if n.name == name)
        await self.relays.pop(node.id).close()


MakeOverlay = Callable[..., Awaitable[Overlay]]


@asynccontextmanager
async def running_overlay(
    handler: Handler, relay_count: int, folder: Path
) -> AsyncIterator[Overlay]:
    ledger = StaticLedger()
    directory = Directory(ledger)
    server = OverlayServer(
        seeded_identity(200),
        "127.0.0.1:0",
        handler,
        folder / "model",
        node_of_key=directory.node_of_transport_key,
    )
    target = record(seeded_identity(200), "model-1", "model", await server.start())
    records = [target]
    relays: dict[bytes, RelayNode] = {}
    for number in range(1, relay_count + 1):
        identity = seeded_identity(number)
        replay = folder / str(number)
        mark_new(replay)
        relays[identity.id] = RelayNode(identity, "127.0.0.1:0", directory, replay)
        port = relays[identity.id].start()
        records.append(record(identity, f"relay-{number}", "relay", port))
    stored = [(route_key(item.id), encode(item.to_wire())) for item in records]
    ledger.answer = route_set(1, root_of(stored), [item.to_wire() for item in records])
    routes = await directory.refresh()
    overlay = Overlay(routes, relays, server, target, directory=directory, ledger=ledger)
    try:
        yield overlay
    finally:
        for client in overlay.clients:
            await client.close(drain=False)
        for node in overlay.relays.values():
            await node.close()
        await overlay.server.close()


@pytest.fixture
async def make_overlay(tmp_path: Path) -> AsyncIterator[MakeOverlay]:
    """Call with a handler and a number of relays; everything ends with the test."""
    contexts = []

    async def make(handler: Handler, relay_count: int = 12) -> Overlay:
        context = running_overlay(handler, relay_count, tmp_path)
        contexts.append(context)
        return await context.__aenter__()

    yield make
    for context in contexts:
        await context.__aexit__(None, None, None)
    await asyncio.sleep(0)

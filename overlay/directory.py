"""The route set, followed: the last good one stays while no RPC server answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from overlay.links import Address
from planetserve.errors import PlanetServeError
from planetserve.logs import get_logger
from planetserve.records import NodeRecord, RouteSet

REFRESH_S = 2.0

log = get_logger()


class RouteSource(Protocol):
    """What is needed of a `LedgerClient`."""

    async def routes(self) -> RouteSet:
        """The newest route set. Raises `PlanetServeError`."""


class Directory:
    """`current` is the newest route set read; `changed` is called with each new one."""

    def __init__(
        self,
        ledger: RouteSource,
        refresh_s: float = REFRESH_S,
        changed: Callable[[RouteSet], None] | None = None,
    ) -> None:
        self._ledger = ledger
        self._refresh_s = refresh_s
        self._changed = changed
        self._by_id: dict[bytes, NodeRecord] = {}
        self._by_transport_key: dict[bytes, NodeRecord] = {}
        self._task: asyncio.Task[None] | None = None
        self.current: RouteSet | None = None

    async def refresh(self) -> RouteSet:
        """Read the route set now. Raises what `RouteSource.routes` raises."""
        routes = await self._ledger.routes()
        if self.current is None or routes.height >= self.current.height:
            changed = self.current is None or routes.hash != self.current.hash
            self.current = routes
            if changed:
                self._by_id = {node.id: node for node in routes.nodes}
                self._by_transport_key = {node.transport_key: node for node in routes.nodes}
                if self._changed is not None:
                    self._changed(routes)
        return self.current

    def follow(self) -> None:
        """Refresh in the background until `close`."""
        self._task = asyncio.create_task(self._follow(), name="directory")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def find(self, node: bytes) -> NodeRecord | None:
        return self._by_id.get(node)

    def resolve(self, node: bytes) -> Address | None:
        """Where `node` takes overlay links; None when it may not be dialled."""
        record = self._by_id.get(node)
        if record is None or self.current is None or not record.admitted(self.current.height):
            return None
        endpoint = record.endpoints.get("overlay")
        return Address(endpoint, record.transport_key) if endpoint else None

    def node_of_transport_key(self, key: bytes) -> bytes | None:
        """The id of the admitted node whose CURVE key this is."""
        record = self._by_transport_key.get(key)
        if record is None or self.current is None or not record.admitted(self.current.height):
            return None
        return record.id

    async def _follow(self) -> None:
        failing = False
        while True:
            try:
                await self.refresh()
                failing = False
            except PlanetServeError as error:
                if not failing:
                    log.warning("route_set_unavailable", reason=str(error))
                failing = True
            await asyncio.sleep(self._refresh_s)

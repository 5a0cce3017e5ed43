"""A model node of a group that a file names: no ledger, no overlay; it is asked over the
operator's HTTP of any member, and by the others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from modelnode.dispatch import Dispatcher
from modelnode.group import Group
from modelnode.group_file import FIXED_CHAIN_ID, GroupFile
from modelnode.http import HttpServer, create_application, loopback_address
from modelnode.lifetime import EngineLoader, drain, engine_health, first
from modelnode.serving import Server
from overlay.links import allow_descriptors
from planetserve.keys import Identity
from planetserve.logs import get_logger

log = get_logger()


class FixedNode:
    """One member; `run` is its whole life. `http` is the HOST:PORT of the operator's HTTP."""

    def __init__(self, file: GroupFile, identity: Identity, http: str) -> None:
        """Raises `ConfigurationError` when the file has no member with this key."""
        self._file = file
        self._identity = identity
        self._member = file.member(identity)
        self._http = http
        self._serving: tuple[Dispatcher, Group] | None = None

    async def run(self, load_engine: EngineLoader, stop: asyncio.Event) -> None:
        """Load and serve until `stop` is set; then finish what runs. Raises `ConfigurationError`
        when an address cannot be bound or the engine cannot be loaded."""
        loopback_address(self._http)
        allow_descriptors()
        name = self._member.name
        async with AsyncExitStack() as stack:
            engine = await first(load_engine(), stop)
            if engine is None:
                return
            stack.push_async_callback(engine.close)
            server = Server(engine, self._identity, FIXED_CHAIN_ID, self._file.model)
            group = Group(self._identity, self._member.group, server)
            group.set_members(self._file.as_members())
            await group.start()
            stack.push_async_callback(group.close)
            dispatcher = Dispatcher(server, group)
            self._serving = dispatcher, group
            http = HttpServer(create_application(dispatcher, self.health), self._http)
            await http.start()
            stack.push_async_callback(http.close)
            log.info("model_node_started", name=name, node=self._identity.id.hex())
            await stop.wait()
            await drain(dispatcher, group)
        log.info("model_node_stopped", name=name)

    def health(self) -> dict[str, Any]:
        """Healthy: the engine runs and the group's address is bound."""
        report: dict[str, Any] = {
            "healthy": self._serving is not None,
            "name": self._member.name,
            "id": self._identity.id.hex(),
            "model": self._file.model,
            "engine_loaded": self._serving is not None,
        }
        if self._serving is not None:
            report |= engine_health(*self._serving)
            report["healthy"] = report["engine_serving"]
        return report

"""How a local network is: each process's health page, and what the ledger lists."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from localnet.state import ProcessState, State
from planetserve.errors import PlanetServeError
from planetserve.ledger import LedgerClient
from planetserve.network import Network
from planetserve.records import TRUSTED, UNTRUSTED, RouteSet

HEALTH_TIMEOUT_S = 5.0
MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Health:
    """`reason` says what an unhealthy process answered."""

    healthy: bool
    reason: str = ""


def is_complete(routes: RouteSet, relays: int, model_nodes: int) -> bool:
    """Whether the ledger has admitted so many of each. A model node that lost its trust later
    was admitted once and counts."""
    admitted = [node for node in routes.nodes if node.status in (TRUSTED, UNTRUSTED)]
    return (
        len(routes.relays()) >= relays
        and sum("model" in node.roles for node in admitted) >= model_nodes
    )


class HealthReader:
    """Asks processes how they are. Use as an async context manager."""

    def __init__(self) -> None:
        self._http = httpx2.AsyncClient(timeout=HEALTH_TIMEOUT_S, trust_env=False)

    async def __aenter__(self) -> HealthReader:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._http.aclose()

    async def read(self, process: ProcessState) -> Health:
        if process.process is None or not process.process.alive():
            return Health(False, _ending(process))
        try:
            response = await self._http.get(process.health)
            report = response.json()
        except httpx2.HTTPError as error:
            return Health(False, f"its health page does not answer ({type(error).__name__})")
        except ValueError:
            return Health(False, "its health page is not JSON")
        if not isinstance(report, dict):
            return Health(False, "its health page is not a JSON object")
        return Health(report.get("healthy") is True, str(report)[:MAX_REASON_CHARACTERS])

    async def read_all(self, processes: Iterable[ProcessState]) -> dict[str, Health]:
        listed = list(processes)
        answers = await asyncio.gather(*(self.read(process) for process in listed))
        return {process.name: answer for process, answer in zip(listed, answers, strict=True)}


async def routes_complete(ledger: LedgerClient, relays: int, model_nodes: int) -> bool:
    """False also while the ledger does not answer."""
    try:
        return is_complete(await ledger.routes(), relays, model_nodes)
    except PlanetServeError:
        return False


async def observe(state: State, network: Network | None) -> tuple[bool, dict[str, Health]]:
    """Ask every process and the ledger now: whether all is ready, and how each process is."""
    async with HealthReader() as reader:
        healths = await reader.read_all(state.processes)
    complete = False
    if network is not None:
        async with LedgerClient(network) as ledger:
            complete = await routes_complete(ledger, state.relays, state.model_nodes)
    return complete and all(health.healthy for health in healths.values()), healths


def status_document(state: State, ready: bool, healths: Mapping[str, Health]) -> dict[str, Any]:
    """What `ps-localnet status --json` prints."""
    return {
        "ready": ready,
        "processes": [
            {
                "name": process.name,
                "role": process.role,
                "pid": process.process.pid if process.process else None,
                "healthy": healths[process.name].healthy,
                "addresses": dict(process.addresses),
                "log": process.log,
            }
            for process in state.processes
        ],
    }


def _ending(process: ProcessState) -> str:
    if process.exit_code is None:
        return "it is not running"
    if process.exit_code < 0:
        return f"it was ended by signal {-process.exit_code}"
    return f"it ended with code {process.exit_code}"

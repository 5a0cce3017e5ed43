"""Requests while relays die and return: how many are answered whole.

Each minute 30 % of the relays are killed, one after the other at equal gaps, and start again on
their ports a few seconds later; the route set lists them all the while. A question that no node
took is asked again, as the client library does it; one that was cut off is not.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure
from bench.overlay_network import OverlayNetwork
from bench.overlay_node import FileLedger
from overlay.client import OverlayClient
from overlay.directory import Directory
from planetserve.errors import (
    AnswerCutShort,
    NodeUnreachable,
    PathsUnavailable,
    PlanetServeError,
    RemoteProtocolError,
)
from planetserve.records import NodeRecord

RELAYS = 20
REQUESTS = 1_000
CLIENTS = 4
REPLACED_A_MINUTE = 0.3
DOWN_S = 5.0
PAYLOAD_BYTES = 8_000
MAX_ATTEMPTS = 4
MIN_S = 180.0
"""The requests are spread over so long, so that half of all relays and more have died meanwhile."""


@dataclass
class Outcome:
    whole: int = 0
    again: int = 0
    """Questions that were asked again."""
    failures: list[str] = field(default_factory=list)
    killed: int = 0


def figures(requests: int = REQUESTS, seconds: float = MIN_S) -> tuple[Outcome, list[Figure]]:
    outcome = Outcome()
    with (
        tempfile.TemporaryDirectory(prefix="ps-bench-") as folder,
        OverlayNetwork(Path(folder), RELAYS) as network,
    ):
        asyncio.run(_measure(network, outcome, requests, seconds))
    share = outcome.whole / requests
    return outcome, [
        Figure("answered whole under churn", share, "of the requests", limit=0.999, at_least=True),
        Figure("relays killed meanwhile", outcome.killed, "kills"),
        Figure("requests asked again before an answer began", outcome.again, "requests"),
    ]


async def _measure(
    network: OverlayNetwork, outcome: Outcome, requests: int, seconds: float
) -> None:
    directory = Directory(FileLedger(network.folder))
    routes = await directory.refresh()
    (target,) = routes.model_nodes()
    clients = [OverlayClient(directory) for _ in range(CLIENTS)]
    stop = asyncio.Event()
    killer = asyncio.create_task(_churn(network, outcome, stop))
    try:
        share = requests // CLIENTS
        await asyncio.gather(
            *(_ask_all(client, target, share, seconds, outcome) for client in clients)
        )
    finally:
        stop.set()
        await killer
        for client in clients:
            await client.close()


async def _ask_all(
    client: OverlayClient, target: NodeRecord, count: int, seconds: float, outcome: Outcome
) -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    for number in range(count):
        await asyncio.sleep(max(0.0, started_s + number * seconds / count - loop.time()))
        payload = os.urandom(PAYLOAD_BYTES)
        for attempt in range(MAX_ATTEMPTS):
            outcome.again += attempt > 0
            try:
                answer = b"".join([data async for data in client.request(target, payload)])
            except (NodeUnreachable, PathsUnavailable) as error:
                failure: PlanetServeError | None = error
                continue
            except (AnswerCutShort, RemoteProtocolError) as error:
                failure = error
                break
            failure = None
            outcome.whole += answer == payload
            break
        if failure is not None:
            outcome.failures.append(f"{type(failure).__name__}: {failure}")


async def _churn(network: OverlayNetwork, outcome: Outcome, stop: asyncio.Event) -> None:
    draw = random.Random(1)
    gap_s = 60.0 / (REPLACED_A_MINUTE * RELAYS)
    while not stop.is_set():
        number = draw.randint(1, RELAYS)
        network.kill("relay", number)
        outcome.killed += 1
        await _wait(stop, DOWN_S)
        network.start("relay", number)
        await _wait(stop, gap_s - DOWN_S)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


if __name__ == "__main__":
    found, measured = figures()
    print(found)
    print(measured)

"""A relay beside the least that pyzmq can do: cells a second through three hops, what a hop adds
to the delay of a lone cell, how soon paths stand, and what thousands of them cost.

Both kinds of chain are measured in turn, several times, each with the same load; figures are
medians.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, Report
from bench.overlay_node import FileLedger, identity_of
from bench.relay_chain import Hop, Load, chain
from bench.relay_paths import (
    READY_TIMEOUT_S,
    PathSender,
    RandomSender,
    establish,
    middle_paths,
    new_path,
)
from bench.relay_paths import Path as OnionPath
from overlay.client import OverlayClient, PathSettings
from overlay.core.wire import FRAME_BYTES, ID_BYTES, backward_id
from overlay.directory import Directory
from planetserve.keys import Identity

ROUNDS = 9
"""Of bare and of our chains in turn: from one to the next either differs by a fifth."""
MANY_ROUNDS = 3
HOPS = 3
PATHS = 10
WARM_UP_CELLS = 1_000
CELLS = 20_000
LONE_CELLS = 400
IDLE_PATHS = 10_000
SOURCES = 20
"""Addresses that paths come from: one may not open thousands in a second."""
RELAYS = 12
PATH_SETS = 20
RATIO_LIMIT = 0.7
ADDED_LIMIT_MS = 0.3
SETUP_LIMIT_MS = 40.0
MEMORY_LIMIT_MIB = 100.0
MANY_LIMIT = 0.9
ARRIVAL_TIMEOUT_S = 10.0
RETRY_S = 0.2

SINK = identity_of("model", 1)
NEXT_RELAY = identity_of("relay", 99)


@dataclass(frozen=True, slots=True)
class Measured:
    """A chain of three hops: cells a second, and what one hop adds to a lone cell's delay."""

    cells_per_s: float
    added_ms: float


def run() -> Report:
    bare, ours = [], []
    for _ in range(ROUNDS):
        bare.append(_bare())
        ours.append(_ours())
    return Report(
        "relay",
        (
            Figure(
                "cells through three hops",
                _median(m.cells_per_s for m in ours),
                "/s",
                limit=RATIO_LIMIT,
                peer=_median(m.cells_per_s for m in bare),
                at_least=True,
            ),
            Figure("a hop adds, bare, p50", _median(m.added_ms for m in bare), "ms"),
            Figure(
                "a hop adds, p50", _median(m.added_ms for m in ours), "ms", limit=ADDED_LIMIT_MS
            ),
            *_set_up_figures(),
            *_many_figures(),
        ),
    )


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


def _bare() -> Measured:
    with _three_hops("bare") as (load, hops):
        frames_a_path = (WARM_UP_CELLS + CELLS) // PATHS + LONE_CELLS
        sender = RandomSender(load.dial(hops[0]), PATHS, frames_a_path)
        added_ms = _added_ms(load, lambda: _next(sender))
        return Measured(load.run(sender, WARM_UP_CELLS, CELLS), added_ms)


def _ours() -> Measured:
    with _three_hops("ours") as (load, hops):
        paths = _paths(load, hops)
        sender = PathSender(paths)
        added_ms = _added_ms(load, lambda: _lone_path_cell(load, sender, paths[0]))
        return Measured(load.run(sender, WARM_UP_CELLS, CELLS), added_ms)


@contextmanager
def _three_hops(kind: str) -> Iterator[tuple[Load, list[Hop]]]:
    with (
        _load(SINK) as (load, folder),
        chain(kind, folder, range(1, HOPS + 1), SINK, load.port) as hops,
    ):
        yield load, hops


@contextmanager
def _load(sink: Identity) -> Iterator[tuple[Load, Path]]:
    """A load and a folder for a chain."""
    load = Load(sink)
    try:
        with tempfile.TemporaryDirectory(prefix="ps-bench-") as folder:
            yield load, Path(folder)
    finally:
        load.close()


def _paths(load: Load, hops: list[Hop]) -> list[OnionPath]:
    """Open paths through all hops, with cells for a whole measurement."""
    socket = load.dial(hops[0])
    paths = [establish(load, socket, [hop.identity for hop in hops]) for _ in range(PATHS)]
    for path in paths:
        path.prepare(SINK.id, (WARM_UP_CELLS + CELLS) // PATHS + LONE_CELLS)
    return paths


def _next(sender: PathSender) -> tuple[int, bytes]:
    item = sender.next()
    assert item is not None, "too few frames were made"
    return item


def _lone_path_cell(load: Load, sender: PathSender, path: OnionPath) -> tuple[int, bytes]:
    load.hear(sender)
    assert path.credits, "a lone cell waits for credit"
    path.credits -= 1
    return path.socket, path.cells.popleft()


def _added_ms(load: Load, item: Callable[[], tuple[int, bytes]]) -> float:
    """What one hop adds to the delay of a cell that is alone, against no hop at all."""
    direct = load.dial(Hop(SINK, load.port, 0))
    beside = os.urandom(FRAME_BYTES)
    through_ms = _delay_ms(load, item)
    direct_ms = _delay_ms(load, lambda: (direct, beside))
    return (through_ms - direct_ms) / HOPS


def _delay_ms(load: Load, item: Callable[[], tuple[int, bytes]]) -> float:
    delays_ms = []
    for _ in range(LONE_CELLS):
        socket, frame = item()
        started_s = time.perf_counter()
        load.send(socket, frame)
        load.arrived(ARRIVAL_TIMEOUT_S)
        delays_ms.append((time.perf_counter() - started_s) * 1e3)
    return statistics.median(delays_ms)


class _Answers:
    """Waits until each of some paths has answered."""

    def __init__(self, paths: list[OnionPath]) -> None:
        self._waiting = {backward_id(path.link_id): path for path in paths}

    @property
    def all_here(self) -> bool:
        return not self._waiting

    def next(self) -> None:
        return None

    def heard(self, socket: int, frame: bytes) -> None:
        self._waiting.pop(frame[:ID_BYTES]).heard(frame)


def _set_up_figures() -> list[Figure]:
    """Four disjoint paths of a client that has no connection yet, over relays that mostly do."""
    taken_ms = []
    with (
        _load(SINK) as (load, folder),
        chain("ours", folder, range(1, RELAYS + 1), SINK, load.port) as hops,
    ):
        for number in range(RELAYS):  # each learns of the others
            through = [hops[(number + step) % RELAYS] for step in range(HOPS)]
            establish(load, load.dial(through[0]), [hop.identity for hop in through])
        for _ in range(PATH_SETS):
            with _load(SINK) as (client, _):
                taken_ms.append(_path_set_ms(client, random.sample(hops, RELAYS)))
        by_client_ms = asyncio.run(_client_set_ms(folder))
    return [
        Figure("four paths, by hand, median", _median(taken_ms), "ms"),
        Figure("four paths, median", _median(by_client_ms), "ms", limit=SETUP_LIMIT_MS),
        Figure("four paths, worst", max(by_client_ms), "ms"),
    ]


async def _client_set_ms(folder: Path) -> list[float]:
    """The same by the product's client, with its choice of relays, guards and timers."""
    directory = Directory(FileLedger(folder))
    await directory.refresh()
    taken_ms = []
    try:
        for _ in range(PATH_SETS):
            client = OverlayClient(directory, PathSettings(keep_ahead=False))
            started_s = time.perf_counter()
            await client.ensure_paths()
            taken_ms.append((time.perf_counter() - started_s) * 1e3)
            missing = client.settings.n - len(client.open_paths())
            await client.close()
            if missing:
                raise RuntimeError(f"{missing} of a client's paths did not open in time")
    finally:
        await directory.close()
    return taken_ms


def _path_set_ms(client: Load, hops: list[Hop]) -> float:
    started_s = time.perf_counter()
    paths = []
    for start in range(0, RELAYS, HOPS):
        through = hops[start : start + HOPS]
        socket = client.dial(through[0])
        path = new_path(socket, [hop.identity for hop in through])
        client.send(socket, path.setup)
        paths.append(path)
    answers = _Answers(paths)
    while not answers.all_here:
        if not client.hear(answers):
            client.wait(ARRIVAL_TIMEOUT_S)
    return (time.perf_counter() - started_s) * 1e3


def _many_figures() -> list[Figure]:
    """One relay in the middle of ten paths, and of ten thousand, all of which carry cells."""
    few_per_s, many_per_s, resident_mib = [], [], []
    for _ in range(MANY_ROUNDS):
        few_per_s.append(_middle(PATHS)[0])
        per_s, mib = _middle(IDLE_PATHS)
        many_per_s.append(per_s)
        resident_mib.append(mib)
    return [
        Figure(
            f"resident with {IDLE_PATHS:,} idle paths",
            statistics.median(resident_mib),
            "MiB",
            limit=MEMORY_LIMIT_MIB,
        ),
        Figure(
            f"cells through one relay over {IDLE_PATHS:,} paths, beside ten",
            statistics.median(many_per_s),
            "/s",
            limit=MANY_LIMIT,
            peer=statistics.median(few_per_s),
            at_least=True,
        ),
    ]


def _middle(count: int) -> tuple[float, float]:
    """Cells a second over `count` paths, and MiB while they were idle."""
    with (
        _load(NEXT_RELAY) as (load, folder),
        chain("ours", folder, [1], NEXT_RELAY, load.port) as (relay,),
    ):
        _until_known(load, relay)
        sockets = [load.dial(relay, f"127.0.0.{2 + source}") for source in range(SOURCES)]
        paths = middle_paths(load, sockets, relay, NEXT_RELAY, count)
        resident_mib = relay.resident_mib()
        warm_up = max(WARM_UP_CELLS, count)  # one on each path: its first cell makes its cipher
        for path in paths:
            path.prepare(NEXT_RELAY.id, -(-(warm_up + CELLS) // count))
        return load.run(PathSender(paths), warm_up, CELLS), resident_mib


def _until_known(load: Load, relay: Hop) -> None:
    """Set-ups reach the sink once the relay has read the route set."""
    socket = load.dial(relay)
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        load.send(socket, new_path(socket, (relay.identity, NEXT_RELAY)).setup)
        if load.came_back(socket, RETRY_S) is None:
            load.arrived(ARRIVAL_TIMEOUT_S)
            return
    raise RuntimeError("the relay did not learn of its neighbour")

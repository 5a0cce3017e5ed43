"""Committed transactions per second and their latency: four validators with this ledger beside
four with CometBFT's kvstore example over the same socket protocol.

Both sides have the same config.toml, the same validators and the same load tool
(`bench.ledger_load`) on the same machine, and take turns: kvstore first in one round, this ledger
first in the next. The kvstore's transactions are its own KEY=VALUE of some twenty bytes, without
signatures, which it accepts unseen; this ledger's are signed reveals of some 380 bytes. Their
commits are sent before, unmeasured, in an epoch whose commit window is long enough; clients have
one key each.

Saturation: sixteen clients in a closed loop keep both cores busy. The rate counts transactions
with code 0 in the blocks between the first and the last block seen during the load, over the time
between those two; the latency runs from the posting of a transaction to the sight of its block's
height, in the same way on both sides.
"""

from __future__ import annotations

import datetime
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure
from bench.ledger_load import Load, Request, make_request, run_load
from bench.ledger_network import Network, kvstore_network, planetserve_network
from bench.ledger_transactions import (
    CLIENTS,
    Cast,
    kvstore_pairs,
    lanes_to_queues,
    make_cast,
    make_document,
    registrations,
    scores,
)

NODES = 1_200
DURATION_S = 20.0
SETTLE_S = 1.0
COMMIT_BLOCKS = 75
EPOCH_BLOCKS = 100_000
SETUP_TIMEOUT_S = 120.0
KVSTORE_PAIRS = 80_000
ROUNDS = (("kvstore", "ledger"), ("ledger", "kvstore"))

Queues = list[list[Request]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: committed transactions and the seconds they took, latencies in seconds, block
    intervals in seconds, and processor seconds a transaction of the apps, of CometBFT and of the
    load tool."""

    committed: int
    seconds: float
    latencies_s: tuple[float, ...]
    intervals_s: tuple[float, ...]
    app_s: float
    cometbft_s: float
    tool_s: float


@dataclass(frozen=True, slots=True)
class Reveals:
    """The ledger's side, signed once for all rounds."""

    cast: Cast
    registrations: Queues
    commits: Queues
    reveals: Queues


def throughput_figures() -> list[Figure]:
    prepared = _prepare()
    pairs = [[make_request(raw) for raw in queue] for queue in kvstore_pairs(KVSTORE_PAIRS)]
    runs: dict[str, list[Measured]] = {"kvstore": [], "ledger": []}
    for order in ROUNDS:
        for side in order:
            with tempfile.TemporaryDirectory(prefix="ps-bench-") as folder:
                measured = (
                    _kvstore(Path(folder), prepared.cast, pairs)
                    if side == "kvstore"
                    else _ledger(Path(folder), prepared)
                )
            runs[side].append(measured)
            rate = measured.committed / measured.seconds
            print(f"ledger: {side} {rate:.0f} transactions/s", file=sys.stderr, flush=True)
    return _figures(runs["ledger"], runs["kvstore"])


def _figures(ours: Sequence[Measured], theirs: Sequence[Measured]) -> list[Figure]:
    def beside(
        name: str, unit: str, values: tuple[float, float], limit: float | None = None
    ) -> Figure:
        return Figure(name, values[0], unit, limit=limit, peer=values[1])

    rates = [
        sum(run.committed for run in side) / sum(run.seconds for run in side)
        for side in (ours, theirs)
    ]
    latencies = [
        statistics.quantiles([each for run in side for each in run.latencies_s], n=100)
        for side in (ours, theirs)
    ]
    intervals = [
        statistics.mean([each for run in side for each in run.intervals_s])
        for side in (ours, theirs)
    ]
    costs = [
        [statistics.mean(getattr(run, name) for run in side) * 1e3 for side in (ours, theirs)]
        for name in ("app_s", "cometbft_s", "tool_s")
    ]
    (p50, their_p50), (p99, their_p99) = [
        (latencies[0][place], latencies[1][place]) for place in (49, 98)
    ]
    return [
        Figure(
            "signed reveals committed", rates[0], "tx/s", limit=0.8, peer=rates[1], at_least=True
        ),
        beside("commit latency, p50", "s", (p50, their_p50), 1.2),
        beside("commit latency, p99", "s", (p99, their_p99), 1.2),
        beside("block interval", "s", (intervals[0], intervals[1])),
        beside("processor time a transaction, four apps", "ms", (costs[0][0], costs[0][1])),
        beside("processor time a transaction, four CometBFT", "ms", (costs[1][0], costs[1][1])),
        beside("processor time a transaction, load tool", "ms", (costs[2][0], costs[2][1])),
    ]


def _prepare() -> Reveals:
    cast = make_cast(NODES)
    lanes = [scores(cast, prober) for prober in cast.probers]
    first = [make_request(raw) for raw in registrations(cast)]
    return Reveals(
        cast,
        [first[client::CLIENTS] for client in range(CLIENTS)],
        _requests([commits for commits, _ in lanes]),
        _requests([reveals for _, reveals in lanes]),
    )


def _requests(lanes: Sequence[Sequence[bytes]]) -> Queues:
    return [[make_request(raw) for raw in queue] for queue in lanes_to_queues(lanes)]


def _document(cast: Cast) -> str:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return make_document(cast, now, {"epoch_blocks": EPOCH_BLOCKS, "commit_blocks": COMMIT_BLOCKS})


def _kvstore(folder: Path, cast: Cast, pairs: Queues) -> Measured:
    with kvstore_network(folder, _document(cast), cast.validators) as network:
        return _measure(network, pairs)


def _ledger(folder: Path, prepared: Reveals) -> Measured:
    cast = prepared.cast
    with planetserve_network(folder, _document(cast), cast.validators) as network:
        for name, queues in (("nodes", prepared.registrations), ("commits", prepared.commits)):
            load = run_load(queues, network.addresses, SETUP_TIMEOUT_S)
            if load.unsent:
                raise RuntimeError(f"{load.unsent} {name} were not taken in time: {load.refused}")
        # The window opens with block COMMIT_BLOCKS + 1.
        network.wait_for_height(COMMIT_BLOCKS, SETUP_TIMEOUT_S)
        return _measure(network, prepared.reveals)


def _measure(network: Network, queues: Queues) -> Measured:
    time.sleep(SETTLE_S)
    before, tool_before_s = network.used_s(), time.process_time()
    load = run_load(queues, network.addresses, DURATION_S)
    after, tool_s = network.used_s(), time.process_time() - tool_before_s
    network.check()
    return _measured(
        network,
        load,
        {role: after[role] - before[role] for role in after},
        tool_s,
    )


def _measured(network: Network, load: Load, cpu_s: dict[str, float], tool_s: float) -> Measured:
    during = sorted(height for height, seen_s in load.seen_s.items() if seen_s <= load.ended_s)
    if len(during) < 3:
        raise RuntimeError(f"only {len(during)} blocks came during the load: {load.refused}")
    first, last = during[0], during[-1]
    committed = everything = 0
    latencies_s = []
    for height in range(first, max(load.seen_s) + 1):
        block = network.call(f"block?height={height}")["block"]["data"]["txs"] or []
        results = network.call(f"block_results?height={height}")["txs_results"] or []
        for key, result in zip(block, results, strict=True):
            sent_s = load.sent_s.get(key)
            if result["code"] != 0 or sent_s is None:
                continue
            everything += 1
            latencies_s.append(load.seen_s[height] - sent_s)
            committed += first < height <= last
    seen_s = [load.seen_s[height] for height in during]
    return Measured(
        committed,
        seen_s[-1] - seen_s[0],
        tuple(latencies_s),
        tuple(after_s - before_s for before_s, after_s in itertools.pairwise(seen_s)),
        cpu_s["app"] / everything,
        cpu_s["cometbft"] / everything,
        tool_s / everything,
    )

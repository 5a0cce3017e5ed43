"""Our nodes, each an entry, beside routers of one entry each, before eight engines with prefix
caches (`bench.routing_engine`), on conversations with shared system prompts (`bench.routing_load`).

Three loads: about a quarter, 60 and 90 % of what round robin could take. Then the middle one again
with two engines restarted half way.
"""

from __future__ import annotations

import asyncio
import os
import sys

from bench.figures import Figure, Report
from bench.routing_run import Outcome, converse
from bench.routing_systems import OURS, OURS_ONE, SGLANG, SMG, SYSTEMS, install_routers, running

RATES_PER_S = {"light": 8.0, "medium": 19.0, "heavy": 28.0}
SECONDS = float(os.environ.get("PS_BENCH_ROUTING_S", "60"))
SEED = 1
PEERS = (SGLANG.name, SMG.name)
HIT_MARGIN = 0.02


def run() -> Report:
    install_routers()
    figures: list[Figure] = []
    for load, rate_per_s in RATES_PER_S.items():
        figures += _load(load, rate_per_s, restart=False)
    figures += _load("restarted", RATES_PER_S["medium"], restart=True)
    return Report("routing", tuple(figures))


def _load(load: str, rate_per_s: float, *, restart: bool) -> list[Figure]:
    outcomes: dict[str, Outcome] = {}
    for system in SYSTEMS:
        with running(system) as started:
            outcome = asyncio.run(converse(started, rate_per_s, SECONDS, SEED, restart=restart))
        outcomes[system.name] = outcome
        print(f"{load}, {system.name}: {outcome}", file=sys.stderr, flush=True)
    best_hit = max(outcomes[name].hit for name in PEERS)
    best_mean_ms = min(outcomes[name].mean_ms for name in PEERS)
    best_p99_ms = min(outcomes[name].p99_ms for name in PEERS)
    figures = []
    for name in (OURS.name, OURS_ONE.name):
        ours = outcomes[name]
        at_least = best_hit - HIT_MARGIN if load == "light" else None
        figures += [
            Figure(f"{load}, {name}: hits", ours.hit, "of the tokens", at_least, at_least=True),
            Figure(f"{load}, {name}: mean", ours.mean_ms, "ms", 1.0, best_mean_ms),
            Figure(f"{load}, {name}: p99", ours.p99_ms, "ms", 1.0, best_p99_ms),
            Figure(f"{load}, {name}: answers not whole", ours.failed, "answers", 0),
        ]
    for name, outcome in outcomes.items():
        if name not in (OURS.name, OURS_ONE.name):
            figures += [
                Figure(f"{load}, {name}: hits", outcome.hit, "of the tokens"),
                Figure(f"{load}, {name}: mean", outcome.mean_ms, "ms"),
                Figure(f"{load}, {name}: p99", outcome.p99_ms, "ms"),
            ]
    return figures

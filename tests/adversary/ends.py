"""How often relays of one party are both ends of a path, so that they can match what goes in with
what comes out by its timing.

    python -m tests.adversary.ends [CLIENTS]

Clients choose with the product's own rules, once with guards that they keep and once with fresh
ones for each set; a share f of the relays is the party's. Both first and last relay of a path are
theirs with chance f^2, of at least one of n paths with 1 - (1 - f^2)^n, of n paths rebuilt r times
with 1 - (1 - f^2)^(n (r + 1)). A client that keeps its guards is safe as long as these are honest:
its chance is at most 1 - (1 - f)^n.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from overlay.core.choice import Hops, Rules, SetUse, choose_set_hops
from overlay.core.guards import GuardList, GuardRules, maintained
from planetserve.records import NodeRecord
from tests.overlay.relays import relay

HEIGHT, DAY = 1_000_000, 20_000
RELAYS = 200
REBUILDS = 30
FRACTIONS = (0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Row:
    """Shares of the clients that had a path between two relays of the party: in their first set,
    and in one of all their sets."""

    f: float
    first_set: float
    fresh: float
    kept: float


def relays() -> list[NodeRecord]:
    return [relay(n, host=f"{20 + n % 200}.{n // 200 % 250}.1.1") for n in range(1, RELAYS + 1)]


def path_set(nodes: Sequence[NodeRecord], guards: GuardList, rng: Random) -> list[Hops]:
    chosen: list[Hops] = []
    for slot in range(Rules().n):
        others = tuple(item for hops in chosen for item in hops.relays)
        hops = choose_set_hops(
            nodes, HEIGHT, guards, SetUse(slot, others), Rules(), rng.randrange, 0.0
        )
        assert hops is not None
        chosen.append(hops)
    return chosen


def sample(nodes: Sequence[NodeRecord], rng: Random) -> GuardList:
    return maintained(GuardList(), nodes, HEIGHT, DAY, 0.0, GuardRules(), rng.randrange)


def measure(clients: int, seed: int) -> list[Row]:
    """A row for each of `FRACTIONS`, of the same sets; who is of the party is drawn for each client
    anew."""
    rng, nodes = Random(seed), relays()
    counts = {f: [0, 0, 0] for f in FRACTIONS}
    for _ in range(clients):
        guards = sample(nodes, rng)
        kept = [path_set(nodes, guards, rng) for _ in range(REBUILDS + 1)]
        fresh = [path_set(nodes, sample(nodes, rng), rng) for _ in range(REBUILDS + 1)]
        for f, tally in counts.items():
            theirs: set[bytes] = {node.id for node in rng.sample(nodes, round(f * RELAYS))}
            met = [_both_ends(paths, theirs) for paths in fresh]
            tally[0] += met[0]
            tally[1] += any(met)
            tally[2] += any(_both_ends(paths, theirs) for paths in kept)
    return [Row(f, *(count / clients for count in tally)) for f, tally in counts.items()]


def _both_ends(paths: Sequence[Hops], theirs: set[bytes]) -> bool:
    return any(hops.ids[0] in theirs and hops.ids[-1] in theirs for hops in paths)


def once(f: float) -> float:
    return 1 - (1 - f * f) ** Rules().n


def rebuilt(f: float) -> float:
    return 1 - (1 - f * f) ** (Rules().n * (REBUILDS + 1))


def with_guards(f: float) -> float:
    return 1 - (1 - f) ** Rules().n


def table(rows: Sequence[Row]) -> str:
    lines = [
        f"        one set           {REBUILDS} rebuilds, fresh guards   the same, guards kept",
        "    f   measured formula  measured formula            measured  at most",
    ]
    lines += [
        f"  {r.f:.2f}   {r.first_set:.3f}    {once(r.f):.3f}    {r.fresh:.3f}    {rebuilt(r.f):.3f}"
        f"              {r.kept:.3f}     {with_guards(r.f):.3f}"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    print(f"{count} clients, {RELAYS} relays, seed 1")
    print(table(measure(count, seed=1)))

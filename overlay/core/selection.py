"""Which relays a client builds its paths from.

The paths of a client share no relay, so that one relay sees one clove at most. First hops are
sticky: while they stay in the route set and answer, rebuilding uses them again, since every
fresh first hop is another chance to meet one that watches (Tor's guards). A path takes relays of
different operators where the route set has enough of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from planetserve.records import NodeRecord

T = TypeVar("T")


class Chooser(Protocol):
    """What is needed of `random.Random`; the shell's draws from the system's randomness."""

    def choice(self, seq: Sequence[T], /) -> T: ...


def choose_hops(
    relays: Sequence[NodeRecord],
    hops: int,
    avoid: Collection[bytes],
    preferred_first: Sequence[bytes],
    rng: Chooser,
) -> list[NodeRecord] | None:
    """Relays for one path, nearest first; None when too few are left.

    `avoid` holds node ids that other paths use or that failed lately; `preferred_first` are
    first hops used before, best first.
    """
    free = [relay for relay in relays if relay.id not in avoid]
    if len(free) < hops:
        return None
    by_id: dict[bytes, NodeRecord] = {relay.id: relay for relay in free}
    first = next((by_id[node] for node in preferred_first if node in by_id), None)
    chosen = [first or rng.choice(free)]
    while len(chosen) < hops:
        rest = [relay for relay in free if relay not in chosen]
        operators = {relay.operator for relay in chosen if relay.operator}
        diverse = [relay for relay in rest if relay.operator not in operators]
        chosen.append(rng.choice(diverse or rest))
    return chosen

"""Which relays a client builds the paths of a set from.

- Relays are those of the route set that are trusted as relays, in the state that the light client
  verified; the caller passes them.
- No relay is twice in a set, none is the client's own or the target of its questions. The guards
  of the other slots, those that could not be connected to, and relays that were blamed under this
  guard, are taken only where the path cannot be had without them, the blamed ones first.
- They are registered since 600 blocks (`seasoned` says what holds in a young network).
- One operator at most once a path, then at most once a set; one network likewise.
- The last relay shares neither operator nor network with the target, before all other rules.
- Among those with the fewest conflicts, compared in the order of `Conflicts`, uniformly; so each
  rule gives way only where nothing else is left, and what gave way is reported.
- The first hop of slot i is the i-th guard in line (`guards`), or another where that one is on
  another path of the set; one that waits after a failure only where none else is free.
- Relays have equal weight: the ledger measures no bandwidth, and what a relay claims of itself
  would be a way to draw paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overlay.core.diversity import (
    NOBODY,
    Conflicts,
    conflicts,
    kin_of,
    least_in_conflict,
    seasoned,
    traits_of,
)
from overlay.core.draw import Draw
from overlay.core.guards import GuardList
from planetserve.records import NodeRecord


@dataclass(frozen=True, slots=True)
class Rules:
    """`n` paths of `hops` relays each, `k` of which carry a message (paper, section 4)."""

    n: int = 4
    k: int = 3
    hops: int = 3
    min_age_blocks: int = 600


@dataclass(frozen=True, slots=True)
class SetUse:
    """What a path for `slot` has to keep away from: the relays of the `others` of its set, the
    client's `own` node id if it relays itself, the `target` if it is known yet."""

    slot: int
    others: tuple[NodeRecord, ...] = ()
    own: bytes | None = None
    target: NodeRecord | None = None


@dataclass(frozen=True, slots=True)
class Hops:
    """The relays of a path, nearest first, and the conflicts that could not be avoided."""

    relays: tuple[NodeRecord, ...]
    relaxed: Conflicts

    @property
    def ids(self) -> tuple[bytes, ...]:
        return tuple(relay.id for relay in self.relays)


def choose_set_hops(
    relays: Sequence[NodeRecord],
    height: int,
    guards: GuardList,
    used: SetUse,
    rules: Rules,
    draw: Draw,
    now_s: float,
) -> Hops | None:
    """Relays for one path of a set; None when too few are left, or no guard."""
    by_id: dict[bytes, NodeRecord] = {relay.id: relay for relay in relays}
    barred = {relay.id for relay in used.others} | {used.own}
    if used.target is not None:
        barred.add(used.target.id)
    line = [node for node in guards.line_up(now_s) if node in by_id]
    ready = guards.ready(now_s)
    guard = _guard(line, ready, used.slot, barred)
    if guard is None:
        return None
    barred.add(guard)
    reserved = frozenset((*line[: rules.n], *(node for node in line if node not in ready)))
    old = seasoned(relays, height, rules.min_age_blocks, 3 * rules.n * rules.hops)
    for without in (reserved | guards.shunned(guard, now_s), reserved, frozenset()):
        free = [relay for relay in old if relay.id not in barred and relay.id not in without]
        if len(free) >= rules.hops - 1:
            break
    else:
        return None
    # The guards of the slots that have no path yet count as if they had one.
    kept = [by_id[node] for node in line[: rules.n] if node != guard]
    rest = kin_of((*kept, *used.others))
    target = kin_of((used.target,)) if used.target is not None else NOBODY
    chosen = [by_id[guard]]
    relaxed = conflicts(
        traits_of(chosen[0]), rest=rest, target=target if rules.hops == 1 else NOBODY
    )
    # The last relay is chosen before those between, while most are still free for its place.
    for position in range(rules.hops - 1, 0, -1):
        path = kin_of(chosen)
        aim = target if position == rules.hops - 1 else NOBODY
        relay, best = least_in_conflict(free, path, rest, aim, draw)
        free.remove(relay)
        chosen.append(relay)
        relaxed = relaxed.plus(best)
    return Hops((chosen[0], *reversed(chosen[1:])), relaxed)


def _guard(
    line: Sequence[bytes], ready: frozenset[bytes], slot: int, barred: set[bytes | None]
) -> bytes | None:
    """The guard in line for `slot`; where another path of the set has it, the next free one, and
    one that waits after a failure only where none is ready."""
    free = [node for node in line if node not in barred]
    own = line[slot : slot + 1]
    rank = {node: (node not in ready, node not in own, node in line[:slot]) for node in free}
    return min(free, key=lambda node: rank[node], default=None)

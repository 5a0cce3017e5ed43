"""Which node of the group serves a request, and why.

1. **Gates**: members that the ledger trusts, that answer, whose breaker is closed and that have not
   failed this request already. Nothing else makes up for a gate.
2. **Affinity**: the node that served the conversation's last turn, unless it costs more than
   `SPILL_FACTOR` times the best and `SPILL_MS` beyond it: then it is overloaded, and its cache is
   not worth the wait.
3. **Cost** in milliseconds (`modelnode.core.cost`). Among those within `TIE_SHARE` and `TIE_MS` of
   the best, two are drawn by the prompt's own hash, and the cheaper serves (power of two choices).
   So entries that have not yet heard of each other's choices send one prefix to one place, and
   different prefixes to different ones.

As soon as queueing behind a prefix costs more than computing it again, the least loaded node with
the longest prefix wins by its cost alone and is registered as one more holder: that is how load
spills, and how hot prefixes replicate.

In a group of more than `MAX_WEIGHED` not all are weighed, but those that hold most of the prompt,
the preferred one and some at random: of d random nodes the best is as good as any in a large group
(Mitzenmacher, 2001).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nlargest
from typing import NamedTuple

from modelnode.core.claims import Claims
from modelnode.core.cost import Cost, cost_of
from modelnode.core.load import Loads, Member
from planetserve.keys import NodeId

TIE_MS = 2.0
TIE_SHARE = 0.02
SPILL_FACTOR = 1.25
SPILL_MS = 20.0
MAX_WEIGHED = 32
HOLDERS_WEIGHED = 12

PREFERRED = "affinity"
CHEAPEST = "cheapest"
TIE = "near tie"
ALONE = "no member can be asked"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a choice depends on of a request. `cached_tokens` is what each node is believed to
    hold of the prompt; `key` stands for the prompt's prefix."""

    prompt_tokens: int
    max_tokens: int
    key: bytes = b""
    cached_tokens: Mapping[NodeId, int] = field(default_factory=dict)
    prefer: NodeId | None = None
    excluded: Collection[NodeId] = ()


class Candidate(NamedTuple):
    """A node that was weighed, and how many tokens of the prompt it was believed to hold."""

    node: NodeId
    cost: Cost
    claimed_tokens: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The node, None when no one is left; the word for why; who was weighed."""

    node: NodeId | None
    reason: str
    candidates: tuple[Candidate, ...] = ()

    @property
    def chosen(self) -> Candidate | None:
        """What the node was weighed at; None when it was not weighed."""
        return next((c for c in self.candidates if c.node == self.node), None)


Usable = Callable[[NodeId, Member], bool]


def choose(
    members: Loads,
    claims: Claims,
    ask: Ask,
    own: NodeId,
    now_s: float,
    usable: Usable,
    draw: Callable[[int], int],
) -> Choice:
    """`draw(n)` gives a random integer from 0 to n - 1.

    An entry that is asked for by name serves even while it is loaded or not trusted: its engine
    says when it is full, and probes must reach it.
    """
    if ask.prefer == own and own not in ask.excluded:
        return Choice(own, PREFERRED)
    candidates = tuple(
        _weigh(node, member, claims, ask, now_s)
        for node, member in _shortlist(members, ask, draw)
        if node not in ask.excluded and usable(node, member)
    )
    if not candidates:
        return Choice(None if own in ask.excluded else own, ALONE)
    return _best(candidates, ask)


def _best(candidates: tuple[Candidate, ...], ask: Ask) -> Choice:
    totals_ms = [candidate.cost.total_ms for candidate in candidates]
    best_ms = min(totals_ms)
    priced = list(zip(totals_ms, candidates, strict=True))
    for total_ms, candidate in priced:
        if candidate.node == ask.prefer and not _spills(total_ms, best_ms):
            return Choice(candidate.node, PREFERRED, candidates)
    limit_ms = best_ms * (1 + TIE_SHARE) + TIE_MS
    near = [(total_ms, candidate) for total_ms, candidate in priced if total_ms <= limit_ms]
    if len(near) == 1:
        return Choice(near[0][1].node, CHEAPEST, candidates)
    first, second = sorted(near, key=lambda pair: _rank(ask.key, pair[1].node))[:2]
    cheaper = second if second[0] < first[0] - TIE_MS else first
    return Choice(cheaper[1].node, TIE, candidates)


def _weigh(node: NodeId, member: Member, claims: Claims, ask: Ask, now_s: float) -> Candidate:
    claimed = ask.cached_tokens.get(node, 0)
    cached = int(claimed * claims.weight(node)) if claimed else 0
    surprise_ms = claims.surprise_ms(node, now_s)
    cost = cost_of(member, ask.prompt_tokens, cached, ask.max_tokens, now_s, surprise_ms)
    return Candidate(node, cost, claimed)


def _shortlist(
    members: Loads, ask: Ask, draw: Callable[[int], int]
) -> Iterable[tuple[NodeId, Member]]:
    if len(members) <= MAX_WEIGHED:
        return members.items()
    nodes = members.ordered
    holders = nlargest(HOLDERS_WEIGHED, ask.cached_tokens, key=ask.cached_tokens.__getitem__)
    drawn = [nodes[draw(len(nodes))] for _ in range(MAX_WEIGHED - HOLDERS_WEIGHED - 1)]
    names = dict.fromkeys([*holders, *([ask.prefer] if ask.prefer else []), *drawn])
    return [(node, member) for node in names if (member := members.get(node)) is not None]


def _spills(cost_ms: float, best_ms: float) -> bool:
    return cost_ms > best_ms * SPILL_FACTOR and cost_ms > best_ms + SPILL_MS


def _rank(key: bytes, node: NodeId) -> bytes:
    """Highest-random-weight hashing: every entry orders the nodes alike for a prompt."""
    return blake2b(key + node, digest_size=8).digest()

"""What became of what nodes promised: cached prefixes that were not there, and answers that began
later than a node's words made likely.

A node is weighed by both. One that claims prefixes which it does not serve from its cache has its
matches discounted; if it also lies about `cached_tokens`, its first tokens come later than the cost
said, and so does one that understates its queue: that is its surprise, in milliseconds, which is
added to its cost and fades with time, so that a node that mends its ways is tried again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planetserve.keys import NodeId

TRUTH_SHARE = 0.1
"""Of the newest claim in a node's weight."""
SURPRISE_SHARE = 0.2
SURPRISE_HALF_LIFE_S = 10.0
MAX_SURPRISE_MS = 10_000.0
TOLERATED_MS = 5.0
"""Later than predicted by less is no surprise: the loop and the wire take that."""


@dataclass(slots=True)
class _Record:
    weight: float = 1.0
    surprise_ms: float = 0.0
    since_s: float = 0.0


class Claims:
    """Of the nodes that `keep` named last; it forgets others, so that it stays as small."""

    def __init__(self) -> None:
        self._records: dict[NodeId, _Record] = {}

    def keep(self, nodes: frozenset[NodeId]) -> None:
        self._records = {node: self._records.get(node) or _Record() for node in nodes}

    def weight(self, node: NodeId) -> float:
        """The share of claimed prefix tokens that came true lately, from 0 to 1."""
        record = self._records.get(node)
        return record.weight if record else 1.0

    def surprise_ms(self, node: NodeId, now_s: float) -> float:
        record = self._records.get(node)
        if record is None or not record.surprise_ms:
            return 0.0
        return record.surprise_ms * _faded(now_s - record.since_s)

    def saw_cached(self, node: NodeId, claimed_tokens: int, cached_tokens: int) -> None:
        """A reply of `node` said that `cached_tokens` came from its cache, of those that it was
        believed to hold."""
        record = self._records.get(node)
        if record is None or claimed_tokens <= 0:
            return
        truth = min(max(cached_tokens, 0) / claimed_tokens, 1.0)
        record.weight += TRUTH_SHARE * (truth - record.weight)

    def saw_first_token(
        self, node: NodeId, predicted_ms: float, observed_ms: float, now_s: float
    ) -> None:
        record = self._records.get(node)
        if record is None:
            return
        late_ms = observed_ms - predicted_ms - TOLERATED_MS
        late_ms = min(max(late_ms, 0.0), MAX_SURPRISE_MS)
        before_ms = self.surprise_ms(node, now_s)
        record.surprise_ms = before_ms + SURPRISE_SHARE * (late_ms - before_ms)
        record.since_s = now_s


def _faded(age_s: float) -> float:
    return math.exp2(-max(age_s, 0.0) / SURPRISE_HALF_LIFE_S)

"""How much of a peer's word is heard: a token bucket (RFC 2697 without the second bucket)."""

from __future__ import annotations

UNITS_PER_S, UNITS_BURST = 6_000.0, 24_000.0
"""A unit is about ten millionths of a second of this node's time: one peer gets six hundredths of
it, and a whole snapshot at once."""
ITEM_UNITS = 2
COSTLY_UNITS = 16
"""Of a seal to verify, or an owner to name or empty."""
CHUNKS_A_UNIT = 128
WORK_A_UNIT = 4
"""Nodes of the tree that an item passes (`HRTree.work`)."""


class Allowance:
    """`rate` units come back each second, up to `burst`."""

    def __init__(self, rate: float, burst: float, now_s: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at_s = burst, now_s

    def left(self, now_s: float) -> float:
        self._left = min(self._left + (now_s - self._at_s) * self._rate, self._burst)
        self._at_s = now_s
        return self._left

    def take(self, units: float, now_s: float) -> bool:
        """Whether there was anything left. What is taken beyond that is owed."""
        allowed = self.left(now_s) > 0
        self._left -= units
        return allowed

"""How fast an engine is, from the replies it has given: what routing counts with.

Of each reply it takes the milliseconds to the first token for the prompt tokens that were not in
the cache, and the milliseconds for the tokens after the first. A reply that waited inside the
engine or whose reader was slow looks slower than the engine is, one whose cached tokens were
counted wrongly looks faster, so both figures are quantiles of the newest replies, each reply
weighing as many tokens as it has.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

WINDOW_REPLIES = 64
MIN_PREFILL_TOKENS = 16
"""With fewer, what a request costs besides its tokens would be most of the figure."""
MIN_DECODE_TOKENS = 4
PREFILL_QUANTILE = 0.25
"""Waiting only ever adds to the time to the first token, so the fast quarter is the engine's."""
DECODE_QUANTILE = 0.5


class WeightedQuantile:
    """A quantile of the newest `window` values, by weight."""

    def __init__(self, quantile: float, window: int) -> None:
        self._quantile = quantile
        self._newest: deque[tuple[float, int]] = deque()
        self._sorted: list[tuple[float, int]] = []
        self._window = window
        self._total = 0

    def add(self, value: float, weight: int) -> None:
        if len(self._newest) == self._window:
            oldest = self._newest.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
            self._total -= oldest[1]
        self._newest.append((value, weight))
        insort(self._sorted, (value, weight))
        self._total += weight

    @property
    def value(self) -> float | None:
        """The least value at or below which the quantile of the weight lies; None without any."""
        wanted = self._quantile * self._total
        below = 0
        for value, weight in self._sorted:
            below += weight
            if below >= wanted:
                return value
        return None


class Speeds:
    """Both figures are None until a reply was long enough to tell."""

    def __init__(self) -> None:
        self._prefill = WeightedQuantile(PREFILL_QUANTILE, WINDOW_REPLIES)
        self._decode = WeightedQuantile(DECODE_QUANTILE, WINDOW_REPLIES)
        self.prefill_us_per_token: float | None = None
        self.decode_ms_per_token: float | None = None

    def prefilled(self, tokens: int, took_ms: float) -> None:
        """The first token came `took_ms` after the engine was given `tokens` prompt tokens that
        it did not have in its cache."""
        if tokens >= MIN_PREFILL_TOKENS and took_ms > 0:
            self._prefill.add(took_ms * 1000 / tokens, tokens)
            self.prefill_us_per_token = self._prefill.value

    def decoded(self, tokens: int, took_ms: float) -> None:
        """`tokens` further tokens came in the `took_ms` after the first."""
        if tokens >= MIN_DECODE_TOKENS and took_ms > 0:
            self._decode.add(took_ms / tokens, tokens)
            self.decode_ms_per_token = self._decode.value

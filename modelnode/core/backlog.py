"""How many prompt tokens wait for their prefill at this node's engine.

    begin ──first token──▶ decoding ──end──▶ gone
      └──────────────end (cancelled, failed)───▲

Engines do not say how far a prefill is; what counts is whose first token has not come yet.
"""

from __future__ import annotations


class Backlog:
    """Requests by a key of the caller's choosing."""

    def __init__(self) -> None:
        self._waiting: dict[object, int] = {}
        self.queued_tokens = 0

    def begin(self, key: object, uncached_tokens: int) -> None:
        """Raises `ValueError` when `key` waits already."""
        if key in self._waiting:
            raise ValueError("the request waits already")
        self._waiting[key] = uncached_tokens
        self.queued_tokens += uncached_tokens

    def prefilled(self, key: object) -> None:
        """Its first token came, or it ended; a second call does nothing."""
        self.queued_tokens -= self._waiting.pop(key, 0)

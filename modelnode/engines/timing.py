"""Times one reply of an engine that does not say itself how fast it was."""

from __future__ import annotations

import time
from collections.abc import Callable

from modelnode.core.speeds import Speeds
from planetserve.messages import Usage


class ReplyTimer:
    """Make it when the engine is given the request, that is after the line before it."""

    def __init__(self, speeds: Speeds, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._speeds = speeds
        self._clock_s = clock_s
        self._started_s = clock_s()
        self._first_s: float | None = None
        self._last_s = 0.0

    def text_came(self) -> None:
        self._last_s = self._clock_s()
        if self._first_s is None:
            self._first_s = self._last_s

    def ended(self, usage: Usage) -> None:
        """The reply is whole, and these are its tokens."""
        if self._first_s is None:
            return
        prefill_ms = (self._first_s - self._started_s) * 1000
        self._speeds.prefilled(usage.prompt_tokens - usage.cached_tokens, prefill_ms)
        self._speeds.decoded(usage.completion_tokens - 1, (self._last_s - self._first_s) * 1000)

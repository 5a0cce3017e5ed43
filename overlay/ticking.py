"""The clock of a node: one failure is told and does not stop it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import Counter

from planetserve.logs import get_logger

FAILED = Counter("planetserve_tick_failed", "Ticks that ended in an exception", ["clock"])

log = get_logger()


async def tick(clock: str, period_s: float, work: Callable[[], None]) -> None:
    """Call `work` each `period_s`, until cancelled."""
    while True:
        await asyncio.sleep(period_s)
        try:
            work()
        except Exception:
            FAILED.labels(clock).inc()
            log.exception("tick_failed", clock=clock)

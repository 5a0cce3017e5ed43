"""A node's clock goes on after a failure, and the failure is told."""

from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from overlay.ticking import tick


async def test_a_tick_that_fails_is_told_and_others_follow() -> None:
    calls = 0
    often = asyncio.Event()

    def work() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("a fault")
        often.set()

    with capture_logs() as logs:
        clock = asyncio.create_task(tick("test", 0.001, work))
        await asyncio.wait_for(often.wait(), 10)
        clock.cancel()
        await asyncio.gather(clock, return_exceptions=True)
    assert [entry["event"] for entry in logs] == ["tick_failed"]
    labels = {"clock": "test"}
    assert REGISTRY.get_sample_value("planetserve_tick_failed_total", labels) == 1

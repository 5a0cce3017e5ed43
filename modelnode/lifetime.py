"""The life of a node's process: load, serve until told to stop, finish what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from modelnode.dispatch import Dispatcher
from modelnode.engines.protocol import Engine
from modelnode.group import Group
from planetserve.logs import get_logger

DRAIN_S = 5.0
DRAIN_STEP_S = 0.05

log = get_logger()

EngineLoader = Callable[[], Awaitable[Engine]]


async def first(loading: Awaitable[Engine], stop: asyncio.Event) -> Engine | None:
    """The loaded engine, or None when we are told to stop before it is there."""
    engine = asyncio.ensure_future(loading)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({engine, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if engine.done():
        return engine.result()
    engine.cancel()
    await asyncio.gather(engine, return_exceptions=True)
    return None


async def until_stopped(stop: asyncio.Event, announcing: asyncio.Task[None]) -> None:
    """Returns when `stop` is set. Raises what the announcement raises."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, announcing}, return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()
        await stopping
    finally:
        stopping.cancel()


async def cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def drain(
    dispatcher: Dispatcher, group: Group, others: Callable[[], int] = lambda: 0
) -> None:
    """Take nothing new and let what runs finish, for `DRAIN_S` at most: requests of our own,
    those of peers, and what `others` counts."""
    dispatcher.server.accepting = False
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + DRAIN_S
    while dispatcher.running or others() or group.running:
        if loop.time() > deadline_s:
            log.warning("requests_cut_short", count=dispatcher.running)
            return
        await asyncio.sleep(DRAIN_STEP_S)


def engine_health(dispatcher: Dispatcher, group: Group) -> dict[str, Any]:
    """What `/health` says of a node that serves."""
    stats = dispatcher.server.stats()
    return {
        "engine_serving": stats.serving,
        "running": stats.running,
        "waiting": stats.waiting,
        "capacity": stats.capacity,
        "context_tokens": stats.context_tokens,
        "cached_tokens": stats.cached_tokens,
        "kv_block_tokens": stats.kv_block_tokens,
        "kv_capacity_tokens": stats.kv_capacity_tokens,
        "prefill_us_per_token": stats.prefill_us_per_token,
        "decode_ms_per_token": stats.decode_ms_per_token,
        "served": dispatcher.server.served,
        "group": len(group.router.members),
        "usable": sum(group.usable(node) for node in group.router.members.ordered),
    }

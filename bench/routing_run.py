"""Conversations sent to entries, and what became of them."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

from bench.routing_load import Conversation, Conversations, LoadSettings
from bench.routing_server import MODEL, WORD
from bench.routing_systems import Running

WARM_UP_SHARE = 0.2
"""Of a run, whose requests are not counted: the caches are empty at first."""
TIMEOUT_S = 60.0
RESTARTED = (1, 5)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of the requests after the warm-up: the share of prompt tokens found in caches, and the
    milliseconds to the last token. `failed` counts answers that were not whole, over all."""

    hit: float
    mean_ms: float
    p99_ms: float
    answered: int
    failed: int


@dataclass(slots=True)
class _Run:
    http: httpx2.AsyncClient
    entries: Sequence[str]
    conversations: Conversations
    reply_tokens: int
    counted_from_s: float
    rng: random.Random
    took_ms: list[float] = field(default_factory=list)
    failed: int = 0

    async def converse(self, conversation: Conversation) -> None:
        while not conversation.over:
            if not await self._ask(conversation.ask()):
                self.failed += 1
                return
            conversation.answered(WORD * self.reply_tokens)
            await asyncio.sleep(self.conversations.think_s())

    async def _ask(self, messages: list[dict[str, str]]) -> bool:
        body = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": self.reply_tokens,
            "temperature": 0,
            "stream": True,
        }
        url = f"{self.rng.choice(self.entries)}/v1/chat/completions"
        started_s = time.monotonic()
        received = b""
        try:
            async with self.http.stream("POST", url, json=body) as response:
                async for part in response.aiter_raw():
                    received += part
        except httpx2.HTTPError:
            return False
        if received.count(f'"{WORD}'.encode()) == 0 or b"[DONE]" not in received:
            return False
        if started_s >= self.counted_from_s:
            self.took_ms.append((time.monotonic() - started_s) * 1_000)
        return received.count(WORD.encode()) == self.reply_tokens


async def converse(
    running: Running, rate_per_s: float, seconds: float, seed: int, *, restart: bool = False
) -> Outcome:
    """Send what `seed` draws. With `restart` two engines lose their caches in the middle."""
    settings = LoadSettings()
    limits = httpx2.Limits(max_connections=1_000, max_keepalive_connections=200)
    async with httpx2.AsyncClient(timeout=TIMEOUT_S, trust_env=False, limits=limits) as http:
        began_s = time.monotonic()
        warm_s = seconds * WARM_UP_SHARE
        run = _Run(
            http,
            running.entries,
            Conversations(settings, seed),
            settings.reply_tokens,
            began_s + warm_s,
            random.Random(seed),
        )
        events: list[tuple[float, Conversation | None]] = [(warm_s, None)]
        events += run.conversations.arrivals(rate_per_s, seconds)
        tasks = []
        restarting = restart
        for at_s, conversation in sorted(events, key=lambda event: event[0]):
            await asyncio.sleep(began_s + at_s - time.monotonic())
            if restarting and at_s > seconds / 2:
                restarting = False
                for number in RESTARTED:
                    await http.post(f"{running.engines[number]}/restart")
            if conversation is None:
                for engine in running.engines:
                    await http.post(f"{engine}/figures")
            else:
                tasks.append(asyncio.create_task(run.converse(conversation)))
        await asyncio.gather(*tasks)
        figures = [(await http.get(f"{engine}/figures")).json() for engine in running.engines]
    return _outcome(run, figures)


def _outcome(run: _Run, figures: list[dict[str, Any]]) -> Outcome:
    prompt = sum(figure["prompt"] for figure in figures)
    took_ms = sorted(run.took_ms)
    return Outcome(
        hit=sum(figure["cached"] for figure in figures) / max(prompt, 1),
        mean_ms=statistics.mean(took_ms),
        p99_ms=took_ms[int(0.99 * (len(took_ms) - 1))],
        answered=len(took_ms),
        failed=run.failed,
    )

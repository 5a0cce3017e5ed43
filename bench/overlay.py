"""What the overlay costs a user: answers through it beside the same engine asked directly, and
answers while relays die and return.

The network of the first part is one validator, twelve relays and one model node, whose engine is
asked in turn through the overlay and over the node's own HTTP on loopback. Its prober loads its
models before anything is measured and then has nothing to do.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from openai import AsyncOpenAI

from bench import churn
from bench.figures import Figure, Report
from bench.localnet import localnet, processes, question, wait_for_probers
from planetserve.client import AsyncClient
from planetserve.client.answer import DEFAULT_SYSTEM

TOPOLOGY = """
chain_id = "planetserve-bench"
base_port = 28800
model = "smollm2-135m-instruct"
block_interval_ms = 1000
[parameters]
epoch_blocks = 10000
commit_blocks = 8000
[validators]
count = 1
power = 10
probers = 1
[relays]
count = 12
[[model_nodes]]
name = "model-1"
"""
WARM_UP = 4
PAIRS = 60
"""On two cores one answer's rate is a tenth off another's: the median's error is then 2 %."""
MAX_TOKENS = 128
ALLOWANCE_S = 0.020
QUESTIONS = (
    "Write a long story about {}.",
    "Explain {} in detail to a curious child.",
    "Describe the history of {}.",
)


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds to the first token, and tokens a second from there on."""

    first_s: float
    tokens_per_s: float


def run() -> Report:
    overlay, direct = _answers()
    first = [statistics.median(t.first_s for t in timed) for timed in (overlay, direct)]
    rates = [statistics.median(t.tokens_per_s for t in timed) for timed in (overlay, direct)]
    _, churned = churn.figures()
    return Report(
        "overlay",
        (
            Figure(
                "first token less 20 ms, median",
                first[0] - ALLOWANCE_S,
                "s",
                limit=1.05,
                peer=first[1],
            ),
            Figure(
                "tokens a second, median",
                rates[0],
                "tokens/s",
                limit=0.95,
                peer=rates[1],
                at_least=True,
            ),
            *churned,
        ),
    )


def _answers() -> tuple[list[Timed], list[Timed]]:
    with tempfile.TemporaryDirectory(prefix="ps-bench-") as folder:
        directory = Path(folder) / ".localnet"
        topology = Path(folder) / "topology.toml"
        topology.write_text(TOPOLOGY)
        localnet(directory, "up", "--detach", "--topology", str(topology))
        try:
            wait_for_probers(directory)
            (http,) = (p["addresses"]["http"] for p in processes(directory) if p["role"] == "model")
            return asyncio.run(_pairs(directory / "network.toml", http))
        finally:
            localnet(directory, "down")


async def _pairs(network_file: Path, http: str) -> tuple[list[Timed], list[Timed]]:
    """In turn, of questions that differ, so that neither finds more of them in the cache."""
    overlay, direct = [], []
    engine = AsyncOpenAI(base_url=f"http://{http}/v1", api_key="none", timeout=120)
    async with AsyncClient(network_file) as client:
        model = client.network.default_model
        for number in range(WARM_UP + PAIRS):
            asked, other = question(QUESTIONS, 2 * number), question(QUESTIONS, 2 * number + 1)
            if number % 2:
                straight = await _directly(engine, model, other)
                through = await _through(client, asked)
            else:
                through = await _through(client, asked)
                straight = await _directly(engine, model, other)
            if number >= WARM_UP:
                overlay.append(through)
                direct.append(straight)
    await engine.close()
    return overlay, direct


async def _through(client: AsyncClient, question: str) -> Timed:
    stream = client.stream(question, max_tokens=MAX_TOKENS, temperature=0)
    started_s = time.perf_counter()
    first_s = last_s = 0.0
    async for _ in stream:
        last_s = time.perf_counter() - started_s
        first_s = first_s or last_s
    tokens = stream.answer.usage.completion_tokens
    return Timed(first_s, (tokens - 1) / (last_s - first_s))


async def _directly(engine: AsyncOpenAI, model: str, question: str) -> Timed:
    started_s = time.perf_counter()
    first_s = last_s = 0.0
    tokens = 0
    stream = await engine.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": DEFAULT_SYSTEM},
            {"role": "user", "content": question},
        ],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            last_s = time.perf_counter() - started_s
            first_s = first_s or last_s
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
    return Timed(first_s, (tokens - 1) / (last_s - first_s))

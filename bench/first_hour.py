"""What a newcomer meets: how soon a local network is ready, how soon the first answer begins,
what a second one costs beside the engine alone, and how much memory the processes take.

The network is the default topology of `ps-localnet up`, with its probers at work, in a folder and
on ports of its own; the engine alone runs in this process on the same machine at the same time.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, Report
from bench.localnet import COMMANDS, localnet, processes, question, wait_for_probers
from modelnode.engines.default_model import default_model_path
from modelnode.engines.llamacpp import LlamaCppSettings, load_llamacpp
from modelnode.engines.protocol import Engine
from planetserve.chat import ChatRequest, Message
from planetserve.client import AsyncClient
from planetserve.client.answer import DEFAULT_SYSTEM

BASE_PORT = 28600
COLD_ASKS = 5
WARM_UP = 12
WARM_PAIRS = 40
QUESTIONS = (
    "Explain {} to a curious child in two sentences.",
    "What should I know about {} before I travel?",
    "Why are {} important for people?",
)


def run() -> Report:
    with tempfile.TemporaryDirectory(prefix="ps-bench-") as folder:
        directory = Path(folder) / ".localnet"
        environment = {**os.environ, "PLANETSERVE_NETWORK": str(directory / "network.toml")}
        started_s = time.monotonic()
        localnet(directory, "up", "--detach", "--base-port", str(BASE_PORT))
        ready_s = time.monotonic() - started_s
        try:
            memory = _memory(directory)
            cold = [_cold_ask(environment) for _ in range(COLD_ASKS)]
            wait_for_probers(directory)
            warm, direct = asyncio.run(_warm(directory / "network.toml"))
        finally:
            localnet(directory, "down")
    return Report(
        "first-hour",
        (
            Figure("ready after `ps-localnet up`", ready_s, "s", limit=45),
            Figure("ps-client ask, first token, median", statistics.median(cold), "s", limit=5),
            Figure("ps-client ask, first token, worst", max(cold), "s", limit=5),
            Figure(
                "question in an open client, first token, median",
                statistics.median(warm),
                "s",
                limit=1.3,
                peer=statistics.median(direct),
            ),
            Figure("relay, resident memory, largest", memory["relay"], "MiB", limit=60),
            Figure("ABCI app, resident memory, largest", memory["validator"], "MiB", limit=80),
        ),
    )


def _memory(directory: Path) -> dict[str, float]:
    """The largest resident set of each role in MiB, as the kernel accounts it."""
    largest: dict[str, float] = {}
    for process in processes(directory):
        text = Path(f"/proc/{process['pid']}/status").read_text()
        resident_kib = next(
            int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")
        )
        role = process["role"]
        largest[role] = max(largest.get(role, 0.0), resident_kib / 1024)
    return largest


def _cold_ask(environment: dict[str, str]) -> float:
    """Seconds from starting the command to the first character of the answer."""
    command = [str(COMMANDS / "ps-client"), "ask", "What is the capital of France?"]
    started_s = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        first_s = time.monotonic() - started_s
        process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"ps-client ask ended with {process.returncode}")
    return first_s


async def _warm(network_file: Path) -> tuple[list[float], list[float]]:
    """Times to first token, in turn through the overlay and from the engine itself, of questions
    that differ, so that neither finds more of them in its cache than the other."""
    engine = await load_llamacpp(LlamaCppSettings(default_model_path(), threads=1))
    overlay_s, direct_s = [], []
    try:
        async with AsyncClient(network_file) as client:
            for number in range(WARM_UP):  # every node and the engine know the system prompt
                await client.ask(f"Hello {number}", max_tokens=4, temperature=0)
                await _direct(engine, f"Hello {number}", client.network.default_model)
            for number in range(WARM_PAIRS):
                asked = question(QUESTIONS, number)
                answer = await client.ask(asked, max_tokens=8, temperature=0)
                overlay_s.append(answer.first_token_s)
                direct_s.append(await _direct(engine, asked, answer.model))
    finally:
        await engine.close()
    return overlay_s, direct_s


async def _direct(engine: Engine, question: str, model: str) -> float:
    messages = (Message("system", DEFAULT_SYSTEM), Message("user", question))
    request = ChatRequest(model, messages, max_tokens=8, temperature=0.0)
    started_s = time.monotonic()
    first_s: float | None = None
    async for piece in engine.stream(request):
        if piece.text and first_s is None:
            first_s = time.monotonic() - started_s
    if first_s is None:
        raise RuntimeError("the engine answered nothing")
    return first_s

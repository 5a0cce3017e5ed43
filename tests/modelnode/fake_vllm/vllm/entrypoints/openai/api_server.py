"""Stands in for vLLM's server where its process is what a test is about.

The model decides how it fares: "broken" does not start; with any other it answers, has a child
that is deaf to SIGTERM and a piece of shared memory named after its id, and dies at a prompt that
says "die".
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory

from tests.modelnode.fake_server import USAGE, Exchange, FakeServer, chunk

METRICS = b"""vllm:num_requests_running{engine="0"} 3.0
vllm:num_requests_waiting{engine="0"} 2.0
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="100"} 1.0
"""
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


async def respond(exchange: Exchange) -> None:
    if exchange.target in ("/health", "/metrics"):
        await exchange.answer(200, METRICS)
    elif f"Bearer {os.environ['VLLM_API_KEY']}" not in exchange.headers:
        await exchange.answer(401, {"error": "Unauthorized"})
    else:
        await exchange.begin()
        await exchange.say(chunk(f"{os.getpid()}"))
        if b"die" in exchange.body:
            os._exit(1)
        await exchange.say(chunk(finish_reason="stop"), USAGE)
        await exchange.end()


async def main() -> None:
    fake = FakeServer(respond)
    server = await asyncio.start_unix_server(fake.accept, option("--uds"))
    await server.serve_forever()


if __name__ == "__main__":
    if option("--model") == "broken":
        sys.exit("RuntimeError: no such model")
    subprocess.Popen([sys.executable, "-c", DEAF])
    memory = SharedMemory(f"ps-fake-{os.getpid()}", create=True, size=1)
    asyncio.run(main())

"""How many chat completions a second one model node serves, and a pair of which one forwards.

Real `ps-model` processes of a group by file, in front of an engine that answers at once with 20
tokens; a client that keeps 32 requests under way. What a node's processor allows is its own time a
request, read from the system: on a machine with few cores, the client and the engine take theirs
from the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, Report
from bench.load_client import load
from modelnode.group_file import FILE_NAME, make_group

SECONDS = 3.0
IN_FLIGHT = 32
START_TIMEOUT_S = 60.0
LIMIT_A_SECOND = 300.0
BODY = {
    "model": "instant",
    "messages": [{"role": "user", "content": "word " * 200}],
    "max_tokens": 20,
    "temperature": 0,
}
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """One load: answers a second, seconds an answer, and each node's processor time an answer."""

    a_second: float
    median_s: float
    processor_ms: tuple[float, ...]
    failed: int


def run() -> Report:
    figures: list[Figure] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ps-bench-")))
        ports = _free_ports(9)
        stack.enter_context(_process([sys.executable, "-m", "bench.instant_engine", str(ports[8])]))
        for count, what in ((1, "one node"), (2, "a pair")):
            home = folder / str(count)
            with _group(home, count, ports[:4] if count == 1 else ports[4:8], ports[8]) as nodes:
                for stream in (False, True):
                    measured = _measure(nodes, stream)
                    figures += _figures(f"{what}, {'streamed' if stream else 'whole'}", measured)
    return Report("forwarding", tuple(figures))


@dataclass(frozen=True, slots=True)
class _Node:
    pid: int
    http_port: int

    def processor_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def _measure(nodes: Sequence[_Node], stream: bool) -> Measured:
    body = json.dumps(BODY | {"stream": stream}).encode()
    end = b"[DONE]" if stream else b'"usage"'

    def put(seconds: float) -> tuple[float, float, int, int]:
        found = asyncio.run(
            load(
                nodes[0].http_port,
                "/v1/chat/completions",
                body,
                end,
                connections=IN_FLIGHT,
                seconds=seconds,
            )
        )
        times_s = sorted(found.times_s) or [0.0]
        return found.elapsed_s, times_s[len(times_s) // 2], found.answered, found.failed

    put(SECONDS / 4)
    before = [node.processor_s() for node in nodes]
    elapsed_s, median_s, answered, failed = put(SECONDS)
    used = [node.processor_s() - start for node, start in zip(nodes, before, strict=True)]
    each = max(answered, 1)
    return Measured(answered / elapsed_s, median_s, tuple(1e3 * s / each for s in used), failed)


def _figures(what: str, measured: Measured) -> Iterator[Figure]:
    busiest_ms = max(measured.processor_ms)
    yield Figure(f"{what}: answers", measured.a_second, "/s")
    yield Figure(
        f"{what}: a core would give", 1e3 / busiest_ms, "/s", LIMIT_A_SECOND, at_least=True
    )
    yield Figure(f"{what}: median", 1e3 * measured.median_s, "ms")
    for name, used_ms in zip(("entry", "other"), measured.processor_ms, strict=False):
        yield Figure(f"{what}: processor of the {name}", used_ms, "ms an answer")
    yield Figure(f"{what}: not answered", measured.failed, "requests", 0)


@contextmanager
def _group(
    folder: Path, count: int, ports: Sequence[int], engine_port: int
) -> Iterator[list[_Node]]:
    """`count` nodes of one group; `ports` are those for each other, then those of HTTP."""
    keys = make_group(folder, "instant", count, 1)
    file = folder / FILE_NAME
    text = file.read_text()
    for number in range(count):
        text = text.replace(f'127.0.0.1:{number + 1}"', f'127.0.0.1:{ports[number]}"')
    file.write_text(text)
    with ExitStack() as stack:
        nodes = []
        for number, key in enumerate(keys):
            http_port = ports[count + number]
            command = [sys.executable, "-m", "modelnode.cli", "run", "--group", str(file)]
            command += ["--key", str(key), "--http", f"127.0.0.1:{http_port}"]
            command += ["--engine", "openai", "--engine-url", f"http://127.0.0.1:{engine_port}"]
            command += ["--parallel", "64", "--log-level", "warning"]
            process = stack.enter_context(_process(command))
            nodes.append(_Node(process.pid, http_port))
        for node in nodes:
            asyncio.run(_until_open(node.http_port))
        time.sleep(1.5)
        yield nodes


@contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


async def _until_open(port: int) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports

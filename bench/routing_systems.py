"""What the routing bench compares, started before eight simulated engines and ended by id."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.routing_server import MODEL

ROOT = Path(__file__).resolve().parent.parent
ROUTERS_PYTHON = ROOT / ".tools" / "routers" / "bin" / "python"
ENGINES = 8
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 20.0
SETTLE_S = 2.0
"""For routers to find their engines healthy, and for our nodes to hear of each other."""


@dataclass(frozen=True, slots=True)
class System:
    """`launch` is a router's module and policy; None for our own nodes, of which `entries` are
    asked."""

    name: str
    launch: tuple[str, str] | None = None
    entries: int = 1


OURS = System("ours, 8 entries", entries=8)
OURS_ONE = System("ours, one entry")
SGLANG = System("sglang-router, cache aware", ("sglang_router.launch_router", "cache_aware"))
SMG = System("smg, cache aware", ("smg.launch_router", "cache_aware"))
LEAST = System("least of two loads", ("sglang_router.launch_router", "power_of_two"))
ROUND_ROBIN = System("round robin", ("sglang_router.launch_router", "round_robin"))
SYSTEMS = (OURS, OURS_ONE, SGLANG, SMG, LEAST, ROUND_ROBIN)


@dataclass(frozen=True, slots=True)
class Running:
    """The URLs of the engines and of the entries."""

    engines: tuple[str, ...]
    entries: tuple[str, ...]


def install_routers() -> None:
    command = [sys.executable, str(ROOT / "tools" / "setup.py"), "routers"]
    subprocess.run(command, check=True, stdout=sys.stderr)


@contextmanager
def running(system: System) -> Iterator[Running]:
    """Fresh engines and `system` before them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ps-bench-")))
        log = stack.enter_context((folder / "log").open("wb"))
        first = free_ports(4 * ENGINES)
        engines = tuple(f"http://127.0.0.1:{first + number}" for number in range(ENGINES))
        commands = [[sys.executable, "-m", "bench.routing_server", str(first), str(ENGINES)]]
        if system.launch is None:
            commands += _our_nodes(folder, first, engines)
            entries = tuple(
                f"http://127.0.0.1:{first + ENGINES + number}" for number in range(system.entries)
            )
        else:
            commands.append(_router(system.launch, first, engines))
            entries = (f"http://127.0.0.1:{first + ENGINES}",)
        for command in commands:
            stack.enter_context(_process(command, log.fileno()))
        for url in (*engines, *entries):
            _wait_for(url)
        time.sleep(SETTLE_S)
        yield Running(engines, entries)


def _our_nodes(folder: Path, first: int, engines: Sequence[str]) -> list[list[str]]:
    base = [sys.executable, "-m", "modelnode.cli"]
    group = folder / "group"
    make = ["make-group", "--members", str(ENGINES), "--folder", str(group), "--model", MODEL]
    make += ["--base-port", str(first + 2 * ENGINES)]
    subprocess.run([*base, *make], check=True, stdout=subprocess.DEVNULL)
    commands = []
    for number, engine in enumerate(engines):
        http = f"127.0.0.1:{first + ENGINES + number}"
        node = ["run", "--group", str(group / "group.toml"), "--http", http]
        node += ["--key", str(group / f"node-{number + 1}.key")]
        commands.append([*base, *node, "--engine", "openai", "--engine-url", engine])
    return commands


def _router(launch: tuple[str, str], first: int, engines: Sequence[str]) -> list[str]:
    module, policy = launch
    command = [str(ROUTERS_PYTHON), "-m", module, "--policy", policy, "--host", "127.0.0.1"]
    command += ["--port", str(first + ENGINES), "--prometheus-port", str(first + ENGINES + 1)]
    return [*command, "--worker-urls", *engines]


@contextmanager
def _process(command: Sequence[str], log: int) -> Iterator[None]:
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{url} did not answer") from error
        time.sleep(0.2)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for first in range(30_000, 60_000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError(f"no {count} free ports in a row")

"""A real local network for tests: real processes, run and asked through the commands."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMANDS = Path(sys.executable).parent
PORTS = 80
"""More than the default topology takes."""
UP_TIMEOUT_S = 240.0
POLL_S = 0.5


def free_base_port(count: int = PORTS) -> int:
    """The first of `count` ports that are all free, below those that the kernel gives away."""
    for _ in range(100):
        base = random.randrange(20_000, 32_000 - count)
        if not ports_in_use(range(base, base + count)):
            return base
    raise RuntimeError("no free range of ports found")


def ports_in_use(ports: range) -> list[int]:
    used = []
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                used.append(port)
    return used


def processes_naming(text: str) -> list[int]:
    """The ids of running processes whose command line or working directory names `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
            place = os.readlink(entry / "cwd")
        except OSError:  # ended meanwhile, or a zombie
            continue
        if line and (text in line or text in place):
            found.append(int(entry.name))
    return found


@dataclass(slots=True)
class LocalNetwork:
    """A network in `folder` (its `.localnet`); commands run in the folder above it."""

    folder: Path
    base_port: int
    extra: list[str] = field(default_factory=list)

    @property
    def network_file(self) -> Path:
        return self.folder / "network.toml"

    def run(self, *command: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a `ps-*` command as a user of the network would, and return how it ended."""
        return subprocess.run(
            self.argv(*command),
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def popen(self, *command: str, talks: bool = False) -> subprocess.Popen[str]:
        """Start a `ps-*` command to look at it while it runs; `talks` gives it an input."""
        return subprocess.Popen(
            self.argv(*command),
            cwd=self.folder.parent,
            stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def argv(self, *command: str) -> list[str]:
        return [str(COMMANDS / command[0]), *command[1:]]

    def read_json(self, *command: str) -> Any:
        """What a command that must succeed prints with `--json`."""
        done = self.run(*command, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def up(self, timeout_s: float = UP_TIMEOUT_S) -> None:
        done = self.run(*self.up_command(), "--detach", timeout_s=timeout_s)
        assert done.returncode == 0, done.stderr

    def up_command(self) -> list[str]:
        return ["ps-localnet", "up", "--base-port", str(self.base_port), *self.extra]

    def down(self) -> None:
        """End it, and see that it left nothing."""
        done = self.run("ps-localnet", "down")
        assert done.returncode == 0, done.stderr
        self.assert_nothing_left()

    def assert_nothing_left(self) -> None:
        assert processes_naming(str(self.folder)) == []
        assert ports_in_use(range(self.base_port, self.base_port + PORTS)) == []

    def status(self) -> dict[str, Any]:
        """`ps-localnet status --json`, whether ready or not."""
        done = self.run("ps-localnet", "status", "--json")
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def process(self, name: str) -> dict[str, Any]:
        """One entry of the status."""
        listed: list[dict[str, Any]] = self.status()["processes"]
        return next(process for process in listed if process["name"] == name)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """`ps-ledger nodes --json`, by name, without those that retired."""
        listed = self.read_json("ps-ledger", "nodes")["nodes"]
        return {node["name"]: node for node in listed if node["status"] != "retired"}

    def kill(self, name: str, number: int = 9) -> None:
        done = self.run("ps-localnet", "kill", name, "--signal", str(number))
        assert done.returncode == 0, done.stderr

    def start(self, name: str) -> None:
        """Start a process that ended, and wait until it is healthy."""
        done = self.run("ps-localnet", "start", name)
        assert done.returncode == 0, done.stderr
        self.wait_healthy(name)

    def wait_healthy(self, name: str, timeout_s: float = 90.0) -> None:
        self.wait(lambda: self.process(name)["healthy"], f"{name} to be healthy", timeout_s)

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        self.wait(lambda: self.status()["ready"], "the network to be ready", timeout_s)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Fail when `condition` does not come true in time."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            asked_s = time.monotonic()
            if condition():
                return
            now_s = time.monotonic()
            assert now_s < deadline_s, f"waited {timeout_s:.0f} s for {what}"
            # A command takes most of a core: asked for all the time, it would slow what is awaited.
            time.sleep(max(POLL_S, 3.0 * (now_s - asked_s)))

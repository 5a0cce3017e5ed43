"""A local network for a benchmark, as `ps-localnet` starts it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOPICS = ("volcanoes", "bees", "ships", "tides", "castles", "comets", "whales", "magnets")
COMMANDS = Path(sys.executable).parent
PROBERS_TIMEOUT_S = 180.0


def localnet(directory: Path, verb: str, *options: str) -> None:
    command = [str(COMMANDS / "ps-localnet"), verb, "--dir", str(directory), *options]
    subprocess.run(command, check=True, stdout=sys.stderr)


def processes(directory: Path) -> list[dict[str, Any]]:
    command = [str(COMMANDS / "ps-localnet"), "status", "--dir", str(directory), "--json"]
    listed: list[dict[str, Any]] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )["processes"]
    return listed


def wait_for_probers(directory: Path) -> None:
    """Until every prober has loaded what it scores with, which takes both cores for a while."""
    addresses = [p["addresses"]["http"] for p in processes(directory) if p["role"] == "prober"]
    deadline_s = time.monotonic() + PROBERS_TIMEOUT_S
    while not all(_judges(address) for address in addresses):
        if time.monotonic() > deadline_s:
            raise RuntimeError("the probers did not begin to judge")
        time.sleep(1)


def _judges(address: str) -> bool:
    with urllib.request.urlopen(f"http://{address}/health", timeout=30) as answer:
        return bool(json.load(answer)["judging"])


def question(templates: Sequence[str], number: int) -> str:
    """A question for each number, so that no cache has one of them before it is asked."""
    template = templates[number % len(templates)]
    return template.format(f"{TOPICS[number % len(TOPICS)]} ({number})")

"""Four validators of one kind on this machine: CometBFT with PlanetServe's ledger, or CometBFT
with its own kvstore example over the same socket protocol. Both have the same config.toml."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abci_app.cometbft import find_cometbft
from abci_app.home import node_id_of, write_home

BASE_PORT = 41400
VALIDATORS = 4
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
CALL_TIMEOUT_S = 30.0
TAIL_LINES = 15
ROOT = Path(__file__).resolve().parent.parent
ABCI_CLI = ROOT / ".tools" / "bench" / "abci-cli"
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Part:
    """A process started here, what it is ("app" or "cometbft") and where it logs."""

    role: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True, slots=True)
class Network:
    """A running network: its RPC servers and its processes."""

    addresses: tuple[tuple[str, int], ...]
    parts: tuple[Part, ...]

    def height(self, validator: int = 0) -> int:
        status = self.call("status", validator)
        return int(status["sync_info"]["latest_block_height"])

    def call(self, method: str, validator: int = 0) -> Any:
        """The result of an RPC method, with its arguments in the query string."""
        host, port = self.addresses[validator]
        url = f"http://{host}:{port}/{method}"
        with urllib.request.urlopen(url, timeout=CALL_TIMEOUT_S) as answer:
            return json.load(answer)["result"]

    def wait_for_height(self, height: int, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until every validator has committed `height`."""
        deadline_s = time.monotonic() + timeout_s
        for validator in range(len(self.addresses)):
            while True:
                self.check()
                try:
                    if self.height(validator) >= height:
                        break
                except OSError:
                    pass  # it starts
                if time.monotonic() > deadline_s:
                    raise RuntimeError(f"validator {validator} did not reach height {height}")
                time.sleep(0.1)

    def check(self) -> None:
        for part in self.parts:
            if part.process.poll() is not None:
                tail = "\n".join(part.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
                code = part.process.returncode
                raise RuntimeError(f"{tail}\n\n{part.role} ended by itself with code {code}")

    def used_s(self) -> dict[str, float]:
        """Processor seconds used so far by the apps and by CometBFT, which is `ps-node`'s child."""
        used = {"app": 0.0, "cometbft": 0.0}
        for part in self.parts:
            used[part.role] += cpu_s(part.process.pid)
            used["cometbft"] += sum(cpu_s(child) for child in _children(part.process.pid))
        return used


@dataclass(frozen=True, slots=True)
class Validator:
    """The secrets of one validator: the seeds of its consensus key and of its peer key."""

    consensus_seed: bytes
    node_seed: bytes


@contextmanager
def kvstore_network(
    folder: Path, genesis: str, validators: Sequence[Validator]
) -> Iterator[Network]:
    """CometBFT with `abci-cli kvstore`, from the same module as CometBFT itself."""
    binary = find_cometbft(None)
    build_abci_cli()

    def start(home: Path) -> list[tuple[str, list[str]]]:
        app = ["kvstore", "--address", "unix://app.sock", "--persist", str(home / "data")]
        return [
            ("app", [str(ABCI_CLI), *app, "--log_level", "error"]),
            ("cometbft", [str(binary), "start", "--home", str(home)]),
        ]

    with _network(folder, genesis, validators, start) as network:
        yield network


@contextmanager
def planetserve_network(
    folder: Path, genesis: str, validators: Sequence[Validator]
) -> Iterator[Network]:
    """`ps-node run`, which starts CometBFT as its child."""
    command = str(Path(sys.executable).parent / "ps-node")

    def start(home: Path) -> list[tuple[str, list[str]]]:
        return [("app", [command, "run", "--home", str(home), "--log-level", "warning"])]

    with _network(folder, genesis, validators, start) as network:
        yield network


@contextmanager
def _network(
    folder: Path,
    genesis: str,
    validators: Sequence[Validator],
    start: Callable[[Path], list[tuple[str, list[str]]]],
) -> Iterator[Network]:
    ports = range(BASE_PORT, BASE_PORT + 2 * len(validators))
    _check_free(ports)
    addresses, homes = [], []
    for number, validator in enumerate(validators):
        home = folder / f"validator-{number}"
        p2p, rpc = ports[2 * number], ports[2 * number + 1]
        peers = [
            f"{node_id_of(other.node_seed)}@127.0.0.1:{ports[2 * index]}"
            for index, other in enumerate(validators)
            if index != number
        ]
        write_home(
            home,
            genesis=genesis,
            moniker=f"validator-{number}",
            consensus_seed=validator.consensus_seed,
            node_seed=validator.node_seed,
            p2p=f"127.0.0.1:{p2p}",
            rpc=f"127.0.0.1:{rpc}",
            peers=peers,
            local=True,
        )
        homes.append(home)
        addresses.append(("127.0.0.1", rpc))
    parts: list[Part] = []
    try:
        for home in homes:
            for role, command in start(home):
                log = home / f"{role}.log"
                parts.append(Part(role, _start(command, home, log), log))
        network = Network(tuple(addresses), tuple(parts))
        network.wait_for_height(2)
        yield network
    finally:
        # An app that serves CometBFT as its peer must not go before it.
        for part in sorted(parts, key=lambda part: part.role == "app"):
            stop_process(part.process)


def build_abci_cli() -> None:
    """Build the kvstore example from the pinned module, outside the environment."""
    command = [sys.executable, str(ROOT / "tools" / "setup.py"), "abci-cli"]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _start(command: list[str], home: Path, log: Path) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and after a while make it."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _check_free(ports: Sequence[int]) -> None:
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise RuntimeError(f"port {port} is taken; end what uses it") from error


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in listed.split()]

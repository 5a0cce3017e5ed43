"""Processes by their id: told from later ones with the same id by the time they started.

Reads Linux's /proc (proc(5)); a local network is run on Linux.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localnet.plan import ProcessPlan
from planetserve.errors import ConfigurationError, UsageError

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent ends."""

POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class ProcessId:
    """`started` counts clock ticks since `boot`, which names one boot of the machine; together
    they never mean another process."""

    pid: int
    started: int
    boot: str

    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        return identify(self.pid) == self

    def send(self, number: int) -> bool:
        """Send a signal. False when the process is not there any more."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def require_proc() -> None:
    if not Path("/proc/self/stat").exists():
        raise UsageError("a local network needs Linux: there is no /proc here")


def identify(pid: int) -> ProcessId | None:
    """The running process with this id, None when there is none."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ProcessId(pid, int(fields[19]), boot)


def descendants(pid: int) -> list[ProcessId]:
    """The children of `pid`, their children and so on."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[ProcessId] = []
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            process = identify(child)
            if process is not None:
                found.append(process)
    return found


def end_all(processes: Iterable[ProcessId], grace_s: float) -> list[ProcessId]:
    """SIGTERM to each with its descendants, SIGKILL to what is left after `grace_s` seconds.
    Returns those that had to be killed."""
    whole: dict[int, ProcessId] = {}
    for process in processes:
        if process.alive():
            whole[process.pid] = process
            whole.update({child.pid: child for child in descendants(process.pid)})
    # Children first hear of it from their parents, which know how to end them.
    for process in processes:
        process.send(signal.SIGTERM)
    wait_until(lambda: not any(process.alive() for process in whole.values()), grace_s)
    killed = [process for process in whole.values() if process.send(signal.SIGKILL)]
    wait_until(lambda: not any(process.alive() for process in killed), grace_s)
    return killed


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def spawn(
    argv: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a child with its output appended to `log`, in a process group of its own so that a
    terminal's Ctrl-C reaches only us. It is told to end when we end, however that happens."""
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_end_with_parent(),
        )


def _end_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def require_free_ports(processes: Iterable[ProcessPlan]) -> None:
    """Raises `ConfigurationError` for the first port that something else has."""
    for process in processes:
        for port, purpose in process.ports():
            with socket.socket() as probe:
                # What lingers from ended connections is no obstacle to a server.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise ConfigurationError(
                        f"port {port} is in use; {process.name} needs it ({purpose}). End what "
                        "uses it, or choose other ports with --base-port"
                    ) from error


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the command's name, may itself hold spaces and parentheses.
    return text.rpartition(")")[2].split()

"""`state.json`, what a running local network says of itself, and the lock of who runs it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from localnet.processes import ProcessId
from planetserve.errors import ConfigurationError, UsageError

STARTING = "starting"
READY = "ready"
STOPPING = "stopping"
FAILED = "failed"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ProcessState:
    """`process` is None while it is not running, `exit_code` what it last ended with, negative
    for a signal."""

    name: str
    role: str
    process: ProcessId | None
    addresses: Mapping[str, str]
    health: str
    log: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """`phase` is one of the words above, `progress` the last thing that a person wants to see,
    for `FAILED` why."""

    phase: str
    progress: str
    supervisor: ProcessId
    relays: int
    model_nodes: int
    processes: tuple[ProcessState, ...]

    @property
    def running(self) -> bool:
        """Whether its supervisor runs."""
        return self.supervisor.alive()

    def find(self, name: str) -> ProcessState:
        for process in self.processes:
            if process.name == name:
                return process
        known = ", ".join(process.name for process in self.processes)
        raise UsageError(f"no process is called {name}; there are {known}")


class StateFile:
    """The files by which the commands of one local network find each other."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state.json"
        self._lock = folder / "lock"
        self._requests = folder / "requests"

    def write(self, state: State) -> None:
        """Readers see the old state or the new one, never a part."""
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(state), indent=2) + "\n")
        os.replace(temporary, self._path)

    def read(self) -> State | None:
        """None when no network has ever run here. Raises `ConfigurationError`."""
        try:
            content = json.loads(self._path.read_text())
            return _state(content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{self._path} is damaged ({error}); end what runs and remove its folder"
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one supervisor of this folder. Raises `UsageError` when there is one already."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"a local network runs in {self._lock.parent} already: see it with "
                    "`ps-localnet status`, end it with `ps-localnet down`"
                ) from error
            yield
        finally:
            os.close(descriptor)

    def request_start(self, name: str) -> None:
        """Ask the supervisor to start a process again."""
        self._requests.mkdir(exist_ok=True)
        (self._requests / name).touch()

    def take_requests(self) -> list[str]:
        """The names asked for since the last call."""
        if not self._requests.is_dir():
            return []
        names = []
        for path in sorted(self._requests.iterdir()):
            path.unlink()
            names.append(path.name)
        return names


def _state(content: Mapping[str, Any]) -> State:
    return State(
        phase=content["phase"],
        progress=content["progress"],
        supervisor=ProcessId(**content["supervisor"]),
        relays=content["relays"],
        model_nodes=content["model_nodes"],
        processes=tuple(
            ProcessState(**{**entry, "process": _process(entry["process"])})
            for entry in content["processes"]
        ),
    )


def _process(content: Mapping[str, Any] | None) -> ProcessId | None:
    return None if content is None else ProcessId(**content)

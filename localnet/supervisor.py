"""The process that starts a local network's processes, watches them and ends them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from localnet.health import HealthReader, routes_complete
from localnet.plan import MODEL, PROBER, RELAY, VALIDATOR, Plan, ProcessPlan
from localnet.processes import ProcessId, end_all, identify, spawn
from localnet.state import (
    FAILED,
    READY,
    STARTING,
    STOPPED,
    STOPPING,
    ProcessState,
    State,
    StateFile,
)
from planetserve.errors import PlanetServeError
from planetserve.ledger import LedgerClient
from planetserve.network import load_network

TICK_S = 0.5
READY_TIMEOUT_S = 180.0
VLLM_READY_TIMEOUT_S = 600.0
GRACE_S = 15.0
RESTART_PAUSE_S = 2.0
TAIL_LINES = 12

START_ORDER = (PROBER, MODEL, RELAY)
"""Once the chain moves: first those that admit the others, then what takes longest to load."""


class StartFailed(PlanetServeError):
    """The network did not become ready; the message says which process and why."""


@dataclass(slots=True)
class Child:
    """A process of the plan; `process` is None while it does not run."""

    plan: ProcessPlan
    handle: subprocess.Popen[bytes] | None = None
    process: ProcessId | None = None
    exit_code: int | None = None
    ended_s: float = 0.0
    healthy: bool = False


class Supervisor:
    """`report` is told the progress as a line of text whenever it changes."""

    def __init__(self, plan: Plan, state_file: StateFile, report: Callable[[str], None]) -> None:
        self._plan = plan
        self._file = state_file
        self._report = report
        self._children = {process.name: Child(process) for process in plan.processes}
        self._phase = STARTING
        self._progress = ""
        me = identify(os.getpid())
        assert me is not None
        self._me = me

    @property
    def state(self) -> State:
        topology = self._plan.topology
        return State(
            phase=self._phase,
            progress=self._progress,
            supervisor=self._me,
            relays=topology.relays,
            model_nodes=len(topology.model_nodes),
            processes=tuple(self._state_of(child) for child in self._children.values()),
        )

    async def run(self, stop: asyncio.Event, when_ready: Callable[[State], None]) -> None:
        """Bring everything up, call `when_ready`, watch until `stop` is set, end everything.

        Raises `StartFailed`, with everything ended, when a process ends before all are ready or
        they are not ready in time.
        """
        try:
            await self._bring_up(stop)
            if not stop.is_set():
                self._enter(READY, "ready")
                when_ready(self.state)
                await self._watch(stop)
        except PlanetServeError as error:
            self._end(FAILED, str(error))
            raise
        finally:
            if self._phase != FAILED:
                self._end(STOPPED, "stopped")

    @property
    def _ready_timeout_s(self) -> float:
        return VLLM_READY_TIMEOUT_S if self._plan.topology.needs_vllm else READY_TIMEOUT_S

    async def _bring_up(self, stop: asyncio.Event) -> None:
        started_s = time.monotonic()
        self._file.take_requests()
        self._write()
        for child in self._of_role(VALIDATOR):
            self._start(child)
        waiting = [child for role in START_ORDER for child in self._of_role(role)]
        network = load_network(self._plan.layout.network_file)
        topology = self._plan.topology
        async with HealthReader() as reader, LedgerClient(network) as ledger:
            while not stop.is_set():
                self._reap()
                self._refuse_ended()
                await self._refresh(reader)
                if waiting and any(child.healthy for child in self._of_role(VALIDATOR)):
                    # All at once: a prober that knows enough relays loads its scoring model,
                    # and whoever registers later than that waits for it.
                    for child in waiting:
                        self._start(child)
                    waiting = []
                self._tell(time.monotonic() - started_s)
                everyone = all(child.healthy for child in self._children.values())
                if everyone and await routes_complete(
                    ledger, topology.relays, len(topology.model_nodes)
                ):
                    return
                if time.monotonic() - started_s > self._ready_timeout_s:
                    raise StartFailed(await self._why_not_ready(reader))
                await _pause(stop)

    async def _watch(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._reap()
            for name in self._file.take_requests():
                child = self._children.get(name)
                if child is not None and child.process is None:
                    self._start(child)
            if self._plan.topology.restart:
                for child in self._children.values():
                    rested = time.monotonic() - child.ended_s > RESTART_PAUSE_S
                    if child.process is None and rested:
                        self._start(child)
            await _pause(stop)

    def _start(self, child: Child) -> None:
        log = self._plan.layout.log(child.plan.name)
        child.handle = spawn(child.plan.argv, child.plan.environment, log)
        # A child that has ended already is a zombie until it is reaped: it cannot be identified.
        child.process = identify(child.handle.pid)
        child.exit_code = None
        child.healthy = False
        self._write()

    def _reap(self) -> None:
        """Notice the processes that have ended."""
        for child in self._children.values():
            code = None if child.handle is None else child.handle.poll()
            if code is not None:
                child.handle, child.process, child.healthy = None, None, False
                child.exit_code, child.ended_s = code, time.monotonic()
                self._write()

    def _refuse_ended(self) -> None:
        for child in self._children.values():
            if child.exit_code is not None:
                log = self._plan.layout.log(child.plan.name)
                raise StartFailed(
                    f"{child.plan.name} ended with code {child.exit_code} before the network was "
                    f"ready. The end of {log}:\n{_tail(log)}"
                )

    async def _refresh(self, reader: HealthReader) -> None:
        """Ask those that run and were not healthy yet."""
        asked = [child for child in self._children.values() if child.process and not child.healthy]
        answers = await reader.read_all(self._state_of(child) for child in asked)
        for child in asked:
            child.healthy = answers[child.plan.name].healthy

    async def _why_not_ready(self, reader: HealthReader) -> str:
        answers = await reader.read_all(self.state.processes)
        lines = [
            f"  {name}: {answer.reason}" for name, answer in answers.items() if not answer.healthy
        ]
        if not lines:
            lines = ["  the ledger has not admitted every relay and model node"]
        return f"not ready after {self._ready_timeout_s:.0f} s:\n" + "\n".join(lines)

    def _tell(self, elapsed_s: float) -> None:
        healthy = Counter(c.plan.role for c in self._children.values() if c.healthy)
        total = Counter(c.plan.role for c in self._children.values())
        counts = ", ".join(f"{role}s {healthy[role]}/{number}" for role, number in total.items())
        if counts != self._progress:
            self._progress = counts
            self._report(f"{elapsed_s:5.1f} s  healthy: {counts}")
            self._write()

    def _end(self, phase: str, reason: str) -> None:
        self._enter(STOPPING, "stopping")
        end_all([c.process for c in self._children.values() if c.process is not None], GRACE_S)
        for child in self._children.values():
            if child.handle is not None:
                child.handle.wait()
        self._reap()
        self._enter(phase, reason)

    def _enter(self, phase: str, progress: str) -> None:
        self._phase, self._progress = phase, progress
        self._write()

    def _write(self) -> None:
        self._file.write(self.state)

    def _of_role(self, role: str) -> Iterable[Child]:
        return [child for child in self._children.values() if child.plan.role == role]

    def _state_of(self, child: Child) -> ProcessState:
        return ProcessState(
            name=child.plan.name,
            role=child.plan.role,
            process=child.process,
            addresses=child.plan.addresses,
            health=child.plan.health,
            log=str(self._plan.layout.log(child.plan.name)),
            exit_code=child.exit_code,
        )


async def _pause(stop: asyncio.Event) -> None:
    """One tick, or less when told to stop."""
    try:
        await asyncio.wait_for(stop.wait(), TICK_S)
    except TimeoutError:
        return


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"(unreadable: {error.strerror})"
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])

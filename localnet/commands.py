"""The work behind `ps-localnet`'s commands."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from localnet import display
from localnet.health import Health, status_document
from localnet.materials import prepare
from localnet.plan import Layout, make_plan
from localnet.processes import (
    descendants,
    end_all,
    require_free_ports,
    require_proc,
    wait_until,
)
from localnet.state import READY, State, StateFile
from localnet.supervisor import GRACE_S, Supervisor
from localnet.topology import LLAMACPP, load_topology
from modelnode.engines.vllm_place import vllm_model_path
from planetserve.errors import NetworkNotFound, PlanetServeError, UsageError

START_TIMEOUT_S = 15.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class UpOptions:
    """`topology` None is the packaged one of `engine`, `base_port` None the topology's."""

    folder: Path
    topology: Path | None
    base_port: int | None
    keep: bool
    as_json: bool
    engine: str = LLAMACPP

    def arguments(self) -> list[str]:
        """The command line that means the same, in the foreground."""
        line = ["up", "--dir", str(self.folder)]
        line += ["--topology", str(self.topology)] if self.topology else []
        line += ["--engine", self.engine] if self.topology is None else []
        line += ["--base-port", str(self.base_port)] if self.base_port else []
        line += ["--keep"] if self.keep else []
        return line + (["--json"] if self.as_json else [])


def up(options: UpOptions, stop_signals: Iterable[int]) -> None:
    """Run a network in the foreground. Raises `UsageError` when one runs in the folder already,
    `ConfigurationError` for a wrong topology, a port in use or no vLLM where it is needed,
    `StartFailed`."""
    require_proc()
    started_s = time.monotonic()
    topology = load_topology(options.topology, options.engine)
    if options.base_port is not None:
        topology = replace(topology, base_port=options.base_port)
    layout = Layout(options.folder)
    vllm_model = vllm_model_path() if topology.needs_vllm else None
    plan = make_plan(topology, layout, Path(sys.executable).parent, vllm_model)
    state_file = StateFile(layout.folder)
    with state_file.held(), display.Progress() as progress:
        _end_orphans(state_file)
        require_free_ports(plan.processes)
        prepare(plan, keep=options.keep)
        progress.show(f"starting {len(plan.processes)} processes")
        supervisor = Supervisor(plan, state_file, progress.show)

        def ready(state: State) -> None:
            progress.clear()
            if options.as_json:
                well = {process.name: Health(True) for process in state.processes}
                print(json.dumps(status_document(state, True, well)), flush=True)
                return
            display.print_ready(state, layout, plan.idle_probers, time.monotonic() - started_s)
            here = "Ctrl-C here, or " if sys.stdin.isatty() else ""
            print(f"End:    {here}{display.how_to_end(layout.folder)}", flush=True)

        asyncio.run(_until_stopped(supervisor, stop_signals, ready, progress))


async def _until_stopped(
    supervisor: Supervisor,
    stop_signals: Iterable[int],
    ready: Callable[[State], None],
    progress: display.Progress,
) -> None:
    stop = asyncio.Event()

    def told() -> None:
        progress.show("ending every process")
        stop.set()

    for number in stop_signals:
        asyncio.get_running_loop().add_signal_handler(number, told)
    await supervisor.run(stop, ready)


def up_detached(options: UpOptions) -> int:
    """Run a network in a session of its own; return 0 when it is ready, else the exit code of its
    failure. What it prints is passed on meanwhile."""
    options.folder.mkdir(parents=True, exist_ok=True)
    state_file = StateFile(options.folder)
    with state_file.held():
        pass  # said here, before the other's output is touched
    printed = [
        (options.folder / "supervisor.out", sys.stdout),
        (options.folder / "supervisor.log", sys.stderr),
    ]
    with printed[0][0].open("wb") as out, printed[1][0].open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "localnet.cli", *options.arguments()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            start_new_session=True,
        )
    with ExitStack() as stack:
        followed = [(stack.enter_context(path.open()), to) for path, to in printed]
        try:
            while True:
                code = child.poll()
                state = state_file.read()
                ready = (
                    state is not None and state.phase == READY and state.supervisor.pid == child.pid
                )
                # It announces itself just after it has become ready.
                time.sleep(2 * POLL_S if ready else POLL_S)
                for source, to in followed:
                    to.write(source.read())
                    to.flush()
                if code is not None:
                    return code or 1
                if ready:
                    return 0
        except BaseException:
            child.terminate()
            child.wait()
            raise


def down(folder: Path) -> list[str]:
    """End the network of `folder` and return the names of what ran."""
    state_file = StateFile(folder)
    state = state_file.read()
    if state is None:
        return []
    ran = [process.name for process in state.processes if process.process]
    if state.supervisor.send(signal.SIGTERM):
        wait_until(lambda: not state.supervisor.alive(), GRACE_S * 2 + 5)
        state.supervisor.send(signal.SIGKILL)
        wait_until(lambda: not state.supervisor.alive(), GRACE_S)
    elif not any(process.process and process.process.alive() for process in state.processes):
        return []
    _end_orphans(state_file)
    return ran


def kill(folder: Path, name: str, number: int) -> int:
    """Send the process `name` a signal and return its id; SIGKILL also goes to those of its
    children, which it cannot end any more, that do not end with it by themselves."""
    process = _running(folder).find(name).process
    children = descendants(process.pid) if process and number == signal.SIGKILL else []
    if process is None or not process.send(number):
        raise UsageError(f"{name} is not running")
    wait_until(lambda: not any(child.alive() for child in children), GRACE_S)
    for child in children:
        child.send(number)
    return process.pid


def start(folder: Path, name: str) -> int:
    """Have the supervisor start `name` again and return its new id."""
    before = _running(folder).find(name).process
    if before is not None and before.alive():
        raise UsageError(f"{name} runs already, as process {before.pid}")
    state_file = StateFile(folder)
    state_file.request_start(name)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        now = _running(folder).find(name).process
        if now is not None and now != before:
            return now.pid
    raise PlanetServeError(f"{name} did not start within {START_TIMEOUT_S:.0f} s; see its log")


def _running(folder: Path) -> State:
    state = StateFile(folder).read()
    if state is None or not state.running:
        raise NetworkNotFound(f"no local network runs in {folder}; start one with ps-localnet up")
    return state


def _end_orphans(state_file: StateFile) -> None:
    """End what a supervisor that was killed has left."""
    state = state_file.read()
    if state is not None:
        end_all([p.process for p in state.processes if p.process is not None], GRACE_S)

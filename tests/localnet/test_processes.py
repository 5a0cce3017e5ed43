import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localnet.processes import ProcessId, descendants, end_all, identify, spawn, wait_until

SLEEPER = [sys.executable, "-c", "import signal; signal.pause()"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal; signal.signal(15, signal.SIG_IGN); print('on', flush=True); signal.pause()",
]
DEADLINE_S = 20.0


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    handles: list[subprocess.Popen[bytes]] = []
    yield handles
    for handle in handles:
        handle.kill()
        handle.wait()


def test_another_process_with_the_same_id_is_not_the_same() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert me.alive()
    earlier = ProcessId(me.pid, me.started - 1, me.boot)
    assert not earlier.alive()
    assert not earlier.send(signal.SIGKILL)


def test_a_zombie_does_not_run(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    handle = spawn(SLEEPER, {}, tmp_path / "log")
    started.append(handle)
    process = identify(handle.pid)
    assert process is not None
    handle.kill()
    assert wait_until(lambda: not process.alive(), DEADLINE_S)
    assert handle.returncode is None  # not reaped, and still not taken for running


def test_who_does_not_end_is_killed(started: list[subprocess.Popen[bytes]], tmp_path: Path) -> None:
    log = tmp_path / "log"
    started += [spawn(STUBBORN, {}, log), spawn(SLEEPER, {}, tmp_path / "other")]
    assert wait_until(lambda: log.read_text() == "on\n", DEADLINE_S)
    processes = [found for found in (identify(handle.pid) for handle in started) if found]
    killed = end_all(processes, grace_s=1.0)
    assert [process.pid for process in killed] == [started[0].pid]
    assert not any(process.alive() for process in processes)


def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import pathlib, signal, sys; from localnet.processes import spawn;"
            f"spawn({SLEEPER!r}, {{}}, pathlib.Path({str(tmp_path / 'log')!r}));"
            "print('on', flush=True); signal.pause()",
        ],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"on\n"
    (child,) = descendants(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not child.alive(), DEADLINE_S)

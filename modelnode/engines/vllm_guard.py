"""Stands between a model node and the server that it runs: python vllm_guard.py COMMAND...

It leads the server's process group and reads a pipe that the node holds open. When the pipe
closes, however the node ended, or when the server ends, nothing of the group is left.
Needs only the standard library.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

POLL_S = 0.2
GRACE_S = 10.0
TIDY_S = 3.0
TIDIER = b"multiprocessing.resource_tracker"
"""Python's own process that removes what the others have left in shared memory, once they are
gone."""


def guard(command: list[str]) -> None:
    """Ends with this process, killed: it belongs to the group too."""
    # A handler, which a new program does not inherit as it would inherit being deaf to a signal.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while server.poll() is None and not _closed(sys.stdin.fileno()):
        continue
    if server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S)
    end_group(os.getpid())
    os.killpg(os.getpid(), signal.SIGKILL)


def end_group(leader: int) -> None:
    """Kill every process of `leader`'s group but the caller, and let the tidier finish."""
    for pid, line in _members(leader):
        if TIDIER not in line:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    deadline_s = time.monotonic() + TIDY_S
    while any(_members(leader)) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def _closed(pipe: int) -> bool:
    """Whether the node has gone, after at most `POLL_S` seconds; it never writes."""
    return bool(select.select([pipe], [], [], POLL_S)[0])


def _members(leader: int) -> Iterator[tuple[int, bytes]]:
    """The processes of a group but the caller, with their command lines, as Linux's /proc tells
    them: proc(5); those that have ended have none."""
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        try:
            if pid != os.getpid() and os.getpgid(pid) == leader:
                line = (entry / "cmdline").read_bytes()
                if line:
                    yield pid, line
        except OSError:
            continue  # it ended meanwhile


if __name__ == "__main__":
    guard(sys.argv[1:])

"""The CometBFT process that `ps-node` starts and ends."""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from planetserve.errors import ConfigurationError

VERSION = "0.38.25"
STOP_TIMEOUT_S = 10.0
STATUS_TIMEOUT_S = 1.0
MAX_STATUS_BYTES = 1 << 20
OUTPUT_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 16
SYNC_FAILURES = (
    b"State sync failed",
    b"Failed to bootstrap node with new state",
    b"Failed to store last seen commit",
    b"Failed to switch to block sync",
)
"""CometBFT 0.38's `node/setup.go`."""
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def find_cometbft(named: Path | None) -> Path:
    """The binary at `named`, else `.tools/bin/cometbft` beside the virtual environment or the
    sources, else the one on PATH. Raises `ConfigurationError` unless its version is `VERSION`."""
    if named is not None:
        candidates = [named]
    else:
        bases = (Path(sys.prefix).parent, Path(__file__).resolve().parent.parent)
        candidates = [base / ".tools" / "bin" / "cometbft" for base in bases]
        on_path = shutil.which("cometbft")
        candidates += [Path(on_path)] if on_path else []
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        looked = ", ".join(str(path) for path in candidates)
        raise ConfigurationError(
            f"no CometBFT {VERSION}: looked for {looked} and on PATH. `make setup` builds it; "
            "--cometbft names another place"
        )
    try:
        output = subprocess.run(
            [found, "version"], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"{found} does not run: {error}") from error
    if output.removeprefix("v").partition("+")[0] != VERSION:
        raise ConfigurationError(f"{found} is CometBFT {output}, and {VERSION} is needed")
    return found.resolve()


def compact_databases(binary: Path, home: Path) -> None:
    """Let CometBFT compact its own databases in the home of a stopped node. Raises
    `ConfigurationError`."""
    done = subprocess.run(
        [binary, "experimental-compact-goleveldb", "--home", home],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # It ends with 0 when a database cannot be opened.
    failure = next((line for line in done.stdout.splitlines() if "failed to" in line), "")
    if done.returncode or failure:
        raise ConfigurationError(
            f"CometBFT could not compact the databases of {home}: {failure or done.stdout.strip()}"
        )


async def start_cometbft(
    binary: Path, home: Path, *, piped: bool = False
) -> asyncio.subprocess.Process:
    """Start `cometbft start` in `home`, with our standard output and error; `piped` leaves its
    output to `relay_output`.

    It gets a session of its own, so that Ctrl-C reaches only us and we can stop it in order. It
    dies with us however we end: it stops by itself when ABCI breaks, and the kernel kills it.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return await asyncio.create_subprocess_exec(
        binary,
        "start",
        "--home",
        home,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else None,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


async def relay_output(
    process: asyncio.subprocess.Process, on_sync_failure: Callable[[str], None]
) -> None:
    """Pass the output of a process that was started `piped` on to ours. `on_sync_failure` gets
    the line in which it says that it could not join from a snapshot, which it says nowhere else:
    it then goes on and waits for ever."""
    if process.stdout is None:
        raise ValueError("the output of the process is not piped")
    rest = b""
    while data := await process.stdout.read(OUTPUT_BYTES):
        with suppress(OSError):
            os.write(sys.stdout.fileno(), data)
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[-MAX_LINE_BYTES:]
        for line in lines:
            if any(words in line for words in SYNC_FAILURES):
                on_sync_failure(line.decode(errors="replace").strip())


async def stop_cometbft(process: asyncio.subprocess.Process) -> None:
    """Let it end by itself; after `STOP_TIMEOUT_S` seconds, kill it."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class SyncStatus:
    height: int
    catching_up: bool


def sync_status(rpc: str) -> SyncStatus | None:
    """What CometBFT says of itself at `rpc` (tcp://HOST:PORT), or None when it does not answer."""
    address = urlsplit(rpc)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=STATUS_TIMEOUT_S
    )
    try:
        connection.request("GET", "/status")
        answer = json.loads(connection.getresponse().read(MAX_STATUS_BYTES))
        sync = answer["result"]["sync_info"]
        return SyncStatus(int(sync["latest_block_height"]), bool(sync["catching_up"]))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    finally:
        connection.close()

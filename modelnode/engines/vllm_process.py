"""The vLLM server that a model node runs: started, watched, started again, ended.

It listens on a socket in a folder that only we can enter, and wants a key that it is given in its
environment, where other users do not see it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from modelnode.engines import vllm_guard
from planetserve.errors import ConfigurationError, UsageError
from planetserve.logs import get_logger

START_TIMEOUT_S = 7200.0
"""The first start of a large model fetches it."""
START_INTERVAL_S = 0.25
HEALTH_INTERVAL_S = 5.0
HUNG_S = 60.0
"""A server that runs and does not answer for so long is ended."""
STOP_TIMEOUT_S = vllm_guard.GRACE_S + vllm_guard.TIDY_S + 5.0
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LIVED_S = 60.0
"""After a life so long, the next start is tried as soon as the first."""
MAX_LOG_BYTES = 8 << 20
TAIL_LINES = 15
TAIL_BYTES = 16 << 10

OURS = ("--model", "--served-model-name", "--uds", "--host", "--port", "--api-key")
"""Options that decide how the node reaches its server."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """`model` is a folder or the name of a model on a hub, `name` what it is called here;
    `options` are passed on to vLLM as they are, after ours."""

    python: Path
    model: str
    name: str
    log_file: Path
    parallel: int
    context_tokens: int
    options: tuple[str, ...] = ()

    def command(self, folder: Path) -> list[str]:
        """The server's command line, its sockets being in `folder`."""
        events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": events_endpoint(folder),
        }
        line = [str(self.python), "-m", "vllm.entrypoints.openai.api_server"]
        line += ["--model", self.model, "--served-model-name", self.name]
        line += ["--uds", str(socket_in(folder))]
        line += ["--max-model-len", str(self.context_tokens), "--max-num-seqs", str(self.parallel)]
        line += ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
        line += ["--disable-uvicorn-access-log", "--kv-events-config", json.dumps(events)]
        return [*line, *self.options]


def check_options(options: Sequence[str]) -> None:
    """Raises `UsageError` for an option that is not the operator's to give."""
    for option in options:
        if option.partition("=")[0] in OURS:
            raise UsageError(f"{option.partition('=')[0]} of vLLM is set by ps-model itself")


def socket_in(folder: Path) -> Path:
    return folder / "http.sock"


def events_endpoint(folder: Path) -> str:
    return f"ipc://{folder}/kv.sock"


def next_pause_s(pause_s: float, lived_s: float) -> float:
    """How long to wait before a start, when before the last one it was `pause_s` and the server
    then answered for `lived_s`."""
    return FIRST_PAUSE_S if lived_s >= LIVED_S else min(2 * pause_s, LONGEST_PAUSE_S)


class VllmProcess:
    """One server after the other, in `folder`, from `start` to `close`; `answers` asks the server
    whether it is ready."""

    def __init__(
        self,
        settings: VllmSettings,
        folder: Path,
        api_key: str,
        answers: Callable[[], Awaitable[bool]],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._api_key = api_key
        self._answers = answers
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self.ready = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """The leader of the server's process group, None while none runs."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Returns when the server answers. Raises `ConfigurationError` with the end of its log
        when it ends before, or takes longer than `START_TIMEOUT_S`."""
        await self._spawn()
        if not await self._until_ready():
            await self._end()
            path = self._settings.log_file
            raise ConfigurationError(f"vLLM did not start. The end of {path}:\n{_tail(path)}")
        self._watching = asyncio.create_task(self._watch(), name="vllm")

    async def close(self) -> None:
        """End the server and whatever it started."""
        self.ready = False
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._end()

    async def _watch(self) -> None:
        pause_s = FIRST_PAUSE_S
        now_s = asyncio.get_running_loop().time
        while True:
            ready_s = now_s()
            if self.ready:
                await self._until_ended()
            self.ready = False
            await self._end()
            lived_s = now_s() - ready_s
            log.warning("vllm_ended", lived_s=round(lived_s), next_start_in_s=pause_s)
            await asyncio.sleep(pause_s)
            pause_s = next_pause_s(pause_s, lived_s)
            try:
                await self._spawn()
            except OSError as error:
                log.error("vllm_not_started", reason=str(error))
            if await self._until_ready():
                log.info("vllm_started", starts=self.starts)

    async def _spawn(self) -> None:
        settings = self._settings
        environment = {
            # An operator whose server spans machines names the address that the others reach.
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_NO_USAGE_STATS": "1",
            **os.environ,
            "VLLM_API_KEY": self._api_key,
            "VLLM_RPC_BASE_PATH": str(self._folder),
        }
        socket_in(self._folder).unlink(missing_ok=True)
        with open_log(settings.log_file) as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                str(Path(vllm_guard.__file__)),
                *settings.command(self._folder),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # So that Ctrl-C reaches only us, and all that it starts can be ended together.
                start_new_session=True,
            )
        self.starts += 1

    async def _until_ready(self) -> bool:
        """False when it has ended, or when it takes too long."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while self._process is not None and self._process.returncode is None:
                    if await self._answers():
                        self.ready = True
                        return True
                    await asyncio.sleep(START_INTERVAL_S)
        except TimeoutError:
            log.error("vllm_start_timeout", timeout_s=START_TIMEOUT_S)
        return False

    async def _until_ended(self) -> None:
        """Returns when the server has ended, or hangs."""
        now_s = asyncio.get_running_loop().time
        heard_s = now_s()
        while self._process is not None and now_s() - heard_s < HUNG_S:
            try:
                async with asyncio.timeout(HEALTH_INTERVAL_S):
                    await self._process.wait()
                return
            except TimeoutError:
                if await self._answers():
                    heard_s = now_s()
        log.error("vllm_hangs", silent_s=HUNG_S)

    async def _end(self) -> None:
        """Have the guard end the group; end it ourselves when it does not."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        # The group's number is the guard's, and is not given away while the group has members.
        await asyncio.to_thread(vllm_guard.end_group, process.pid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        self._process = None


def open_log(path: Path) -> IO[bytes]:
    """The log, to be added to; what is long is put aside as the one old log that is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return path.open("ab")


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])

"""Relays and a model node, each a process, on loopback and free ports."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from planetserve.encoding import decode, encode

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0


class OverlayNetwork:
    """`relays` relays and one model node that says what it was sent; a context manager.

    `folder` is an empty one of the caller's.
    """

    def __init__(self, folder: Path, relays: int) -> None:
        self.folder = folder
        self._names = [("model", 1), *(("relay", number) for number in range(1, relays + 1))]
        self._ports: dict[tuple[str, int], int] = {}
        self._processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        (self.folder / "records").mkdir()
        try:
            for kind, number in self._names:
                self.start(kind, number)
            records = [self._record(kind, number) for kind, number in self._names]
        except BaseException:
            self._end()
            raise
        new = self.folder / "routes.new"
        new.write_bytes(encode(records))
        new.rename(self.folder / "routes")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def start(self, kind: str, number: int) -> None:
        """Start a node, again on the port that it had."""
        port = self._ports.get((kind, number), 0)
        command = [sys.executable, "-m", "bench.overlay_node"]
        arguments = [str(self.folder), kind, str(number), str(port)]
        self._processes[kind, number] = subprocess.Popen([*command, *arguments])

    def kill(self, kind: str, number: int) -> None:
        """End a node without a word."""
        process = self._processes[kind, number]
        process.kill()
        process.wait()

    def pid(self, kind: str, number: int) -> int:
        return self._processes[kind, number].pid

    def _record(self, kind: str, number: int) -> object:
        path = self.folder / "records" / f"{kind}-{number}"
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            code = self._processes[kind, number].poll()
            if code is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{kind}-{number} did not start (exit code {code})")
            time.sleep(0.02)
        record = decode(path.read_bytes())
        endpoint = record["endpoints"]["overlay"]
        self._ports[kind, number] = int(endpoint.rpartition(":")[2])
        return record

    def _end(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

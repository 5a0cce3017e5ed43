"""The ledger's process without CometBFT, and a client that takes CometBFT's place.

`python -m bench.ledger_app HOME CHAIN_ID` serves ABCI at HOME/app.sock until SIGTERM, from the same
parts as `ps-node`: store, application, handlers, server, snapshots and housekeeping. What is
measured through the socket is what CometBFT waits for.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abci_app.application import Application
from abci_app.config_file import KEEP_SNAPSHOTS, SNAPSHOT_BLOCKS, Schedule
from abci_app.handlers import Handlers, Operations
from abci_app.home import DATABASE, SNAPSHOTS
from abci_app.housekeeping import Housekeeping
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.restore import StateSync
from abci_app.server import AbciServer
from abci_app.snapshots import Archive
from abci_app.store import open_store
from abci_app.wire import FrameDecoder, encode_frame
from bench.ledger_network import cpu_s, stop_process

START_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 300.0
FLUSH = encode_frame(abci.Request(flush=abci.RequestFlush()).SerializeToString())


@dataclass(frozen=True, slots=True)
class Answered:
    """One request's answer, and the seconds from sending it to having read the answer."""

    response: abci.Response
    seconds: float


class Peer:
    """One ABCI connection to the app."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._socket.connect(str(path))
        self._decoder = FrameDecoder()
        self._ready: list[bytes] = []

    def close(self) -> None:
        self._socket.close()

    def ask(self, request: abci.Request) -> Answered:
        frame = encode_frame(request.SerializeToString()) + FLUSH
        started_s = time.perf_counter()
        self._socket.sendall(frame)
        answer = self._next()
        self._next()  # the Flush's
        seconds = time.perf_counter() - started_s
        return Answered(abci.Response.FromString(answer), seconds)

    def check(self, transactions: Sequence[bytes], *, again: bool = False) -> float:
        """Seconds for CheckTx of all, sent at once as CometBFT does. Raises `RuntimeError` when
        one is refused."""
        kind = abci.RECHECK if again else abci.NEW
        frames = b"".join(
            encode_frame(
                abci.Request(check_tx=abci.RequestCheckTx(tx=raw, type=kind)).SerializeToString()
            )
            for raw in transactions
        )
        started_s = time.perf_counter()
        sender = threading.Thread(target=self._socket.sendall, args=(frames + FLUSH,))
        sender.start()
        answers = [self._next() for _ in transactions]
        self._next()
        seconds = time.perf_counter() - started_s
        sender.join()
        for answer in answers:
            result = abci.Response.FromString(answer).check_tx
            if result.code:
                raise RuntimeError(f"CheckTx refused: {result.log}")
        return seconds

    def finalize(self, height: int, transactions: Sequence[bytes]) -> float:
        """Seconds for FinalizeBlock. Raises `RuntimeError` when a transaction fails."""
        request = abci.RequestFinalizeBlock(height=height, txs=transactions)
        answered = self.ask(abci.Request(finalize_block=request))
        for result in answered.response.finalize_block.tx_results:
            if result.code:
                raise RuntimeError(f"block {height}: {result.log}")
        return answered.seconds

    def commit(self) -> float:
        return self.ask(abci.Request(commit=abci.RequestCommit())).seconds

    def _next(self) -> bytes:
        while not self._ready:
            data = self._socket.recv(1 << 18)
            if not data:
                raise RuntimeError("the app closed its connection")
            self._ready = self._decoder.feed(data)[::-1]
        return self._ready.pop()


@dataclass(frozen=True, slots=True)
class App:
    path: Path
    pid: int

    def cpu_s(self) -> float:
        """Processor seconds used so far, in steps of a hundredth."""
        return cpu_s(self.pid)

    def resident_mib(self) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    @contextmanager
    def peer(self) -> Iterator[Peer]:
        peer = Peer(self.path)
        try:
            yield peer
        finally:
            peer.close()


@contextmanager
def running_app(home: Path, chain_id: str) -> Iterator[App]:
    home.mkdir(parents=True)
    with (home / "app.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.ledger_app", str(home), chain_id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        path = home / "app.sock"
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError((home / "app.log").read_text(errors="replace"))
            time.sleep(0.05)
        yield App(path, process.pid)
    finally:
        stop_process(process)


def serve(home: Path, chain_id: str) -> None:
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = open_store(home / DATABASE, chain_id)
    application, metrics = Application(store, chain_id), LedgerMetrics()
    archive = Archive(home / SNAPSHOTS, chain_id, KEEP_SNAPSHOTS)
    housekeeping = Housekeeping(store, archive, Schedule(SNAPSHOT_BLOCKS), metrics)
    operations = Operations(archive, StateSync(application, store, chain_id), housekeeping)
    server = AbciServer(Handlers(application, metrics, operations), lambda _: stopping.set())
    server.listen(f"unix://{home / 'app.sock'}")
    server.serve()
    housekeeping.start()
    stopping.wait()
    server.close()
    housekeeping.close()
    store.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])

"""Hops of a measured chain, a process each, and a load through them.

The load's first socket dials the first hop, its last stands for whoever follows the last: a model
node, or one more relay. It is the same for our relays and for bare ones, and its frames are made
beforehand, so that what differs is the hops.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zmq

from bench.ledger_network import stop_process
from bench.overlay_node import identity_of, record_of
from bench.relay_hop import client_options, server_options
from planetserve.encoding import encode
from planetserve.keys import Identity

SEND_BURST, RECEIVE_BURST, BACK_BURST = 32, 64, 16
TURNS_A_HEARING = 8
MOST_UNDER_WAY = 1024
SILENCE_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Hop:
    identity: Identity
    port: int
    pid: int

    def resident_mib(self) -> float:
        text = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in text.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


class Sender(Protocol):
    """What a load sends."""

    def next(self) -> tuple[int, bytes] | None:
        """The number of a first socket and a frame for it; None if there is none now."""

    def heard(self, socket: int, frame: bytes) -> None:
        """A frame came back."""


@contextmanager
def chain(
    kind: str, folder: Path, numbers: Sequence[int], sink: Identity, port: int
) -> Iterator[list[Hop]]:
    """Relays of `numbers`, nearest first, with `sink` behind them at `port`. For ours, the route
    set is written last: they learn of each other soon after."""
    processes: list[subprocess.Popen[bytes]] = []
    hops: list[Hop] = []
    next_port, last = port, 0
    try:
        for number in reversed(numbers):
            arguments = [kind, str(folder), str(number), str(last), str(next_port)]
            command = [sys.executable, "-m", "bench.relay_hop", *arguments]
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            next_port, last = int(process.stdout.readline()), number
            hops.insert(0, Hop(identity_of("relay", number), next_port, process.pid))
        if kind == "ours":
            records = [record_of(h.identity, f"relay-{h.port}", "relay", h.port) for h in hops]
            role = "model" if sink == identity_of("model", 1) else "relay"
            records.append(record_of(sink, "sink", role, port))
            new = folder / "routes.new"
            new.write_bytes(encode([record.to_wire() for record in records]))
            new.rename(folder / "routes")
        yield hops
    finally:
        for process in processes:
            stop_process(process)
            assert process.stdout is not None
            process.stdout.close()


class Load:
    """Sockets at both ends of a chain; a context manager."""

    def __init__(self, sink: Identity) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sink = self._context.socket(zmq.ROUTER)
        self._poller = zmq.Poller()
        self._poller.register(self._sink, zmq.POLLIN)
        self._firsts: list[zmq.Socket[bytes]] = []
        server_options(self._sink, sink)
        self.port = self._sink.bind_to_random_port("tcp://127.0.0.1")

    def close(self) -> None:
        self._context.destroy(linger=0)

    def dial(self, hop: Hop, source: str = "127.0.0.1") -> int:
        """A first socket, of an address of its own; returns its number."""
        socket = self._context.socket(zmq.DEALER)
        client_options(socket, hop.identity)
        socket.connect(f"tcp://{source}:0;127.0.0.1:{hop.port}")
        self._poller.register(socket, zmq.POLLIN)
        self._firsts.append(socket)
        return len(self._firsts) - 1

    def send(self, socket: int, frame: bytes) -> None:
        self._firsts[socket].send(frame)

    def came_back(self, socket: int, timeout_s: float) -> bytes | None:
        """One frame from the first hop."""
        if not self._firsts[socket].poll(int(timeout_s * 1000)):
            return None
        return self._firsts[socket].recv()

    def arrived(self, timeout_s: float) -> bytes:
        """One frame at the sink. Raises `RuntimeError` when none comes."""
        if not self._sink.poll(int(timeout_s * 1000)):
            raise RuntimeError("no cell came through the chain")
        return self._sink.recv_multipart()[1]

    def run(self, sender: Sender, warm_up: int, cells: int) -> float:
        """Cells a second at the sink, of `cells` after the first `warm_up`."""
        under_way = done = turns = 0
        started_s = heard_s = time.perf_counter()
        while done < warm_up + cells:
            progress = False
            for _ in range(SEND_BURST):
                item = sender.next() if under_way < MOST_UNDER_WAY else None
                if item is None:
                    break
                self.send(*item)
                under_way += 1
                progress = True
            for _ in range(RECEIVE_BURST):
                if not self._received():
                    break
                under_way, done, progress = under_way - 1, done + 1, True
                if done == warm_up:
                    started_s = time.perf_counter()
            turns += 1
            if not progress or turns % TURNS_A_HEARING == 0:
                progress |= self.hear(sender)
            if progress:
                heard_s = time.perf_counter()
            elif time.perf_counter() - heard_s > SILENCE_TIMEOUT_S:
                raise RuntimeError(f"the chain stopped after {done} cells")
            else:
                self._poller.poll(10)
        return cells / (time.perf_counter() - started_s)

    def wait(self, timeout_s: float) -> None:
        """Until something comes. Raises `RuntimeError` when nothing does."""
        if not self._poller.poll(int(timeout_s * 1000)):
            raise RuntimeError("nothing came")

    def hear(self, sender: Sender) -> bool:
        """Hand what came back to `sender`; whether anything did."""
        ready = dict(self._poller.poll(0))
        anything = False
        for number, socket in enumerate(self._firsts):
            if socket not in ready:
                continue
            anything = True
            for _ in range(BACK_BURST):
                try:
                    frame = socket.recv(zmq.DONTWAIT)
                except zmq.Again:
                    break
                sender.heard(number, frame)
        return anything

    def _received(self) -> bool:
        try:
            self._sink.recv(zmq.DONTWAIT)
        except zmq.Again:
            return False
        self._sink.recv(zmq.DONTWAIT)
        return True

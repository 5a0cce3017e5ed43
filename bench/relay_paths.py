"""Paths of a measured chain, with all their cells made beforehand."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from bench.relay_chain import Hop, Load
from overlay.core import payload as payloads
from overlay.core.layer import unwrap, wrap
from overlay.core.payload import Payload, decode_payload, encode_payload
from overlay.core.reasons import read_close_body, read_error_data
from overlay.core.relay_exit import CREDIT_STEP
from overlay.core.setup import HopKeys, HopSpec, build_setup, period_of
from overlay.core.wire import (
    BODY_BYTES,
    CELL,
    CLOSE,
    FRAME_BYTES,
    ID_BYTES,
    SETUP,
    CellError,
    backward_id,
    decode_frame,
    encode_frame,
)
from planetserve.keys import Identity

FILLER_BYTES = 48
NO_PUZZLE = bytes(8)
READY_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 5.0
RETRY_S = 0.1


@dataclass(slots=True, eq=False)
class Path:
    """A path over the first socket `socket`; `credits` is None where the sink is the last hop."""

    socket: int
    link_id: bytes
    setup: bytes
    keys: tuple[HopKeys, ...]
    credits: int | None = None
    cells: deque[bytes] = field(default_factory=deque)
    _sent: int = 0
    _heard: int = 0

    def prepare(self, target: bytes, count: int) -> None:
        """Make `count` cells more, of a stream to `target`."""
        keys = [hop.forward for hop in self.keys]
        chunk = bytes(payloads.OPEN_CHUNK_BYTES)
        for _ in range(count):
            command, data = payloads.DATA, chunk
            if self._sent == 0:
                command, data = payloads.OPEN, target + chunk
            body = wrap(
                keys, self._sent, encode_payload(Payload(command, 1, data)), bytes(FILLER_BYTES)
            )
            self.cells.append(encode_frame(self.link_id, CELL, body))
            self._sent += 1

    def heard(self, frame: bytes) -> None:
        """A cell of the last relay's. Raises `RuntimeError` if the path was closed."""
        read = decode_frame(frame)
        if read.kind == CLOSE:
            raise RuntimeError(f"a path was closed: {read_close_body(read.body).reason.name}")
        payload = self._opened(read.body)
        self._heard += 1
        if payload.command == payloads.ERROR:
            reason = read_error_data(payload.data).reason.name
            raise RuntimeError(f"a relay ended a path: {reason}")
        if payload.command == payloads.ESTABLISHED:
            self.credits, _ = payloads.read_established(payload)
        elif payload.command == payloads.CREDIT and self.credits is not None:
            self.credits += int.from_bytes(payload.data, "big")

    def _opened(self, body: bytes) -> Payload:
        """What the last hop says, or a nearer one."""
        keys = [hop.backward for hop in self.keys]
        for count in range(len(keys), 1, -1):
            with suppress(CellError):
                return decode_payload(unwrap(keys[:count], self._heard, body))
        return decode_payload(unwrap(keys[:1], self._heard, body))


def new_path(socket: int, hops: Sequence[Identity]) -> Path:
    specs = [HopSpec(hop.id, hop.onion_public, os.urandom(32)) for hop in hops]
    nonces = [NO_PUZZLE] * len(hops)
    body, keys = build_setup(specs, period_of(time.time()), nonces, os.urandom(BODY_BYTES))
    link_id = os.urandom(ID_BYTES)
    return Path(socket, link_id, encode_frame(link_id, SETUP, body), keys)


def establish(load: Load, socket: int, hops: Sequence[Identity]) -> Path:
    """A path that has answered. Relays may not know each other yet, so it is tried again."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        path = new_path(socket, hops)
        load.send(socket, path.setup)
        frame = load.came_back(socket, ANSWER_TIMEOUT_S)
        with suppress(RuntimeError):
            if frame is not None and frame[:ID_BYTES] == backward_id(path.link_id):
                path.heard(frame)
        if path.credits is not None:
            return path
        time.sleep(RETRY_S)
    raise RuntimeError("no path was established")


class PathSender:
    """Cells of all paths in turn, as far as their credits go."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._by_id = {backward_id(path.link_id): path for path in paths}
        self._turn = deque(paths)

    def next(self) -> tuple[int, bytes] | None:
        while self._turn:
            path = self._turn.popleft()
            if not path.cells or path.credits == 0:
                continue  # it is back with its next credits
            if path.credits is not None:
                path.credits -= 1
            self._turn.append(path)
            return path.socket, path.cells.popleft()
        return None

    def heard(self, socket: int, frame: bytes) -> None:
        path = self._by_id.get(frame[:ID_BYTES])
        if path is None:
            return
        if path.credits is None:  # a relay in the middle grants nothing
            path.heard(frame)
            return
        # Nothing else comes back than credits; to open each cell would take this end's time.
        path.credits += CREDIT_STEP
        if path.credits == CREDIT_STEP and path not in self._turn:
            self._turn.append(path)


class RandomSender(PathSender):
    """Frames for hops that do not look at them, as many and in the same turns as of our paths: to
    send one again and again would cost the load less."""

    def __init__(self, socket: int, paths: int, frames_a_path: int) -> None:
        frames = [[os.urandom(FRAME_BYTES) for _ in range(frames_a_path)] for _ in range(paths)]
        super().__init__([Path(socket, f[0][:ID_BYTES], b"", (), cells=deque(f)) for f in frames])

    def heard(self, socket: int, frame: bytes) -> None:
        raise RuntimeError("a bare chain says nothing back")


def middle_paths(
    load: Load, sockets: Sequence[int], relay: Hop, sink: Identity, count: int
) -> list[Path]:
    """`count` paths through `relay` to the sink as their next hop, spread over `sockets`."""
    paths = [new_path(sockets[i % len(sockets)], (relay.identity, sink)) for i in range(count)]
    for path in paths:
        load.send(path.socket, path.setup)
    for _ in paths:
        load.arrived(ANSWER_TIMEOUT_S)
    return paths

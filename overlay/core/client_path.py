"""One path at its owner.

state     event                               next      effects
────────  ──────────────────────────────────  ────────  ─────────────────────────────────────────
(none)    build                               BUILDING  SETUP to the first hop
BUILDING  ESTABLISHED                         OPEN      Opened
OPEN      open_stream, end_stream, ping       OPEN      CELL to the first hop, as credits allow
OPEN      DATA                                OPEN      Chunk, and credits to the last hop
OPEN      END                                 OPEN      StreamOver
OPEN      CREDIT                              OPEN      CELL: what waited for it
OPEN      PONG                                OPEN      Pong
any       CLOSE from the first hop            CLOSED    Broken, by nobody known
any       ERROR of a hop                      CLOSED    Broken by that hop, CLOSE to the first
any       CELL that does not open, or says    CLOSED    Broken, by nobody known or by the last,
          what may not come now                         CLOSE to the first
any       close                               CLOSED    CLOSE to the first hop

`Report`s that refuse a set-up speak of the hop after the one that authenticated them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from overlay.core import payload as payloads
from overlay.core.credit import CreditMeter, CreditWindow
from overlay.core.effects import Entropy, Peer, Send
from overlay.core.layer import MAX_HOPS, TAG_BYTES, unwrap, wrap
from overlay.core.payload import Payload, decode_payload, encode_payload
from overlay.core.reasons import (
    Reason,
    Report,
    read_close_body,
    read_end_data,
    read_error_data,
)
from overlay.core.setup import HopKeys, HopSpec, build_setup
from overlay.core.wire import (
    BODY_BYTES,
    CELL,
    CLOSE,
    ID_BYTES,
    SETUP,
    CellError,
    Frame,
    backward_id,
    encode_frame,
)

BUILDING = "BUILDING"
OPEN = "OPEN"
CLOSED = "CLOSED"

MAX_WINDOW = 4096
"""More credits than any relay has reason to grant or ask for."""
FILLER_BYTES = (MAX_HOPS - 1) * TAG_BYTES


@dataclass(frozen=True, slots=True)
class Opened:
    """Every hop has its keys."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The model node of `stream` sent `data`."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamOver:
    """The last relay says that the stream ended."""

    stream: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Pong:
    data: bytes


@dataclass(frozen=True, slots=True)
class Broken:
    """The path is over. `origin` is the hop that authenticated the `report`; None where nobody
    did: the first hop's CLOSE, or a cell that does not open."""

    report: Report
    origin: int | None


PathEvent: TypeAlias = Opened | Chunk | StreamOver | Pong | Broken
Step: TypeAlias = tuple[list[Send], list[PathEvent]]

TRANSITIONS = frozenset(
    {
        (BUILDING, Opened, OPEN),
        (BUILDING, Broken, CLOSED),
        (OPEN, Broken, CLOSED),
        (BUILDING, None, CLOSED),
        (OPEN, None, CLOSED),
    }
)
"""Every change of a path's phase, with the event that tells of it; None where the owner closed."""


@dataclass(slots=True, eq=False)
class ClientPath:
    """`hops` are node ids from the nearest on; the forward id names the path on the first link.

    Mutable, because it sees every cell.
    """

    hops: tuple[bytes, ...]
    first: Peer
    forward_id: bytes
    backward_id: bytes
    _keys: tuple[HopKeys, ...]
    _entropy: Entropy
    phase: str = BUILDING
    cells_heard: int = 0
    """Cells that came and authenticated, which is also the counter of the next."""
    _sent: int = 0
    _last_stream: int = 0
    _streams: set[int] = field(default_factory=set)
    _held: deque[Payload] = field(default_factory=deque)
    _window: CreditWindow = field(default_factory=lambda: CreditWindow(0, 0))
    _meter: CreditMeter = field(default_factory=lambda: CreditMeter(1, 1))

    def open_stream(self, target: bytes, data: bytes) -> tuple[int, list[Send]]:
        """A stream to the model node `target` that begins with `data`; its number comes first.

        Raises `ValueError` unless the path is open.
        """
        self._check_open()
        self._last_stream += 1
        number = self._last_stream
        self._streams.add(number)
        first, rest = data[: payloads.OPEN_CHUNK_BYTES], data[payloads.OPEN_CHUNK_BYTES :]
        self._held.append(Payload(payloads.OPEN, number, target + first))
        for start in range(0, len(rest), payloads.CHUNK_BYTES):
            chunk = rest[start : start + payloads.CHUNK_BYTES]
            self._held.append(Payload(payloads.DATA, number, chunk))
        return number, self._released()

    def end_stream(self, stream: int) -> list[Send]:
        """Nothing more is sent or awaited; what waited for credit is dropped."""
        if self.phase != OPEN or stream not in self._streams:
            return []
        self._streams.discard(stream)
        # An OPEN that waits goes out all the same: the relay counts the numbers.
        kept = [p for p in self._held if p.stream != stream or p.command == payloads.OPEN]
        unopened = any(p.stream == stream for p in kept)
        self._held = deque(kept)
        end = Payload(payloads.END, stream, bytes((Reason.NONE,)))
        if unopened:
            place = 1 + max(i for i, p in enumerate(kept) if p.stream == stream)
            self._held.insert(place, end)
            return self._released()
        return [self._cell(end)]

    def ping(self, data: bytes) -> list[Send]:
        """`data` has 8 bytes and comes back in a `Pong`. Raises `ValueError` unless open."""
        self._check_open()
        return [self._cell(Payload(payloads.PING, data=data))]

    def frame_arrived(self, frame: Frame) -> Step:
        """A frame under the path's backward id from the first hop; never raises."""
        if self.phase == CLOSED:
            return [], []
        if frame.kind == CLOSE:
            try:
                report = read_close_body(frame.body)
            except CellError:
                report = Report(Reason.PROTOCOL)
            return self._broken(report, None)
        try:
            if frame.kind != CELL:
                raise CellError("a frame of a kind that may not come here")
            payload, origin = self._opened(frame.body)
        except CellError:
            return self._broken(Report(Reason.PROTOCOL), None)
        try:
            return self._say(payload, origin)
        except CellError:
            return self._broken(Report(Reason.PROTOCOL), origin)

    def close(self) -> list[Send]:
        """Give the path up and tell its first hop."""
        if self.phase == CLOSED:
            return []
        self.phase = CLOSED
        self._held.clear()
        self._streams.clear()
        return [
            Send(self.first, encode_frame(self.forward_id, CLOSE, Report(Reason.NONE).close_body()))
        ]

    def _opened(self, body: bytes) -> tuple[Payload, int]:
        """The payload of a cell, and which hop it is of. Raises `CellError`."""
        keys = [hop.backward for hop in self._keys]
        for count in range(len(keys), 0, -1):
            try:
                plain = unwrap(keys[:count], self.cells_heard, body)
            except CellError:
                continue
            payload = decode_payload(plain)
            self.cells_heard += 1
            return payload, count - 1
        raise CellError("a cell does not open")

    def _say(self, payload: Payload, origin: int) -> Step:
        if payload.command == payloads.ERROR:
            return self._broken(read_error_data(payload.data), origin)
        if origin != len(self._keys) - 1 or payload.command not in payloads.BACKWARD:
            raise CellError("a hop said what only the last, or the owner, may")
        if self.phase == BUILDING:
            return self._establish(payload)
        match payload.command:
            case payloads.DATA:
                self._meter.arrived()
                granted = self._meter.consumed()
                sends = [self._cell(payloads.credit(granted))] if granted else []
                known = payload.stream in self._streams
                return sends, [Chunk(payload.stream, payload.data)] if known else []
            case payloads.END:
                if payload.stream not in self._streams:
                    return [], []
                self._streams.discard(payload.stream)
                self._held = deque(
                    p
                    for p in self._held
                    if p.stream != payload.stream or p.command == payloads.OPEN
                )
                reason = read_end_data(payload.data)
                return [], [StreamOver(payload.stream, reason)]
            case payloads.CREDIT:
                self._window.grant(int.from_bytes(payload.data, "big"))
                return self._released(), []
            case payloads.PONG:
                return [], [Pong(payload.data)]
            case payloads.PAD:
                return [], []
        raise CellError("a path cannot be established twice")

    def _establish(self, payload: Payload) -> Step:
        if payload.command != payloads.ESTABLISHED:
            raise CellError("a relay spoke before its path was established")
        forward, backward = payloads.read_established(payload)
        if not (1 <= forward <= MAX_WINDOW and 1 <= backward <= MAX_WINDOW):
            raise CellError("a window that no relay has")
        self._window = CreditWindow(forward, forward)
        self._meter = CreditMeter(backward, max(1, backward // 4))
        self.phase = OPEN
        return [], [Opened()]

    def _broken(self, report: Report, origin: int | None) -> Step:
        return self.close(), [Broken(report, origin)]

    def _released(self) -> list[Send]:
        """What waits and may go now: an END needs no credit, only its place."""
        sends = []
        while self._held and (self._held[0].command == payloads.END or self._window.take()):
            sends.append(self._cell(self._held.popleft()))
        return sends

    def _cell(self, payload: Payload) -> Send:
        keys = [hop.forward for hop in self._keys]
        body = wrap(keys, self._sent, encode_payload(payload), self._entropy(FILLER_BYTES))
        self._sent += 1
        return Send(self.first, encode_frame(self.forward_id, CELL, body))

    def _check_open(self) -> None:
        if self.phase != OPEN:
            raise ValueError("the path is not open")


def build(
    hops: Sequence[HopSpec],
    period: int,
    puzzle_nonces: Sequence[bytes],
    entropy: Entropy,
) -> tuple[ClientPath, list[Send]]:
    """Begin a path through `hops` in `period` (`overlay.core.setup.period_of`).

    `puzzle_nonces` has 8 bytes a hop. Raises `ValueError` for an onion key of low order, which no
    honest node has.
    """
    body, keys = build_setup(hops, period, puzzle_nonces, entropy(BODY_BYTES))
    first, link_id = Peer(True, hops[0].node), entropy(ID_BYTES)
    nodes = tuple(hop.node for hop in hops)
    path = ClientPath(nodes, first, link_id, backward_id(link_id), keys, entropy)
    return path, [Send(first, encode_frame(link_id, SETUP, body))]

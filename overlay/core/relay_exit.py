"""The last relay of a path: streams between the path's owner and model nodes.

stream  event                              next    effects
──────  ─────────────────────────────────  ──────  ───────────────────────────────────────────
NEW     OPEN, the next number              OPEN    STREAM to the target
NEW     OPEN, target not in the ledger,    ENDED   END to the owner
        or too many streams
OPEN    DATA                               OPEN    STREAM to the target
OPEN    END                                ENDED   STREAM_END to the target
OPEN    STREAM from the target             OPEN    DATA to the owner, when there is credit
OPEN    STREAM_END, the target is gone     ENDED   END to the owner, after the data before it
OPEN    its queue to the target overflows  ENDED   STREAM_END to the target, END to the owner
ENDED   DATA, END                          ENDED   (they crossed an END)
any     OPEN of a number used before,      -       protocol error: the path is closed
        DATA or END of one never opened,
        a cell without credit

The owner's credit for a cell is granted anew when the cell has left for the target. What a model
node sends beyond the owner's credits waits here; it knows of none, and its frames are paced.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from overlay.core import payload as payloads
from overlay.core.credit import CreditMeter, CreditWindow
from overlay.core.effects import Entropy, Passed, Peer, Send
from overlay.core.layer import PAYLOAD_BYTES
from overlay.core.payload import Payload
from overlay.core.quotas import PINGS, TokenBucket
from overlay.core.reasons import Reason, Report
from overlay.core.wire import (
    BODY_BYTES,
    ID_BYTES,
    STREAM,
    STREAM_END,
    CellError,
    encode_frame,
    stream_frame,
)
from planetserve.keys import NODE_ID_BYTES

NEW = "NEW"
OPEN = "OPEN"
ENDED = "ENDED"

TRANSITIONS = frozenset(
    {
        (NEW, payloads.OPEN, OPEN),
        (NEW, payloads.OPEN, ENDED),
        (OPEN, payloads.END, ENDED),
        (OPEN, None, ENDED),
    }
)
"""Every change of a stream's state, with the owner's command that may bring it about; None for
what the model node or its queue does."""

FORWARD_WINDOW = 128
BACKWARD_WINDOW = 256
CREDIT_STEP = 32
MAX_STREAMS = 16
_FREE = bytes(BODY_BYTES - (PAYLOAD_BYTES - 3))
"""What a STREAM has room for beyond the length and chunk of a payload."""
MAX_WAITING = 256
"""Payloads that wait for credit; when a model node sends more, the path is closed."""


@dataclass(slots=True)
class Stream:
    """`link_id` names it on the link to `target`; `unsent` frames wait for that link."""

    target: Peer
    link_id: bytes
    unsent: int = 0
    _head: bytes = b""

    def __post_init__(self) -> None:
        self._head = self.link_id + bytes((STREAM,))

    def pass_on(self, length_and_chunk: bytes) -> Passed:
        """A chunk on its way, as it stands in the payload: `length 2 | chunk | zeros`."""
        self.unsent += 1
        return self.target, b"".join((self._head, length_and_chunk, _FREE))

    def end(self, reason: Reason = Reason.NONE) -> Send:
        body = Report(reason).close_body()
        return Send(self.target, encode_frame(self.link_id, STREAM_END, body))


@dataclass(slots=True)
class Outcome:
    """What came of an event: payloads for the owner, frames for model nodes, and which streams
    there are newly (by number) and no more, for the relay's tables."""

    say: list[Payload] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    opened: int | None = None
    ended: Stream | None = None


@dataclass(slots=True)
class Exit:
    """The streams of one path, by number; mutable, because it sees every cell."""

    streams: dict[int, Stream] = field(default_factory=dict)
    _last: int = 0
    _window: CreditWindow = field(
        default_factory=lambda: CreditWindow(BACKWARD_WINDOW, BACKWARD_WINDOW)
    )
    _meter: CreditMeter = field(default_factory=lambda: CreditMeter(FORWARD_WINDOW, CREDIT_STEP))
    _waiting: deque[Payload] | None = None
    _pings: TokenBucket | None = None

    def state(self, number: int) -> str:
        """Of the stream with this number."""
        if number > self._last:
            return NEW
        return OPEN if number in self.streams else ENDED

    def from_owner(self, payload: Payload, known: bool, entropy: Entropy, now_s: float) -> Outcome:
        """`known` says whether the ledger lists the target of an OPEN. Raises `CellError` when
        the path is to be closed."""
        outcome = Outcome()
        match payload.command:
            case payloads.OPEN:
                self._meter.arrived()
                self._open(payload, known, entropy, outcome)
            case payloads.DATA:
                self._meter.arrived()
                self._pass_on(self._stream(payload), payload.data, outcome)
            case payloads.END:
                self._stream(payload)
                stream = self._drop(payload.stream, outcome)
                if stream is not None:
                    outcome.sends.append(stream.end())
            case payloads.CREDIT:
                self._window.grant(int.from_bytes(payload.data, "big"))
                outcome.say += self._released()
            case payloads.PING:
                if self._pings is None:
                    self._pings = TokenBucket(float(PINGS.burst), now_s)
                if self._pings.take(PINGS, now_s):
                    outcome.say.append(Payload(payloads.PONG, data=payload.data))
            case payloads.PAD:
                pass
            case _:
                raise CellError("the owner of a path sent what only relays send")
        return outcome

    def passed_on(self, plain: bytes) -> Passed | None:
        """What `from_owner` does with the DATA of an open stream, without a detour, since most
        cells are that; None for all else. `plain` begins with the payload. Raises `CellError` for
        a cell without credit."""
        command, number, length = payloads.HEAD.unpack_from(plain)
        stream = self.streams.get(number)
        end = payloads.HEADER_BYTES + length
        if command != payloads.DATA or stream is None or end > PAYLOAD_BYTES:
            return None
        if any(plain[end:PAYLOAD_BYTES]):
            return None
        self._meter.arrived()
        return stream.pass_on(plain[3:PAYLOAD_BYTES])

    def from_target(self, number: int, chunk: bytes) -> list[Payload]:
        """A chunk from the model node of an open stream. Raises `CellError` when the path is to
        be closed."""
        return self._queued(Payload(payloads.DATA, number, chunk))

    def target_ended(self, number: int, reason: Reason) -> Outcome:
        """The model node ended the stream, is gone or does not read. Raises `CellError`."""
        outcome = Outcome()
        if self._drop(number, outcome) is not None:
            outcome.say += self._queued(_end(number, reason))
        return outcome

    def sent(self, number: int, frames: int = 1) -> list[Payload]:
        """So many frames of the stream left for its target."""
        stream = self.streams.get(number)
        if stream is None:
            return []
        left = min(frames, stream.unsent)
        stream.unsent -= left
        return self._consumed(left)

    def end_all(self) -> list[Send]:
        """The path is over. Its model nodes learn that the owner did not end the streams, and wait
        for it to take its answers up over another path."""
        return [stream.end(Reason.NEIGHBOUR_GONE) for stream in self.streams.values()]

    def _open(self, payload: Payload, known: bool, entropy: Entropy, outcome: Outcome) -> None:
        if payload.stream != self._last + 1:
            raise CellError("a stream's number is not the next")
        self._last = payload.stream
        target, chunk = payload.data[:NODE_ID_BYTES], payload.data[NODE_ID_BYTES:]
        refusal = Reason.QUOTA if len(self.streams) >= MAX_STREAMS else Reason.TARGET_UNREACHABLE
        if not known or refusal == Reason.QUOTA:
            outcome.say += self._consumed(1)
            outcome.say += self._queued(_end(payload.stream, refusal))
            return
        stream = self.streams[payload.stream] = Stream(Peer(True, target), entropy(ID_BYTES))
        outcome.opened = payload.stream
        self._pass_on(stream, chunk, outcome)

    def _stream(self, payload: Payload) -> Stream | None:
        if payload.stream > self._last:
            raise CellError("a cell of a stream that was never opened")
        return self.streams.get(payload.stream)

    def _pass_on(self, stream: Stream | None, chunk: bytes, outcome: Outcome) -> None:
        if stream is None:  # it ended at the other side meanwhile
            outcome.say += self._consumed(1)
            return
        stream.unsent += 1
        outcome.sends.append(Send(stream.target, stream_frame(stream.link_id, chunk)))

    def _drop(self, number: int, outcome: Outcome) -> Stream | None:
        stream = self.streams.pop(number, None)
        if stream is not None:
            outcome.ended = stream
            outcome.say += self._consumed(stream.unsent)
        return stream

    def _consumed(self, cells: int) -> list[Payload]:
        granted = self._meter.consumed(cells)
        return [payloads.credit(granted)] if granted else []

    def _queued(self, payload: Payload) -> list[Payload]:
        """What of the data for the owner may go now, `payload` after what waits already."""
        if self._waiting is None:
            if payload.command == payloads.END or self._window.take():
                return [payload]
            self._waiting = deque()
        if len(self._waiting) >= MAX_WAITING:
            raise CellError("a model node sends more than the owner takes")
        self._waiting.append(payload)
        return self._released()

    def _released(self) -> list[Payload]:
        released: list[Payload] = []
        while self._waiting and (self._waiting[0].command == payloads.END or self._window.take()):
            released.append(self._waiting.popleft())
        if not self._waiting:
            self._waiting = None
        return released


def _end(number: int, reason: Reason) -> Payload:
    return Payload(payloads.END, number, bytes((reason,)))

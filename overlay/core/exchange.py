"""The asking end of one request: cloves out over the slots of a path set, the answer in.

state      event                                       next       effects
─────────  ──────────────────────────────────────────  ─────────  ─────────────────────────
READY      slot open                                   SENT       OpenStream: its clove
SENT       slot open, its clove was never sent         SENT       OpenStream: its clove
SENT       slot open, its clove was sent               SENT       OpenStream: an attach
SENT       END on k slots, or silence                  ENDED      Failed, EndStream, Silent
SENT       first whole frame                           ANSWERING  Give
ANSWERING  slot open                                   ANSWERING  OpenStream: clove or attach
ANSWERING  whole frames                                ANSWERING  Give
ANSWERING  END on k slots, no whole frame for long     ENDED      Failed, EndStream, Silent
ANSWERING  frame END                                   DRAINING   Give, Done
DRAINING   frame LAST, silence, or more than padding   ENDED      EndStream
any        chunk does not authenticate                 same       EndStream, Polluted
any        END of a stream that was an attach          same       OpenStream: the clove, sealed
                                                                  anew
READY      fewer than k slots for too long             ENDED      Failed
SENT       fewer than k slots for too long             ENDED      Failed, EndStream
ANSWERING  fewer than k slots for too long             ENDED      Failed, EndStream
SENT       a bad frame                                 ENDED      Failed, EndStream
ANSWERING  unread beyond its bound, a bad frame        ENDED      Failed, EndStream
DRAINING   a bad frame                                 ENDED      EndStream
any        cancel                                      ENDED      EndStream

The padding is taken in to its end, however long the answer was; who hangs up before tells its
length. No honest node pads by more than the next step or the wish, or at less than half its beat.
Whatever happens to the padding, an answer that is whole is never followed by a failure.

Slot i carries clove `cloves[i]`. A slot that is lost and opens again takes the answer up where it
stands. A model node that does not know an attach never got the clove, so the clove follows. Each
stream is sealed anew: a last relay that says of an attach what it likes sees bytes that no other
relay saw.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from overlay.core.attach import MAX_ATTACHES, Attach
from overlay.core.effects import Entropy
from overlay.core.frames import WINDOW_FRAMES, AnswerAssembler, FrameError
from overlay.core.pacing import BEAT_S, MAX_FRAMES_BY_WISH
from overlay.core.padding import answer_frames
from overlay.core.reasons import Reason
from overlay.core.request import OutgoingRequest
from planetserve.errors import (
    AnswerCutShort,
    NodeUnreachable,
    PathsUnavailable,
    PlanetServeError,
)

READY = "READY"
SENT = "SENT"
ANSWERING = "ANSWERING"
DRAINING = "DRAINING"
ENDED = "ENDED"
TRANSITIONS = frozenset(
    {
        (READY, "slot_open", SENT),
        (SENT, "chunk_arrived", ANSWERING),
        (SENT, "chunk_arrived", DRAINING),
        (ANSWERING, "chunk_arrived", DRAINING),
        *((state, "stream_ended", ENDED) for state in (SENT, ANSWERING)),
        *((state, "chunk_arrived", ENDED) for state in (SENT, ANSWERING, DRAINING)),
        *((state, "tick", ENDED) for state in (READY, SENT, ANSWERING, DRAINING)),
        *((state, "cancel", ENDED) for state in (READY, SENT, ANSWERING, DRAINING)),
    }
)
"""Every change of the state, with the method that may bring it about."""

_CLOVE = "clove"
_ATTACH = "attach"


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    accept_timeout_s: float = 6.0
    """Silence on all slots before the first frame."""
    stall_timeout_s: float = 10.0
    """Without a whole frame once the answer began."""
    repair_timeout_s: float = 10.0
    """With fewer than k slots."""
    empty_timeout_s: float = 120.0
    """With frames that carry nothing."""
    drain_timeout_s: float = 30.0
    """Of silence while the padding after the answer comes."""
    max_unread_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Open a stream to the model node on the path of `slot` and send `data` over it."""

    slot: int
    data: bytes


@dataclass(frozen=True, slots=True)
class EndStream:
    slot: int


@dataclass(frozen=True, slots=True)
class Give:
    """Bytes of the answer came; `unread_bytes` wait for `Exchange.read`."""

    unread_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is whole; only padding follows, which is taken in for as long as it comes."""


@dataclass(frozen=True, slots=True)
class Failed:
    error: PlanetServeError


@dataclass(frozen=True, slots=True)
class Polluted:
    """The path of `slot` brought what does not authenticate."""

    slot: int


@dataclass(frozen=True, slots=True)
class Silent:
    """The path of `slot` is open and brings nothing, or far less than the others, or its stream
    was ended: by its relays, or by the model node."""

    slot: int


ExchangeEffect: TypeAlias = OpenStream | EndStream | Give | Done | Failed | Polluted | Silent


@dataclass(slots=True)
class Exchange:
    """One request and its answer; mutable, because it sees every chunk.

    `cloves[slot]` is the clove that goes over the path of `slot`, in an order of the caller's.
    """

    request: OutgoingRequest
    cloves: Sequence[int]
    entropy: Entropy
    limits: ExchangeLimits = field(default_factory=ExchangeLimits)
    state: str = READY
    _answer: AnswerAssembler = field(init=False)
    _carrying: dict[int, str] = field(default_factory=dict)
    """What the stream of each slot began with, while it stands."""
    _heard_since: dict[int, int] = field(default_factory=dict)
    """For each stream the last frame that it brought, at first the one before its beginning."""
    _sent: set[int] = field(default_factory=set)
    _attaches: dict[int, int] = field(default_factory=dict)
    _refused: dict[int, int] = field(default_factory=dict)
    """Slots whose clove was answered by END, with the reason."""
    _unread: bytearray = field(default_factory=bytearray)
    _since_s: float | None = None
    """Since when nothing whole came; None before the first event."""
    _data_s: float = 0.0
    _padded_s: float = 0.0
    """When the padding of an honest node is over."""
    _short_s: float | None = None
    """Since when fewer than k slots carry."""

    def __post_init__(self) -> None:
        r = self.request
        self._answer = AnswerAssembler(r.reply_key, r.path_keys, r.n, r.k)

    def slot_open(self, slot: int, now_s: float) -> list[ExchangeEffect]:
        """The path of `slot` (0 to n - 1) is open, for the first time or again."""
        if self.state in (DRAINING, ENDED) or slot in self._carrying:
            return []
        kind = _ATTACH if slot in self._sent else _CLOVE
        if kind == _ATTACH and self._attaches.get(slot, 0) >= MAX_ATTACHES:
            return []  # the other slots carry the answer, or nobody does
        self._observe(now_s)
        if self.state == READY:
            self.state = SENT
        opened = self._open(slot, kind)
        self._count_slots(now_s)
        return [opened]

    def slot_lost(self, slot: int, now_s: float) -> list[ExchangeEffect]:
        """The path of `slot` broke; its stream is gone with it."""
        self._observe(now_s)
        self._carrying.pop(slot, None)
        self._refused.pop(slot, None)
        self._count_slots(now_s)
        return []

    def stream_ended(self, slot: int, reason: int, now_s: float) -> list[ExchangeEffect]:
        """END came on the stream of `slot`, whose path still stands. Who ended it is not
        authenticated, so whatever the `reason`, one END alone decides nothing."""
        self._observe(now_s)
        began = self._carrying.pop(slot, None)
        if began is None or self.state in (DRAINING, ENDED):
            self._count_slots(now_s)
            return []
        if began == _ATTACH:
            return [self._open(slot, _CLOVE)]
        self._refused[slot] = reason
        self._count_slots(now_s)
        if self.state == SENT and len(self._refused) >= self.request.k:
            return self._fail(NodeUnreachable(_why(self._refused.values())))
        if self.state == ANSWERING and len(self._refused) >= self.request.k:
            return self._fail(AnswerCutShort("the model node is gone in the middle of its answer"))
        return [Silent(slot)] if self.state == ANSWERING else []

    def chunk_arrived(self, slot: int, chunk: bytes, now_s: float) -> list[ExchangeEffect]:
        """A chunk that the stream of `slot` brought; anything may be in it."""
        if self.state == ENDED or slot not in self._carrying:
            return []
        self._observe(now_s)
        clove = self.cloves[slot]
        polluted, expected = self._answer.polluted.get(clove, 0), self._answer.next_number
        ended, heard = self._answer.ended, self._answer.heard.get(clove, -1)
        try:
            pieces = self._answer.feed(clove, chunk)
        except FrameError as error:
            return self._fail(error)
        if self._answer.polluted.get(clove, 0) > polluted:
            del self._carrying[slot]
            self._count_slots(now_s)
            return [EndStream(slot), Polluted(slot)]
        if self.state == SENT and self._answer.heard[clove] > heard:  # no repetition
            self._since_s = now_s
        self._heard_since[slot] = max(self._heard_since[slot], self._answer.heard[clove])
        if self._answer.next_number == expected:
            return self._end() if self._answer.complete else []
        self._since_s = now_s
        self.state = ANSWERING if self.state == SENT else self.state
        effects: list[ExchangeEffect] = []
        if pieces:
            self._data_s = now_s
            self._unread += b"".join(pieces)
            effects.append(Give(len(self._unread)))
        if len(self._unread) > self.limits.max_unread_bytes:
            return self._fail(AnswerCutShort("the answer was not read as fast as it came"))
        if self._answer.ended and not ended:
            self.state = DRAINING
            self._padded_s = now_s + self._padding_s()
            effects.append(Done())
        if self._answer.complete:
            return [*effects, *self._end()]
        return [*effects, *self._laggards(now_s)]

    def tick(self, now_s: float) -> list[ExchangeEffect]:
        """Call it about once a second."""
        if self.state == ENDED:
            return []
        self._count_slots(now_s)
        since_s = self._observe(now_s)
        if self.state == DRAINING:
            silent = now_s - since_s > self.limits.drain_timeout_s
            return self._end() if silent or now_s > self._padded_s else []
        if self._short_s is not None:
            if now_s - self._short_s <= self.limits.repair_timeout_s:
                return []
            if self.state == ANSWERING:
                return self._fail(AnswerCutShort("too many paths broke while the answer came"))
            return self._fail(PathsUnavailable("too many paths broke before the answer began"))
        if self.state == ANSWERING:
            if now_s - since_s > self.limits.stall_timeout_s:
                return self._fail(AnswerCutShort("the answer stopped in the middle"))
            if now_s - self._data_s > self.limits.empty_timeout_s:
                return self._fail(AnswerCutShort("the model node sent empty frames for too long"))
        elif (
            now_s - since_s > self.limits.accept_timeout_s
            or now_s - self._data_s > self.limits.empty_timeout_s
        ):
            return self._fail(NodeUnreachable("the model node did not answer in time"))
        return []

    def read(self, size_bytes: int) -> bytes:
        """Up to so many bytes of the answer, in order; what is read does not count as unread."""
        data = bytes(self._unread[:size_bytes])
        del self._unread[: len(data)]
        return data

    def cancel(self) -> list[ExchangeEffect]:
        """Nobody wants the answer any more."""
        return self._end()

    def _open(self, slot: int, kind: str) -> OpenStream:
        self._carrying[slot] = kind
        self._refused.pop(slot, None)
        self._heard_since[slot] = self._answer.next_number - 1
        clove = self.cloves[slot]
        if kind == _CLOVE and slot not in self._sent:
            self._sent.add(slot)
            return OpenStream(slot, self.request.streams[clove])
        if kind == _CLOVE:
            stream = self.request.sealer.clove(clove, self.entropy)
        else:
            number = self._attaches.get(slot, 0)
            self._attaches[slot] = number + 1
            wanted = Attach(clove, number, self._answer.next_number)
            stream = self.request.sealer.attach(wanted, self.entropy)
        self._answer.rekey(clove, stream.path_key)
        return OpenStream(slot, stream.data)

    def _padding_s(self) -> float:
        """How long the padding may take, now that the answer is whole."""
        frames = self._answer.next_number
        most = max(answer_frames(frames + 1) - frames, MAX_FRAMES_BY_WISH)
        return 2 * BEAT_S * most + self.limits.drain_timeout_s

    def _observe(self, now_s: float) -> float:
        if self._since_s is None:
            self._since_s = self._data_s = now_s
        return self._since_s

    def _count_slots(self, now_s: float) -> None:
        if len(self._carrying) < self.request.k:
            self._short_s = now_s if self._short_s is None else self._short_s
        elif self._short_s is not None:  # patience begins anew
            self._short_s, self._since_s = None, now_s

    def _laggards(self, now_s: float) -> list[ExchangeEffect]:
        behind = self._answer.next_number - 1 - WINDOW_FRAMES
        slots = [slot for slot in self._carrying if self._heard_since[slot] < behind]
        effects: list[ExchangeEffect] = []
        for slot in slots:
            del self._carrying[slot]
            effects += [EndStream(slot), Silent(slot)]
        self._count_slots(now_s)
        return effects

    def _fail(self, error: PlanetServeError) -> list[ExchangeEffect]:
        if self.state == DRAINING:
            return self._end()
        heard = self._answer.heard
        silent = [Silent(slot) for slot in self._carrying if self.cloves[slot] not in heard]
        blamed = isinstance(error, NodeUnreachable | AnswerCutShort)
        return [Failed(error), *self._end(), *(silent if blamed else [])]

    def _end(self) -> list[ExchangeEffect]:
        self.state = ENDED
        ended: list[ExchangeEffect] = [EndStream(slot) for slot in self._carrying]
        self._carrying.clear()
        return ended


def _why(reasons: Collection[int]) -> str:
    """What k or more ENDs say together, if all say the same."""
    if set(reasons) == {Reason.PERIOD}:
        return (
            "the model node's clock and this machine's differ by more than five minutes; "
            "if other model nodes say so too, this one is wrong"
        )
    return "the model node does not take the request"

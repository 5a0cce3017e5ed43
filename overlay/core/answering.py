"""One request at its model node, from the first clove to the last frame of its answer.

state      event                                       next       effects
─────────  ──────────────────────────────────────────  ─────────  ───────────────────────────────
WAITING    clove, attach, stream lost                  WAITING
WAITING    a choice of k cloves does not open          WAITING
WAITING    a choice of k cloves opens                  RUNNING    RequestReady; END to polluted
WAITING    the same, but streams were lost meanwhile   PAUSED     RequestReady; END to polluted
WAITING    it opens, and there is no request in it     OVER       END to all
WAITING    no choice of all n opened, or of very many  OVER       END to all
WAITING    too many others wait for another try        OVER       END to all
WAITING    still incomplete after its time             OVER       END to all
RUNNING    the next frame is due                       RUNNING    a chunk on each stream
RUNNING    frame LAST is due                           LINGERING  a chunk on each stream
RUNNING    fewer than k streams are left               PAUSED
RUNNING    the owner ended k streams                   OVER       RequestGone, END to all
PAUSED     k streams again                             RUNNING
PAUSED     the owner ended k streams, or the last      OVER       RequestGone, END to all
PAUSED     still too few after its time                OVER       RequestGone, END to all
RUNNING    room is needed for others                   OVER       RequestGone, END to all
PAUSED     room is needed for others                   OVER       RequestGone, END to all
LINGERING  the owner ended them, or nobody came back   OVER       END to all
opened     clove or attach                             same       the kept frames on its stream

The last `WINDOW_FRAMES` frames are kept, each as what it was made from: a
hundred bytes and its data in place of n cloves, for who joins late or takes the answer up again.
A dummy is a question of which nobody says anything: `DummyReady` in place of `RequestReady`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple, TypeAlias

from overlay.core import frames, pacing, request, sida
from overlay.core.effects import Count, Entropy, Peer, Purge, Remember, Send
from overlay.core.pacing import PacedFrame, Pacing
from overlay.core.reasons import Reason, Report
from overlay.core.request import OpenedRequest, ReceivedAttach, ReceivedClove
from overlay.core.wire import STREAM_END, backward_id, encode_frame, stream_frame
from planetserve.errors import RemoteProtocolError

WAITING = "WAITING"
RUNNING = "RUNNING"
PAUSED = "PAUSED"
LINGERING = "LINGERING"
OVER = "OVER"

TRANSITIONS = frozenset(
    {
        (WAITING, "try_to_open", RUNNING),
        (WAITING, "try_to_open", PAUSED),
        (WAITING, "try_to_open", OVER),
        (WAITING, "refuse", OVER),
        (WAITING, "tick", OVER),
        (WAITING, "give_up", OVER),
        (RUNNING, "beat", LINGERING),
        (RUNNING, "stream_lost", PAUSED),
        (RUNNING, "stream_lost", OVER),
        (PAUSED, "clove_arrived", RUNNING),
        (PAUSED, "attach_arrived", RUNNING),
        (PAUSED, "stream_lost", OVER),
        (PAUSED, "tick", OVER),
        (RUNNING, "give_way", OVER),
        (PAUSED, "give_way", OVER),
        (LINGERING, "stream_lost", OVER),
        (LINGERING, "tick", OVER),
    }
)
"""Every change of the state, with the method that may bring it about."""

KEPT_FRAME_BYTES = 256
"""What a kept frame costs beside its data and randomness."""


@dataclass(frozen=True, slots=True)
class RequestReady:
    request_id: bytes
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DummyReady:
    """To be accepted as late as a question is, by an empty `write`; another one, its first token,
    comes `delay_s` later, then `finish`. Ids of dummies are in no other effect."""

    request_id: bytes
    delay_s: float


@dataclass(frozen=True, slots=True)
class RequestGone:
    """Nobody waits for the answer of a running request any more."""

    request_id: bytes


@dataclass(frozen=True, slots=True)
class AnswerSent:
    """The last byte of the answer has left; only padding follows."""

    request_id: bytes


@dataclass(frozen=True, slots=True)
class Room:
    """The answer, which was full, takes bytes again."""

    request_id: bytes


AnsweringEffect: TypeAlias = (
    Send | Count | Purge | Remember | RequestReady | DummyReady | RequestGone | AnswerSent | Room
)


class Route(NamedTuple):
    """A stream at the model node: the last relay's connection and the id that it chose."""

    peer: Peer
    link_id: bytes

    def chunk(self, data: bytes) -> Send:
        return Send(self.peer, stream_frame(backward_id(self.link_id), data))

    def end(self, report: Report) -> Send:
        frame = encode_frame(backward_id(self.link_id), STREAM_END, report.close_body())
        return Send(self.peer, frame)


ENDED = Report(Reason.NONE)
REFUSED = Report(Reason.TARGET_REFUSED)
EXPIRED = Report(Reason.EXPIRED)
CROWDED_OUT = Report(Reason.QUOTA)

Opens: TypeAlias = Callable[[sida.Search], OpenedRequest]
"""Opens a request with one try of its cloves; raises what `request.try_to_open` raises."""


@dataclass(frozen=True, slots=True)
class AnsweringLimits:
    assembly_timeout_s: float = 10.0
    pause_timeout_s: float = 15.0
    """With fewer than k streams; longer than a client takes to give up."""
    linger_s: float = 15.0


class _Kept(NamedTuple):
    kind: int
    data: bytes
    randomness: bytes


@dataclass(slots=True)
class Answering:
    """Mutable, because it is asked for every frame.

    `routes[i]` is the stream that clove i's chunks take now. `dummy_delay_s` draws how late a
    dummy's first token is.
    """

    request_id: bytes
    n: int
    k: int
    opens: Opens
    entropy: Entropy
    started_s: float
    dummy_delay_s: Callable[[], float] = float
    limits: AnsweringLimits = field(default_factory=AnsweringLimits)
    state: str = WAITING
    routes: dict[int, Route] = field(default_factory=dict)
    pacing: Pacing | None = None
    clove_bytes: int = 0
    kept_bytes: int = 0
    _search: sida.Search = field(default_factory=sida.Search)
    _path_keys: dict[int, bytes] = field(default_factory=dict)
    _attaches: dict[int, int] = field(default_factory=dict)
    """Of each clove that may be taken up, the number of the attach to expect next."""
    _left: set[int] = field(default_factory=set)
    """Whose stream was ended by its owner."""
    _keys: dict[int, bytes] = field(default_factory=dict)
    """The answer key of each path."""
    _reply_key: bytes = b""
    _kept: deque[_Kept] = field(default_factory=deque)
    _next_number: int = 0
    _accepted_s: float = 0.0
    _delay_s: float | None = None
    _since_s: float = 0.0
    """Since when it is paused, or lingers."""
    _is_dummy: bool = False
    _sent: bool = False

    @property
    def has_room(self) -> bool:
        """Whether the answer takes more now."""
        return self.pacing is None or self.pacing.has_room

    def due_s(self) -> float | None:
        """When to call `beat`; None while no frame is due at any time."""
        due_s = self.pacing.due_s() if self.pacing is not None else None
        return None if self.state == OVER else due_s

    def clove_arrived(self, route: Route, received: ReceivedClove) -> list[AnsweringEffect]:
        """A clove of this request came over `route`; it is taken once."""
        clove = received.clove
        if (clove.n, clove.k) != (self.n, self.k) or clove.index in self._path_keys:
            return [Count("clove_refused"), route.end(REFUSED)]
        self._path_keys[clove.index] = received.path_key
        self._attaches[clove.index] = 0
        if self.state != WAITING:
            return self._join(clove.index, route, 0)
        self.routes[clove.index] = route
        self._search.add(clove)
        self.clove_bytes += len(clove.fragment)
        return []

    @property
    def next_bytes(self) -> int:
        """Of the cloves that `try_to_open` would put together; 0 while there is nothing to try."""
        return self._search.next_bytes if self.state == WAITING else 0

    @property
    def was_tried(self) -> bool:
        return self._search.tries > 0

    def try_to_open(self, now_s: float) -> list[AnsweringEffect]:
        """One choice of the cloves that are here."""
        try:
            opened = self.opens(self._search)
        except sida.SidaError:
            if self._search.is_spent or (self.next_bytes == 0 and len(self._search) >= self.n):
                return self.refuse()
            return []
        except RemoteProtocolError:
            return self.refuse()
        return self._begin(opened, now_s)

    def refuse(self) -> list[AnsweringEffect]:
        """There is no request in its cloves, or it takes too much to find out."""
        return [Count("request_refused"), *self._over(REFUSED)]

    def attach_arrived(self, route: Route, received: ReceivedAttach) -> list[AnsweringEffect]:
        """The owner of a clove wants its frames over `route` from now on."""
        index, number = received.attach.index, received.attach.number
        if index not in self._attaches or number < self._attaches[index]:
            return [Count("attach_refused"), route.end(REFUSED)]
        self._attaches[index] = number + 1
        self._path_keys[index] = received.path_key
        self._keys.pop(index, None)
        replaced = self.routes.get(index)
        ended: list[AnsweringEffect] = [] if replaced is None else [replaced.end(ENDED)]
        return [Count("attached"), *ended, *self._join(index, route, received.attach.next_frame)]

    def stream_lost(self, index: int, by_owner: bool, now_s: float) -> list[AnsweringEffect]:
        """The stream of clove `index` is no more; `by_owner` if its client ended it."""
        del self.routes[index]
        if by_owner:
            self._left.add(index)
        if self.state == WAITING:
            return []
        if by_owner and (len(self._left) >= self.k or not self.routes):
            left: list[AnsweringEffect] = [] if self._sent else [Count("request_left")]
            return [*left, *self._over(ENDED)]
        self._count_streams(now_s)
        return []

    def write(self, data: bytes, now_s: float) -> float | None:
        """Add to the answer of a request that is ready. With what follows the first token: how
        many seconds that one came after the acceptance. Nothing follows a refusal."""
        assert self.pacing is not None
        before = self.pacing.state
        self.pacing.write(data, now_s)
        if before == pacing.WAITING:
            self._accepted_s = now_s
        elif before == pacing.ACCEPTED:
            self._delay_s = now_s - self._accepted_s
            return None
        delay_s, self._delay_s = self._delay_s, None
        return None if self._is_dummy else delay_s

    def finish(self, now_s: float) -> None:
        """The answer is whole."""
        assert self.pacing is not None
        self.pacing.finish(now_s)

    def beat(self, now_s: float) -> list[AnsweringEffect]:
        """All frames that are due."""
        if self.pacing is None or self.state != RUNNING:
            return []
        had_room = self.pacing.has_room
        effects: list[AnsweringEffect] = []
        while (frame := self.pacing.take(now_s)) is not None:
            effects += self._frame(frame, now_s)
        if self.pacing.has_room and not had_room:
            effects.append(Room(self.request_id))
        return effects

    def tick(self, now_s: float) -> list[AnsweringEffect]:
        """Call it about once a second."""
        if self.state == WAITING and now_s - self.started_s > self.limits.assembly_timeout_s:
            return self.give_up()
        if self.state == PAUSED and now_s - self._since_s > self.limits.pause_timeout_s:
            return [Count("request_lost"), *self._over(EXPIRED)]
        if self.state == LINGERING and now_s - self._since_s > self.limits.linger_s:
            return self._over(ENDED)
        return []

    def give_up(self) -> list[AnsweringEffect]:
        """Wait no longer for the cloves that are missing."""
        return [Count("request_incomplete"), *self._over(EXPIRED)]

    def give_way(self) -> list[AnsweringEffect]:
        """What it takes is needed for others."""
        return [Count("request_gave_way"), *self._over(CROWDED_OUT)]

    def forget_frame(self) -> None:
        """Keep one frame less."""
        if self._kept:
            self.kept_bytes -= _cost(self._kept.popleft())

    def _begin(self, opened: OpenedRequest, now_s: float) -> list[AnsweringEffect]:
        # The request is taken: from here on nothing may fail.
        effects: list[AnsweringEffect] = [Count("request_opened")]
        for index in sorted(opened.polluted):
            effects.append(Count("clove_polluted"))
            del self._attaches[index]
            route = self.routes.pop(index, None)
            if route is not None:
                effects.append(route.end(REFUSED))
        self._search = sida.Search()
        self.clove_bytes = 0
        self._reply_key = opened.reply_key
        self.pacing = Pacing(now_s, frames.max_data_bytes(self.k), opened.least_frames)
        self.state = RUNNING
        self._count_streams(now_s)
        if opened.kind == request.QUESTION:
            return [*effects, RequestReady(self.request_id, opened.payload)]
        self._is_dummy = self._sent = True  # nobody waits to hear of it
        ready = DummyReady(self.request_id, self.dummy_delay_s())
        return [*effects, Count("dummy_opened"), ready]

    def _join(self, index: int, route: Route, first_frame: int) -> list[AnsweringEffect]:
        """Frames from `first_frame` on, as far as they are kept, and the later ones over `route`:
        were another path lost meanwhile, k cloves of each must still arrive."""
        self.routes[index] = route
        self._left.discard(index)
        first_kept = self._next_number - len(self._kept)
        missed = range(max(first_kept, first_frame), self._next_number)
        effects: list[AnsweringEffect] = [
            self._send(index, number, self._disperse(number, self._kept[number - first_kept]))
            for number in missed
        ]
        if self.state == PAUSED and len(self.routes) >= self.k:
            assert self.pacing is not None
            self.state = RUNNING
            self.pacing.resume()
        return effects

    def _count_streams(self, now_s: float) -> None:
        if self.state == RUNNING and len(self.routes) < self.k:
            assert self.pacing is not None
            self.state, self._since_s = PAUSED, now_s
            self.pacing.pause()

    def _frame(self, frame: PacedFrame, now_s: float) -> list[AnsweringEffect]:
        number = self._next_number
        self._next_number += 1
        kept = _Kept(*frame, self.entropy(frames.random_bytes_needed(self.k)))
        self._kept.append(kept)
        self.kept_bytes += _cost(kept)
        if len(self._kept) > frames.WINDOW_FRAMES:
            self.forget_frame()
        cloves = self._disperse(number, kept)
        effects: list[AnsweringEffect] = [self._send(i, number, cloves) for i in self.routes]
        if frame.kind == frames.END and not self._sent:
            self._sent = True
            effects.append(AnswerSent(self.request_id))
        if frame.kind == frames.LAST:
            self.state, self._since_s = LINGERING, now_s
        return effects

    def _disperse(self, number: int, kept: _Kept) -> tuple[bytes, ...]:
        draw = BytesIO(kept.randomness).read
        return frames.disperse(kept.kind, kept.data, number, self._reply_key, self.n, self.k, draw)

    def _send(self, index: int, number: int, cloves: tuple[bytes, ...]) -> Send:
        if index not in self._keys:
            self._keys[index] = frames.answer_key(self._path_keys[index])
        nonce = self.entropy(frames.NONCE_BYTES)
        sealed = frames.seal_clove(self._keys[index], nonce, number, cloves[index])
        return self.routes[index].chunk(sealed)

    def _over(self, report: Report) -> list[AnsweringEffect]:
        """Leaves `routes` as they were, for the caller to forget."""
        gone = self.pacing is not None and not self._sent
        self.state = OVER
        self._kept.clear()
        self._search = sida.Search()
        self.kept_bytes = self.clove_bytes = 0
        ends: list[AnsweringEffect] = [route.end(report) for route in self.routes.values()]
        return [*([RequestGone(self.request_id)] if gone else []), *ends]


def _cost(kept: _Kept) -> int:
    return len(kept.data) + len(kept.randomness) + KEPT_FRAME_BYTES

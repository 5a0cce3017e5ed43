"""A model node's side of the overlay: streams in, requests out; answers in, chunks out.

stream      event                                   next        effects
──────────  ──────────────────────────────────────  ──────────  ──────────────────────────────
-           first chunk                             ASSEMBLING
ASSEMBLING  chunk                                   ASSEMBLING
ASSEMBLING  last chunk                              WHOLE       (`overlay.core.opening`)
WHOLE       its turn: a clove of a new request      ATTACHED    (`overlay.core.answering`)
WHOLE       its turn: a clove of one that waits     ATTACHED    (`overlay.core.answering`)
WHOLE       its turn: an attach to one's answer     ATTACHED    the stream in its place: END
WHOLE       its turn: anything else                 -           END
WHOLE       chunk                                   -           END
-           first chunk, above its neighbour's rate -           END
ASSEMBLING  nonsense, or too long                   -           END
ASSEMBLING  room is needed, it is the oldest        -           END
WHOLE       room is needed, it is the oldest        -           END
ATTACHED    chunk                                   -           END
ATTACHED    its request is over                     -           END
any         STREAM_END, link lost, shed             -           Purge

A request is taken once. Its message id begins with the period in which it was made; ids of the
three periods that are taken now are remembered (`overlay.core.replay_filter`), and written down
before anything of the request is done, so that who recorded a request gets no second answer, after
a restart neither. Where what was written is lost, after a crash of the machine, it may get one in
the next quarter of an hour: under fresh nonces, for the asker's keys, at the price of one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from overlay.core.answering import (
    LINGERING,
    OVER,
    PAUSED,
    REFUSED,
    WAITING,
    Answering,
    AnsweringEffect,
    AnsweringLimits,
    Route,
)
from overlay.core.effects import Count, Entropy, Neighbour, Peer, Purge, Remember
from overlay.core.inbox_books import Known, Owner, Stream, backward, drop
from overlay.core.lateness import Lateness
from overlay.core.load import Load, LoadLimits, stream_rate
from overlay.core.opening import Turns
from overlay.core.quotas import Buckets
from overlay.core.reasons import Reason, Report, read_close_body
from overlay.core.replay_filter import ReplayFilter
from overlay.core.request import (
    OpenedRequest,
    ReceivedAttach,
    ReceivedClove,
    RequestError,
    StreamReader,
    open_stream,
    period_of_message,
    try_to_open,
)
from overlay.core.sida import Search
from overlay.core.wire import (
    STREAM,
    STREAM_END,
    CellError,
    backward_id,
    decode_frame,
    read_chunk,
)
from planetserve.errors import RemoteProtocolError

TURN = b"turn"
"""In place of a request's id in `Wake`: it is the turn of what waits to be opened."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Call `beat` at `at_s`, and no more at the time before; None: not at all for now."""

    request_id: bytes
    at_s: float | None


InboxEffect: TypeAlias = AnsweringEffect | Wake


@dataclass(frozen=True, slots=True)
class InboxLimits(AnsweringLimits):
    max_streams: int = 4096
    """That are being assembled."""
    max_requests: int = 2048
    """In any state."""
    load: LoadLimits = field(default_factory=LoadLimits)
    max_buffered_bytes: int = 64 << 20
    """Of streams and cloves before requests open."""
    max_kept_bytes: int = 64 << 20
    """Of frames that are kept for repair."""


@dataclass(slots=True)
class Inbox:
    """All streams and requests of one model node; `target` is its node id. Nothing that arrives
    raises.

    `replay` knows the requests that were taken before; `period` is the present one; `neighbour`
    tells who is at the other end of a connection.
    """

    target: bytes
    onion_secret: bytes = field(repr=False)
    entropy: Entropy
    replay: ReplayFilter
    period: int
    neighbour: Callable[[Peer], Neighbour]
    limits: InboxLimits = field(default_factory=InboxLimits)
    _streams: dict[Route, Stream] = field(default_factory=dict)
    _requests: dict[bytes, Answering] = field(default_factory=dict)
    _known: dict[bytes, Known] = field(default_factory=dict)
    _waiting: dict[bytes, None] = field(default_factory=dict)
    _running: Load = field(init=False)
    _turns: Turns = field(default_factory=Turns)
    _turn_s: float | None = None
    """When `beat` is to be called for them."""
    _rates: Buckets[Neighbour] = field(default_factory=Buckets)
    """Of new streams."""
    _attached: dict[Route, Owner] = field(default_factory=dict)
    _by_backward: dict[Route, Route] = field(default_factory=dict)
    _lateness: Lateness = field(default_factory=Lateness)
    _notes: list[InboxEffect] = field(default_factory=list)
    """What opening a request has for effects, beside those of its `Answering`."""
    _buffered_bytes: int = 0
    _kept_bytes: int = 0

    def __post_init__(self) -> None:
        self._running = Load(self.limits.load)

    @property
    def running(self) -> int:
        """Requests that are being answered, dummies too."""
        return len(self._running)

    def frame_arrived(self, peer: Peer, frame: bytes, now_s: float) -> list[InboxEffect]:
        """A frame from a relay; anything may be in it."""
        try:
            link_id, kind, body = decode_frame(frame)
            route = Route(peer, link_id)
            if kind == STREAM_END:
                by_owner = read_close_body(body).reason == Reason.NONE
                return self._stream_gone(route, by_owner, now_s)
            if kind != STREAM:
                raise CellError("a model node relays no paths")
            chunk = read_chunk(body)
        except CellError:
            return [Count("frame_malformed")]
        return self._chunk_arrived(route, chunk, now_s)

    def peer_gone(self, peer: Peer, now_s: float) -> list[InboxEffect]:
        """The link to `peer` is lost, and all streams with it."""
        effects: list[InboxEffect] = []
        for route in [r for r in (*self._streams, *self._attached) if r.peer == peer]:
            effects += self._stream_gone(route, False, now_s)
        return effects

    def stream_shed(self, peer: Peer, link_id: bytes, now_s: float) -> list[InboxEffect]:
        """The shell dropped what waited for `peer` under `link_id`, because it was too much."""
        route = self._by_backward.get(Route(peer, link_id))
        if route is None:
            return []
        gone = self._stream_gone(route, False, now_s)
        return [Count("stream_shed"), *gone, route.end(Report(Reason.SHED))]

    def tick(self, now_s: float, period: int) -> list[InboxEffect]:
        """Drop what stayed incomplete; call it about once a second."""
        self.replay.advance(period)
        self.period = max(self.period, period)
        self._rates.tick(now_s)
        oldest_s = now_s - self.limits.assembly_timeout_s
        effects: list[InboxEffect] = []
        for route in [r for r, stream in self._streams.items() if stream.started_s < oldest_s]:
            effects += self._give_up_stream(route)
        for answer in list(self._requests.values()):
            effects += self._settle(answer, answer.tick(now_s))
        return effects

    def write(self, request_id: bytes, data: bytes, now_s: float) -> list[InboxEffect]:
        """Add `data` to an answer. Ids of requests that are gone are ignored."""
        answer = self._requests.get(request_id)
        if answer is None:
            return []
        delay_s = answer.write(data, now_s)
        if delay_s is not None:
            self._lateness.seen(self._known[request_id].neighbour, delay_s)
        return self._settle(answer, [])

    def finish(self, request_id: bytes, now_s: float) -> list[InboxEffect]:
        """The answer is whole; `AnswerSent` tells when it has left."""
        answer = self._requests.get(request_id)
        if answer is None:
            return []
        answer.finish(now_s)
        return self._settle(answer, [])

    def has_room(self, request_id: bytes) -> bool:
        """Whether the answer takes more now; `Room` tells when it does again."""
        answer = self._requests.get(request_id)
        return answer is None or answer.has_room

    def beat(self, request_id: bytes, now_s: float) -> list[InboxEffect]:
        """Send what is due of an answer, as a `Wake` asked for."""
        if request_id == TURN:
            return self._turn(now_s)
        answer = self._requests.get(request_id)
        if answer is None:
            return []
        self._known[request_id].wake_s = None
        return self._settle(answer, answer.beat(now_s))

    def _chunk_arrived(self, route: Route, chunk: bytes, now_s: float) -> list[InboxEffect]:
        if route in self._attached:
            gone = self._stream_gone(route, False, now_s)
            return [Count("chunk_after_clove"), *gone, route.end(Report(Reason.PROTOCOL))]
        if backward(route) in self._by_backward:
            # Who opens streams chooses their ids: no END, which would end the other one.
            self._forget_stream(route)
            return [Count("stream_refused")]
        stream = self._streams.get(route)
        if stream is None:
            neighbour = self.neighbour(route.peer)
            if not self._rates.take(neighbour, stream_rate(neighbour), now_s):
                return [Count("stream_over_rate"), route.end(Report(Reason.QUOTA))]
            stream = self._streams[route] = Stream(StreamReader(), now_s, neighbour)
        before = len(stream.reader.received)
        try:
            whole = stream.reader.feed(chunk)
        except RequestError:
            whole = b""
        self._buffered_bytes += len(stream.reader.received) - before
        if whole is None:
            return self._make_room()
        if not whole:
            self._forget_stream(route)
            return [Count("stream_refused"), route.end(Report(Reason.PROTOCOL))]
        if not self._turns.at_once(now_s):
            self._turns.wait(stream.neighbour, route)
            return [*self._make_room(), *self._wake()]
        self._forget_stream(route)
        return [*self._open_stream(route, whole, now_s), *self._wake()]

    def _turn(self, now_s: float) -> list[InboxEffect]:
        """One piece of work, so that frames that are due meanwhile can leave after it."""
        self._turn_s = None
        effects: list[InboxEffect] = []
        item = self._turns.next(now_s)
        if isinstance(item, Route):
            whole = bytes(self._streams[item].reader.received)
            self._forget_stream(item)
            effects += self._open_stream(item, whole, now_s)
        elif item is not None:
            effects += self._try_to_open(self._requests[item], [], now_s)
        return [*effects, *self._wake()]

    def _wake(self) -> list[InboxEffect]:
        due_s = self._turns.due_s()
        if due_s is None or due_s == self._turn_s:
            return []
        self._turn_s = due_s
        return [Wake(TURN, due_s)]

    def _open_stream(self, route: Route, whole: bytes, now_s: float) -> list[InboxEffect]:
        self._turns.clove(len(whole), now_s)
        try:
            received = open_stream(self.target, self.onion_secret, whole)
        except RemoteProtocolError:
            return [Count("clove_refused"), route.end(REFUSED)]
        if isinstance(received, ReceivedAttach):
            return self._attach_arrived(route, received)
        return self._clove_arrived(route, received, now_s)

    def _clove_arrived(
        self, route: Route, received: ReceivedClove, now_s: float
    ) -> list[InboxEffect]:
        message_id, clove = received.message_id, received.clove
        answer = self._requests.get(message_id)
        if answer is None:
            period = period_of_message(message_id)
            if not self.replay.covers(period):
                report = Report(Reason.PERIOD, self.period.to_bytes(4, "big"))
                return [Count("clove_untimely"), route.end(report)]
            if self.replay.seen(period, message_id):
                return [Count("clove_replayed"), route.end(Report(Reason.REPLAYED))]
            answer = self._requests[message_id] = Answering(
                message_id,
                clove.n,
                clove.k,
                lambda search: self._open(message_id, search),
                self.entropy,
                now_s,
                lambda: self._lateness.draw_s(self.entropy),
                self.limits,
            )
            self._waiting[message_id] = None
            self._known[message_id] = Known(self.neighbour(route.peer))
        arrived = answer.clove_arrived(route, received)
        if answer.next_bytes == 0 or answer.was_tried:
            return [*self._settle(answer, arrived), *self._make_room()]
        return [*self._try_to_open(answer, arrived, now_s), *self._make_room()]

    def _try_to_open(
        self, answer: Answering, before: list[AnsweringEffect], now_s: float
    ) -> list[InboxEffect]:
        self._turns.attempt(answer.next_bytes, now_s)
        try:
            effects = [*before, *answer.try_to_open(now_s)]
        finally:
            noted, self._notes = self._notes, []
        return [*noted, *self._settle(answer, effects)]

    def _attach_arrived(self, route: Route, received: ReceivedAttach) -> list[InboxEffect]:
        answer = self._requests.get(received.message_id)
        if answer is None:
            return [Count("attach_unknown"), route.end(REFUSED)]
        return self._settle(answer, answer.attach_arrived(route, received))

    def _stream_gone(self, route: Route, by_owner: bool, now_s: float) -> list[InboxEffect]:
        owner = self._attached.get(route)
        if owner is None:
            self._forget_stream(route)
            return []
        answer = self._requests[owner.request_id]
        effects = self._settle(answer, answer.stream_lost(owner.clove, by_owner, now_s))
        return [Purge(route.peer, backward_id(route.link_id)), *effects]

    def _open(self, message_id: bytes, search: Search) -> OpenedRequest:
        """Open a request and take it. Raises what `try_to_open` raises, and `RequestError` when it
        may not be taken."""
        neighbour, n = self._known[message_id].neighbour, self._requests[message_id].n
        give_way = self._running.room(neighbour, n)
        period = period_of_message(message_id)
        if give_way is None or len(self._requests) > self.limits.max_requests:
            self._notes.append(Count("requests_full"))
            raise RequestError("as many requests run as may")
        opened = try_to_open(self.target, self.onion_secret, search)
        if not self.replay.covers(period) or not self.replay.take(period, message_id):
            raise RequestError("a request of another time, or one that was taken before")
        # It is taken: from here on nothing may fail.
        for request_id in give_way:
            answer = self._requests[request_id]
            self._notes += self._settle(answer, answer.give_way())
        self._running.begin(message_id, neighbour, n)
        self._notes.append(Remember(period, message_id))
        return opened

    def _settle(self, answer: Answering, effects: Sequence[InboxEffect]) -> list[InboxEffect]:
        """`effects`, with all that is known of `answer` brought up to date."""
        request_id = answer.request_id
        if answer.next_bytes == 0:
            self._turns.forget_request(request_id)
        elif answer.was_tried and not self._turns.again(request_id):
            effects = [*effects, *answer.refuse()]
        over = answer.state == OVER
        known = self._known[request_id]
        routes = {} if over else answer.routes
        if known.routes != routes:
            for route in known.routes.values():
                del self._attached[route]
                drop(self._by_backward, backward(route), route)
            for index, route in routes.items():
                self._attached[route] = Owner(request_id, index)
                self._by_backward[backward(route)] = route
            known.routes = dict(routes)
        self._buffered_bytes += answer.clove_bytes - known.clove_bytes
        known.clove_bytes = answer.clove_bytes
        self._count_kept(answer)
        if answer.state != WAITING:
            self._waiting.pop(request_id, None)
        if answer.state in (LINGERING, OVER):
            self._running.end(request_id)
        else:
            self._running.pause(request_id, answer.state == PAUSED)
        if over:
            del self._requests[request_id], self._known[request_id]
        if self._kept_bytes > self.limits.max_kept_bytes:
            self._forget_frames()
        due_s = answer.due_s()
        if due_s == known.wake_s:
            return list(effects)
        known.wake_s = due_s
        return [*effects, Wake(request_id, due_s)]

    def _count_kept(self, answer: Answering) -> None:
        known = self._known[answer.request_id]
        self._kept_bytes += answer.kept_bytes - known.kept_bytes
        known.kept_bytes = answer.kept_bytes

    def _forget_frames(self) -> None:
        """Of the answers of which most is kept, half at a time, and a sixteenth of all together:
        to look for the largest at each frame would cost more than the frames."""
        wanted = self.limits.max_kept_bytes - self.limits.max_kept_bytes // 16
        while self._kept_bytes > wanted:
            largest = max(self._requests.values(), key=lambda item: item.kept_bytes)
            half = largest.kept_bytes // 2
            while largest.kept_bytes > half and self._kept_bytes > wanted:
                largest.forget_frame()
                self._count_kept(largest)

    def _make_room(self) -> list[InboxEffect]:
        """Where there are too many, the oldest of what is incomplete give way: who sends many
        beginnings crowds out only beginnings."""
        effects: list[InboxEffect] = []
        while len(self._streams) > self.limits.max_streams:
            effects += self._give_up_stream(next(iter(self._streams)))
        while len(self._requests) > self.limits.max_requests and self._waiting:
            effects += self._give_up_request(next(iter(self._waiting)))
        while self._buffered_bytes > self.limits.max_buffered_bytes:
            route, request_id = next(iter(self._streams), None), next(iter(self._waiting), None)
            if request_id is None or (
                route is not None
                and self._streams[route].started_s <= self._requests[request_id].started_s
            ):
                assert route is not None
                effects += self._give_up_stream(route)
            else:
                effects += self._give_up_request(request_id)
        return effects

    def _give_up_stream(self, route: Route) -> list[InboxEffect]:
        self._forget_stream(route)
        return [Count("stream_incomplete"), route.end(Report(Reason.EXPIRED))]

    def _give_up_request(self, request_id: bytes) -> list[InboxEffect]:
        answer = self._requests[request_id]
        return self._settle(answer, answer.give_up())

    def _forget_stream(self, route: Route) -> None:
        stream = self._streams.pop(route, None)
        self._turns.forget_stream(route)
        if stream is not None:
            self._buffered_bytes -= len(stream.reader.received)

"""A model node's inbox by values, with last relays before it and a clock of the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

from nacl.bindings import crypto_scalarmult_base

from overlay.core import sealed, sida
from overlay.core.answering import AnswerSent, DummyReady, RequestGone, RequestReady, Room, Route
from overlay.core.attach import Attach
from overlay.core.effects import Count, Neighbour, Peer, Purge, Remember, Send
from overlay.core.frames import AnswerAssembler
from overlay.core.inbox import Inbox, InboxEffect, InboxLimits, Wake
from overlay.core.payload import CHUNK_BYTES, OPEN_CHUNK_BYTES
from overlay.core.reasons import Reason, Report, read_close_body
from overlay.core.replay_filter import SECRET_BYTES, ReplayFilter
from overlay.core.request import (
    COUNT_BYTES,
    QUESTION,
    OutgoingRequest,
    ReceivedClove,
    open_stream,
    prepare,
    stream_bytes,
)
from overlay.core.wire import (
    STREAM_END,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
    stream_frame,
)

TARGET = b"T" * 20
SECRET = bytes(range(32))
PUBLIC = crypto_scalarmult_base(SECRET)
N, K = 4, 3
PERIOD = 5_000_000
HOSTILE = Peer(False, b"hostile")
"""A relay whose own streams no test follows."""


def relay_of(peer: Peer) -> Neighbour:
    """Each connection is of another node of the ledger."""
    return Neighbour(True, peer.name)


class Door:
    """`arrived[route]` are the chunks that its relay has of it, `ended[route]` why it was ended."""

    def __init__(
        self,
        limits: InboxLimits | None = None,
        seed: int = 5,
        replay: ReplayFilter | None = None,
        period: int = PERIOD,
        neighbour: Callable[[Peer], Neighbour] = relay_of,
    ) -> None:
        self.entropy = Random(seed).randbytes
        self.replay = replay or ReplayFilter(bytes(SECRET_BYTES), period, 1 << 14)
        self.inbox = Inbox(
            TARGET, SECRET, self.entropy, self.replay, period, neighbour, limits or InboxLimits()
        )
        self.now_s = 0.0
        self.period = period
        self.arrived: dict[Route, list[bytes]] = {}
        self.times: list[tuple[float, Route]] = []
        self.ended: dict[Route, Reason] = {}
        self.counted: Counter[str] = Counter()
        self.ready: list[RequestReady] = []
        self.gone: list[bytes] = []
        self.answered: list[bytes] = []
        self.remembered: list[Remember] = []
        self.wakes: dict[bytes, float] = {}
        self.dummies: dict[bytes, float] = {}
        """When the first token of each is due."""
        self._by_backward: dict[tuple[Peer, bytes], Route] = {}

    @property
    def kept(self) -> list[str]:
        """What the inbox still holds, by the names of its tables."""
        tables = (
            *("_streams", "_requests", "_known", "_waiting", "_running", "_attached"),
            *("_by_backward", "_buffered_bytes", "_kept_bytes", "_turns"),
        )
        return [name for name in tables if getattr(self.inbox, name)]

    def request(
        self,
        payload: bytes = b"question",
        kind: int = QUESTION,
        least_frames: int = 0,
        n: int = N,
        k: int = K,
    ) -> OutgoingRequest:
        return prepare(payload, TARGET, PUBLIC, n, k, self.period, self.entropy, kind, least_frames)

    def route(self, relay: int = 0) -> Route:
        """A stream that this relay opens anew."""
        route = Route(Peer(False, b"relay%d" % relay), self.entropy(8))
        self._by_backward[route.peer, backward_id(route.link_id)] = route
        self.arrived[route] = []
        return route

    def feed(self, route: Route, chunk: bytes) -> None:
        self.apply(
            self.inbox.frame_arrived(route.peer, stream_frame(route.link_id, chunk), self.now_s)
        )

    def stream(self, relay: int, data: bytes) -> Route:
        """A new stream with `data`, cut as a path's owner cuts it."""
        route = self.route(relay)
        for chunk in cut(data):
            self.feed(route, chunk)
        return route

    def deliver(self, request: OutgoingRequest, indices: Iterable[int]) -> list[Route]:
        return [self.stream(index, request.streams[index]) for index in indices]

    def end(self, route: Route, reason: Reason = Reason.NONE) -> None:
        frame = encode_frame(route.link_id, STREAM_END, Report(reason).close_body())
        self.apply(self.inbox.frame_arrived(route.peer, frame, self.now_s))

    def write(self, data: bytes, request: int = -1) -> None:
        self.apply(self.inbox.write(self.ready[request].request_id, data, self.now_s))

    def finish(self, request: int = -1) -> None:
        self.apply(self.inbox.finish(self.ready[request].request_id, self.now_s))

    def advance(self, seconds: float) -> None:
        """Let time pass: each wake in its time, and a tick each second."""
        until_s = self.now_s + seconds
        while True:
            request_id = min(self.wakes, key=lambda item: self.wakes[item], default=None)
            dummy = min(self.dummies, key=lambda item: self.dummies[item], default=None)
            next_s = min(
                *(int(self.now_s) + 1.0, until_s),
                self.wakes[request_id] if request_id else until_s,
                self.dummies[dummy] if dummy else until_s,
            )
            self.now_s = max(self.now_s, next_s)
            if dummy is not None and self.dummies[dummy] <= self.now_s:
                del self.dummies[dummy]
                self.apply(self.inbox.write(dummy, b"", self.now_s))
                self.apply(self.inbox.finish(dummy, self.now_s))
            elif request_id is not None and self.wakes[request_id] <= self.now_s:
                del self.wakes[request_id]
                self.apply(self.inbox.beat(request_id, self.now_s))
            elif self.now_s == int(self.now_s):
                self.apply(self.inbox.tick(self.now_s, self.period))
            due_s = (*self.wakes.values(), *self.dummies.values())
            if self.now_s >= until_s and not any(at_s <= until_s for at_s in due_s):
                return

    def apply(self, effects: Iterable[InboxEffect]) -> None:
        accepted: list[bytes] = []
        for effect in effects:
            if isinstance(effect, Send):
                self._sent(effect)
            elif isinstance(effect, Count):
                self.counted[effect.event] += 1
            elif isinstance(effect, RequestReady):
                assert self.remembered[-1].entry == effect.request_id
                self.ready.append(effect)
            elif isinstance(effect, DummyReady):
                self.dummies[effect.request_id] = self.now_s + effect.delay_s
                accepted.append(effect.request_id)
            elif isinstance(effect, RequestGone):
                self.gone.append(effect.request_id)
            elif isinstance(effect, AnswerSent):
                self.answered.append(effect.request_id)
            elif isinstance(effect, Remember):
                self.remembered.append(effect)
            elif isinstance(effect, Wake):
                self.wakes.pop(effect.request_id, None)
                if effect.at_s is not None:
                    self.wakes[effect.request_id] = effect.at_s
            else:
                assert isinstance(effect, Purge | Room)
        for request_id in accepted:
            self.apply(self.inbox.write(request_id, b"", self.now_s))

    def _sent(self, send: Send) -> None:
        if send.peer == HOSTILE:
            return
        link_id, kind, body = decode_frame(send.frame)
        route = self._by_backward[send.peer, link_id]
        assert route not in self.ended
        if kind == STREAM_END:
            self.ended[route] = read_close_body(body).reason
        else:
            self.arrived[route].append(read_chunk(body))
            self.times.append((self.now_s, route))


def cut(data: bytes) -> list[bytes]:
    """The chunks of a stream as its path's cells carry them."""
    rest = range(OPEN_CHUNK_BYTES, len(data), CHUNK_BYTES)
    return [data[:OPEN_CHUNK_BYTES], *(data[start : start + CHUNK_BYTES] for start in rest)]


def open_clove(target: bytes, secret: bytes, stream: bytes) -> ReceivedClove:
    received = open_stream(target, secret, stream)
    assert isinstance(received, ReceivedClove)
    return received


def cloves_of_one_cell(n: int = 4, k: int = 3) -> list[sida.Clove]:
    """n cloves, of which k are needed, that fill a stream of one cell each."""
    fragment_bytes = sealed_bytes() - len(id_of(0)) - sida.HEADER_BYTES - sida.KEY_BYTES
    drawn = bytes(sida.random_bytes_needed(k))
    return list(sida.split(bytes(k * fragment_bytes - sida.TAG_BYTES), n, k, drawn))


def sealed_bytes() -> int:
    return stream_bytes(1) - COUNT_BYTES - sealed.ENCAPSULATED_BYTES - sealed.TAG_BYTES


def sealed_stream(message_id: bytes, clove: sida.Clove, secret: bytes) -> bytes:
    """A stream of one cell, sealed with `secret` in place of a fresh key."""
    plain = message_id + clove.encode()
    assert len(plain) == sealed_bytes()
    info = b"planetserve/clove/v2\0" + TARGET
    return b"\0\1" + sealed.seal(PUBLIC, info, plain, secret).data


def id_of(number: int) -> bytes:
    return PERIOD.to_bytes(4, "big") + bytes((number,)) * 12


def assembler(request: OutgoingRequest) -> AnswerAssembler:
    return AnswerAssembler(request.reply_key, request.path_keys, request.n, request.k)


def read(back: AnswerAssembler, door: Door, routes: dict[int, Route]) -> bytes:
    """What the chunks that arrived over `routes` make."""
    return b"".join(
        piece
        for index, route in routes.items()
        for chunk in door.arrived[route]
        for piece in back.feed(index, chunk)
    )


def running(door: Door, request: OutgoingRequest, indices: list[int]) -> dict[int, Route]:
    return dict(zip(indices, door.deliver(request, indices), strict=True))


def take_up(door: Door, request: OutgoingRequest, *wanted: int) -> bytes:
    """An attach with this index, number and next frame."""
    return request.sealer.attach(Attach(*wanted), door.entropy).data

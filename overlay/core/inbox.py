"""A model node's side of the overlay: cloves in, requests out; answers in, cloves out.

state      event                                    next       effects
─────────  ───────────────────────────────────────  ─────────  ─────────────────────────
WAITING    clove, fewer than k so far               WAITING
WAITING    k-th clove, the request opens            RUNNING    RequestReady
WAITING    incomplete for too long, does not open   (gone)     EXCHANGE_END to its paths
RUNNING    a further clove                          RUNNING    its path carries frames too
RUNNING    fewer than k paths left                  (gone)     RequestGone
RUNNING    finish, all n paths are there            (gone)     last frame on every path
RUNNING    finish, paths are missing                ENDED      last frame on every path
ENDED      a further clove                          ENDED      all frames on its path
ENDED      all n paths came, or too long            (gone)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from overlay.core import reply
from overlay.core.effects import Count, Entropy, Peer, Send
from overlay.core.reasons import Reason, Report
from overlay.core.request import CloveStream, ReceivedClove, open_clove, open_request
from overlay.core.sida import Clove
from overlay.core.wire import (
    STREAM,
    STREAM_END,
    CellError,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
    stream_frame,
)
from planetserve.errors import RemoteProtocolError

MAX_KEPT_FRAMES = 64
"""Frames kept for paths whose clove is late; beyond it they carry only later frames."""

Route: TypeAlias = tuple[Peer, bytes]
"""Where a path ends here: the last relay's connection and the exchange's link id."""


@dataclass(frozen=True, slots=True)
class RequestReady:
    request_id: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class RequestGone:
    """Fewer than k paths of a running request are left; its answer has nowhere to go."""

    request_id: bytes


InboxEffect: TypeAlias = Send | Count | RequestReady | RequestGone


@dataclass(frozen=True, slots=True)
class InboxLimits:
    max_streams: int = 4096
    max_buffered_bytes: int = 64 << 20
    assembly_timeout_s: float = 10.0
    remember_s: float = 1800.0
    max_remembered: int = 100_000


@dataclass(slots=True)
class _Stream:
    assembler: CloveStream
    started_s: float


@dataclass(slots=True)
class _Request:
    n: int
    k: int
    started_s: float
    cloves: dict[int, Clove] = field(default_factory=dict)
    routes: dict[int, Route] = field(default_factory=dict)
    path_keys: dict[int, bytes] = field(default_factory=dict)
    answer_keys: dict[int, bytes] = field(default_factory=dict)
    salt: bytes = b""
    reply_key: bytes = b""
    running: bool = False
    ended: bool = False
    next_frame: int = 0
    kept_frames: list[tuple[bytes, ...]] = field(default_factory=list)


@dataclass(slots=True)
class Inbox:
    """All exchanges and requests of one model node; `target` is its node id."""

    target: bytes
    onion_secret: bytes
    entropy: Entropy
    limits: InboxLimits = field(default_factory=InboxLimits)
    _streams: dict[Route, _Stream] = field(default_factory=dict)
    _buffered_bytes: int = 0
    _requests: dict[bytes, _Request] = field(default_factory=dict)
    _by_route: dict[Route, tuple[bytes, int]] = field(default_factory=dict)
    _finished: dict[bytes, float] = field(default_factory=dict)

    def frame_arrived(self, peer: Peer, frame: bytes, now_s: float) -> list[InboxEffect]:
        """A frame from a relay; anything may be in it, nothing raises."""
        try:
            cell = decode_frame(frame)
            if cell.kind == STREAM_END:
                return self.route_gone((peer, cell.link_id))
            if cell.kind != STREAM:
                raise CellError("a model node relays no paths")
            chunk = read_chunk(cell.body)
        except CellError:
            return [Count("frame_malformed")]
        return self._chunk_arrived((peer, cell.link_id), chunk, now_s)

    def route_gone(self, route: Route) -> list[InboxEffect]:
        """The path behind `route` ended."""
        self._forget_stream(route)
        found = self._by_route.pop(route, None)
        if found is None:
            return []
        request_id, index = found
        request = self._requests[request_id]
        request.routes.pop(index, None)
        awaited = request.n - len(request.path_keys)  # their cloves may still be on the way
        if request.running and not request.ended and len(request.routes) + awaited < request.k:
            return [RequestGone(request_id), *self._drop(request_id)]
        return []

    def peer_gone(self, peer: Peer) -> list[InboxEffect]:
        effects: list[InboxEffect] = []
        for route in [r for r in (*self._streams, *self._by_route) if r[0] == peer]:
            effects += self.route_gone(route)
        return effects

    def tick(self, now_s: float) -> list[InboxEffect]:
        """Drop what stayed incomplete; call it about once a second."""
        oldest = now_s - self.limits.assembly_timeout_s
        effects: list[InboxEffect] = []
        for route in [r for r, s in self._streams.items() if s.started_s < oldest]:
            self._forget_stream(route)
            effects += [Count("clove_incomplete"), self._end(route)]
        ended = [i for i, r in self._requests.items() if r.ended and r.started_s < oldest]
        for request_id in ended:
            self._remove(request_id)
        lost = [
            i
            for i, r in self._requests.items()
            if r.running and len(r.routes) < r.k and r.started_s < oldest
        ]
        for request_id in lost:
            effects += [RequestGone(request_id), *self._drop(request_id)]
        late = [i for i, r in self._requests.items() if not r.running and r.started_s < oldest]
        for request_id in late:
            effects += [Count("request_incomplete"), *self._drop(request_id)]
        forget = now_s - self.limits.remember_s
        while self._finished:  # insertion order is time order
            first = next(iter(self._finished))
            if self._finished[first] > forget and len(self._finished) <= (
                self.limits.max_remembered
            ):
                break
            del self._finished[first]
        return effects

    def send_frame(self, request_id: bytes, kind: int, data: bytes) -> list[InboxEffect]:
        """Disperse one frame of the answer; `kind` END finishes the request. Unknown ids are
        ignored: their client left."""
        request = self._requests.get(request_id)
        if request is None or request.ended:
            return []
        number = request.next_frame
        request.next_frame += 1
        cloves = reply.disperse(
            kind, data, number, request.reply_key, request.n, request.k, self.entropy
        )
        if len(request.path_keys) < request.n and number < MAX_KEPT_FRAMES:
            request.kept_frames.append(cloves)
        effects: list[InboxEffect] = [
            self._cell(route, self._chunk(request, index, number, cloves[index]))
            for index, route in request.routes.items()
        ]
        if kind == reply.END:
            request.ended = True
            self._remove_when_complete(request_id)
        return effects

    def _chunk_arrived(self, route: Route, chunk: bytes, now_s: float) -> list[InboxEffect]:
        if route in self._by_route:
            return [Count("chunk_after_clove")]
        stream = self._streams.get(route)
        if stream is None:
            if len(self._streams) >= self.limits.max_streams:
                return [Count("streams_full"), self._end(route)]
            stream = self._streams[route] = _Stream(CloveStream(), now_s)
        if self._buffered_bytes + len(chunk) > self.limits.max_buffered_bytes:
            self._forget_stream(route)
            return [Count("buffers_full"), self._end(route)]
        self._buffered_bytes += len(chunk)
        try:
            data = stream.assembler.feed(chunk)
            if data is None:
                return []
            self._forget_stream(route)
            received = open_clove(self.target, self.onion_secret, data)
            return self._clove_arrived(route, received, now_s)
        except RemoteProtocolError:
            self._forget_stream(route)
            return [Count("clove_refused"), self._end(route)]

    def _clove_arrived(
        self, route: Route, received: ReceivedClove, now_s: float
    ) -> list[InboxEffect]:
        clove, request_id = received.clove, received.message_id
        if request_id in self._finished:
            return [Count("clove_late"), self._end(route)]
        request = self._requests.get(request_id)
        if request is None:
            if len(self._requests) >= self.limits.max_streams:
                return [Count("requests_full"), self._end(route)]
            request = self._requests[request_id] = _Request(clove.n, clove.k, now_s)
        if (clove.n, clove.k) != (request.n, request.k) or clove.index in request.path_keys:
            return [Count("clove_refused"), self._end(route)]
        request.routes[clove.index] = route
        request.path_keys[clove.index] = received.path_key
        self._by_route[route] = (request_id, clove.index)
        if request.running:
            effects = self._catch_up(request, clove.index)
            if request.ended:
                self._remove_when_complete(request_id)
            return effects
        request.cloves[clove.index] = clove
        self._buffered_bytes += len(clove.fragment)
        if len(request.cloves) < request.k:
            return []
        try:
            opened = open_request(self.target, self.onion_secret, list(request.cloves.values()))
        except RemoteProtocolError:
            return [Count("request_refused"), *self._drop(request_id)]
        request.salt = self.entropy(reply.SALT_BYTES)
        request.reply_key = reply.answer_key(opened.reply_key, request.salt)
        request.running = True
        self._forget_cloves(request)
        return [Count("request_opened"), RequestReady(request_id, opened.plaintext)]

    def _catch_up(self, request: _Request, index: int) -> list[InboxEffect]:
        """A path that joined late gets the frames that left without it: were another path lost
        meanwhile, k cloves of them must still arrive."""
        effects: list[InboxEffect] = []
        for number, cloves in enumerate(request.kept_frames):
            chunk = self._chunk(request, index, number, cloves[index])
            effects.append(self._cell(request.routes[index], chunk))
        if len(request.path_keys) == request.n:
            request.kept_frames.clear()
        return effects

    def _chunk(self, request: _Request, index: int, number: int, clove: bytes) -> bytes:
        key = request.answer_keys.get(index)
        if key is None:
            key = reply.answer_key(request.path_keys[index], request.salt)
            request.answer_keys[index] = key
        return reply.seal_clove(key, request.salt, number, clove)

    def _remove_when_complete(self, request_id: bytes) -> None:
        """An ended request waits a while for cloves that are late: without their paths the answer
        would have no spare."""
        request = self._requests[request_id]
        if len(request.path_keys) == request.n:
            self._remove(request_id)

    def _remove(self, request_id: bytes) -> list[Route]:
        """Forget all of a request but its id, so that a replay of its cloves finds it used."""
        request = self._requests.pop(request_id)
        self._finished[request_id] = request.started_s
        self._forget_cloves(request)
        for route in request.routes.values():
            self._by_route.pop(route, None)
        return list(request.routes.values())

    def _drop(self, request_id: bytes) -> list[InboxEffect]:
        return [self._end(route) for route in self._remove(request_id)]

    def _forget_cloves(self, request: _Request) -> None:
        self._buffered_bytes -= sum(len(clove.fragment) for clove in request.cloves.values())
        request.cloves.clear()

    def _forget_stream(self, route: Route) -> None:
        stream = self._streams.pop(route, None)
        if stream is not None:
            self._buffered_bytes -= len(stream.assembler.received)

    def _cell(self, route: Route, chunk: bytes) -> Send:
        return Send(route[0], stream_frame(backward_id(route[1]), chunk))

    def _end(self, route: Route) -> Send:
        body = Report(Reason.TARGET_REFUSED).close_body()
        return Send(route[0], encode_frame(backward_id(route[1]), STREAM_END, body))

"""The target `inbox`: a model node among relays and askers of which any may be hostile. Who asks
has the node's public key, so what is behind its seals may be anything too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from overlay.core import answering, attach, padding, sealed, sida
from overlay.core.answering import Route
from overlay.core.attach import Attach
from overlay.core.effects import Neighbour, Peer, Send
from overlay.core.inbox import InboxLimits
from overlay.core.load import LoadLimits
from overlay.core.reasons import Reason, Report, read_close_body
from overlay.core.request import (
    COUNT_BYTES,
    DUMMY,
    MESSAGE_ID_BYTES,
    PERIOD_BYTES,
    OutgoingRequest,
    stream_bytes,
)
from overlay.core.wire import (
    BODY_BYTES,
    FRAME_BYTES,
    KINDS,
    MAX_CHUNK_BYTES,
    STREAM,
    STREAM_END,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
)
from tests.fuzz.program import Program
from tests.overlay.door import PERIOD, PUBLIC, TARGET, Door, cut

PEERS = tuple(Peer(False, name) for name in (b"a", b"b", b"c", b"d"))
LIMITS = InboxLimits(
    assembly_timeout_s=2.0,
    pause_timeout_s=3.0,
    linger_s=3.0,
    max_streams=6,
    max_requests=4,
    load=LoadLimits(max_cloves=20, max_cloves_a_node=18, max_cloves_a_stranger=4),
    max_buffered_bytes=8_000,
    max_kept_bytes=60_000,
)
CODES = ((4, 3), (1, 1), (2, 1), (3, 3), (5, 3), (16, 8))
MAX_STEPS = 100
MAX_WRITTEN_BYTES = 1 << 16
SETTLED_S = 60.0
"""After which nobody waits for anything any more, but for a dummy's time to its first token."""
CLOVE_PLAIN_BYTES = stream_bytes(1) - COUNT_BYTES - sealed.ENCAPSULATED_BYTES - sealed.TAG_BYTES


@lru_cache(maxsize=1)
def requests() -> tuple[OutgoingRequest, ...]:
    """Of honest askers, the last of another time."""
    door = Door(LIMITS)
    made = [
        door.request(b"question"),
        door.request(b"", kind=DUMMY, least_frames=5),
        door.request(b"short", n=2, k=1),
        door.request(bytes(5_000), n=3, k=2),
        door.request(b"another", n=5, k=3),
        door.request(b"", kind=DUMMY),
    ]
    for period in (PERIOD - 1, PERIOD - 9):
        door.period = period
        made.append(door.request(b"early"))
    return tuple(made)


def neighbour(peer: Peer) -> Neighbour:
    return Neighbour(peer.name in b"abc", peer.name)


class Scene(Door):
    def __init__(self) -> None:
        super().__init__(LIMITS, neighbour=neighbour)
        self.finished: set[bytes] = set()

    def _sent(self, send: Send) -> None:
        assert send.peer in PEERS
        assert len(send.frame) == FRAME_BYTES
        _, kind, body = decode_frame(send.frame)
        if kind == STREAM_END:
            read_close_body(body)
        else:
            assert read_chunk(body)

    def arrive(self, peer: Peer, frame: bytes) -> None:
        self.apply(self.inbox.frame_arrived(peer, frame, self.now_s))

    def check(self) -> None:
        """The books are right, and within their bounds."""
        inbox = self.inbox
        waiting = list(inbox._requests.values())
        streams = sum(len(stream.reader.received) for stream in inbox._streams.values())
        assert inbox._buffered_bytes == streams + sum(item.clove_bytes for item in waiting)
        assert inbox._buffered_bytes <= LIMITS.max_buffered_bytes
        assert inbox._kept_bytes == sum(item.kept_bytes for item in waiting)
        assert inbox._kept_bytes <= LIMITS.max_kept_bytes
        assert set(inbox._attached) == {r for item in waiting for r in item.routes.values()}
        assert set(inbox._by_backward.values()) == set(inbox._attached)
        assert not set(inbox._attached) & set(inbox._streams)
        assert set(inbox._known) == set(inbox._requests)
        states = {item.request_id: item.state for item in waiting}
        running = (answering.RUNNING, answering.PAUSED)
        assert set(inbox._running._running) == {
            i for i, state in states.items() if state in running
        }
        assert set(inbox._waiting) == {
            i for i, state in states.items() if state == answering.WAITING
        }
        assert len(inbox._streams) <= LIMITS.max_streams
        assert len(inbox._requests) <= LIMITS.max_requests
        assert inbox._notes == []
        turns = inbox._turns
        assert set(turns._neighbours) <= set(inbox._streams)
        assert set(turns._again) == {i.request_id for i in waiting if i.next_bytes}
        assert len(turns) == 0 or inbox._turn_s is not None
        self.check_load()
        ids = [item.entry for item in self.remembered]
        assert len(set(ids)) == len(ids), "a request was taken twice"

    def check_load(self) -> None:
        load, limits = self.inbox._running, LIMITS.load
        running = load._running.values()
        shares: Counter[Neighbour] = Counter()
        for item in running:
            shares[item.neighbour] += item.cloves
        assert load._by_neighbour == shares
        assert all(count <= limits.share(neighbour) for neighbour, count in shares.items())
        assert load._cloves == shares.total() <= limits.max_cloves
        paused = [
            item.request_id
            for item in self.inbox._requests.values()
            if item.state == answering.PAUSED
        ]
        assert set(load._paused) == set(paused)


def _route(program: Program) -> Route:
    return Route(program.choose(PEERS), bytes((program.byte() % 8,)) * 8)


def _feed(scene: Scene, route: Route, data: bytes, chunks: int) -> None:
    for chunk in cut(data)[: chunks or None]:
        frame = encode_frame(route.link_id, STREAM, _chunk_body(chunk))
        scene.arrive(route.peer, frame)


def _chunk_body(chunk: bytes) -> bytes:
    return (len(chunk).to_bytes(2, "big") + chunk).ljust(BODY_BYTES, b"\0")


def _clove(scene: Scene, program: Program) -> None:
    """The stream of an honest request, or its beginning."""
    request = program.choose(requests())
    stream = program.choose(request.streams)
    _feed(scene, _route(program), stream, program.byte() % 4)


def _message_id(program: Program) -> bytes:
    period = PERIOD - 2 + program.byte() % 5
    return period.to_bytes(PERIOD_BYTES, "big") + bytes(
        (program.byte() % 8,) * (MESSAGE_ID_BYTES - PERIOD_BYTES)
    )


def _sealed(scene: Scene, info: bytes, plain: bytes, choice: int) -> bytes:
    """With a key of its own, or one that others have too."""
    secret = bytes((choice % 4,)) * 32 if choice % 4 else scene.entropy(32)
    return sealed.seal(PUBLIC, info + TARGET, plain, secret).data


def _sealed_clove(scene: Scene, program: Program) -> None:
    """Anything behind the seal of a clove."""
    message_id, route, key = _message_id(program), _route(program), program.byte()
    plain = (message_id + program.data()).ljust(CLOVE_PLAIN_BYTES, b"\0")[:CLOVE_PLAIN_BYTES]
    stream = b"\0\1" + _sealed(scene, b"planetserve/clove/v2\0", plain, key)
    _feed(scene, route, stream, 0)


def _sealed_request(scene: Scene, program: Program) -> None:
    """Anything behind the seal of a request, or in place of it, in cloves that fit together."""
    message_id, (n, k) = _message_id(program), program.choose(CODES)
    choice, first, key = program.byte(), program.choose(PEERS), program.byte()
    size = padding.request_bytes(1, k)
    message = program.data().ljust(size, b"\0")[:size]
    if choice % 4 == 0:
        request = message[: program.number()]
    else:
        request = _sealed(scene, b"planetserve/request/v2\0", message, 0)
    cloves = sida.split(request, n, k, scene.entropy(sida.random_bytes_needed(k)))
    for number, clove in enumerate(cloves[: k + choice // 64]):
        peer = PEERS[(PEERS.index(first) + number) % len(PEERS)]
        plain = (message_id + clove.encode()).ljust(CLOVE_PLAIN_BYTES, b"\0")
        stream = b"\0\1" + _sealed(scene, b"planetserve/clove/v2\0", plain, key)
        _feed(scene, Route(peer, scene.entropy(8)), stream, 0)


def _polluted_attach(scene: Scene, program: Program) -> None:
    """Cloves of which one is nothing, taken up over other paths before the request opens."""
    message_id, (n, k) = _message_id(program), program.choose(CODES)
    bad, attaches, first = program.byte() % n, program.byte() % 4, program.choose(PEERS)
    size = padding.request_bytes(1, k)
    message = program.data().ljust(size, b"\0")[:size]
    request = _sealed(scene, b"planetserve/request/v2\0", message, 0)
    cloves = list(sida.split(request, n, k, scene.entropy(sida.random_bytes_needed(k))))
    cloves[bad] = replace(cloves[bad], fragment=bytes(len(cloves[bad].fragment)))
    for number, clove in enumerate([cloves.pop(bad), *cloves]):
        plain = (message_id + clove.encode()).ljust(CLOVE_PLAIN_BYTES, b"\0")
        info = b"planetserve/clove/v2\0" + TARGET
        made = sealed.seal(PUBLIC, info, plain, scene.entropy(32))
        peer = PEERS[(PEERS.index(first) + number) % len(PEERS)]
        _feed(scene, Route(peer, scene.entropy(8)), b"\0\1" + made.data, 0)
        if number < k - 1:
            for attach_number in range(attaches):
                content = attach.encode(Attach(clove.index, attach_number, 0))
                data = b"\0\1" + _sealed(scene, b"planetserve/clove/v2\0", message_id + content, 0)
                _feed(scene, Route(peer, scene.entropy(8)), data, 0)


def _attach(scene: Scene, program: Program) -> None:
    request = program.choose(requests())
    index = program.byte() % request.n
    number, next_frame = program.byte() % attach.MAX_ATTACHES, program.number()
    data = request.sealer.attach(Attach(index, number, next_frame), scene.entropy).data
    _feed(scene, _route(program), data, 0)


def _chunk(scene: Scene, program: Program) -> None:
    route = _route(program)
    body = _chunk_body(program.data()[:MAX_CHUNK_BYTES])
    scene.arrive(route.peer, encode_frame(route.link_id, STREAM, body))


def _frame(scene: Scene, program: Program) -> None:
    route, kind = _route(program), sorted(KINDS)[program.byte() % len(KINDS)]
    scene.arrive(route.peer, encode_frame(route.link_id, kind, program.filled(BODY_BYTES)))


def _bytes(scene: Scene, program: Program) -> None:
    scene.arrive(program.choose(PEERS), program.data())


def _end(scene: Scene, program: Program) -> None:
    route, reason = _route(program), program.choose((Reason.NONE, Reason.NEIGHBOUR_GONE))
    body = Report(reason).close_body()
    scene.arrive(route.peer, encode_frame(route.link_id, STREAM_END, body))


def _gone(scene: Scene, program: Program) -> None:
    scene.apply(scene.inbox.peer_gone(program.choose(PEERS), scene.now_s))


def _shed(scene: Scene, program: Program) -> None:
    route = _route(program)
    link_id = backward_id(route.link_id)
    scene.apply(scene.inbox.stream_shed(route.peer, link_id, scene.now_s))


def _write(scene: Scene, program: Program) -> None:
    """The engine says something more."""
    which, repeated = program.byte(), program.byte() + 1
    data = (program.data() * repeated)[:MAX_WRITTEN_BYTES]
    if scene.ready:
        request_id = scene.ready[which % len(scene.ready)].request_id
        if request_id not in scene.finished and scene.inbox.has_room(request_id):
            scene.apply(scene.inbox.write(request_id, data, scene.now_s))


def _finish(scene: Scene, program: Program) -> None:
    which = program.byte()
    if scene.ready:
        request_id = scene.ready[which % len(scene.ready)].request_id
        scene.finished.add(request_id)
        scene.apply(scene.inbox.finish(request_id, scene.now_s))


def _time(scene: Scene, program: Program) -> None:
    scene.advance(program.byte() ** 2 / 16_384)


def _period(scene: Scene, program: Program) -> None:
    scene.period += program.byte() % 3
    scene.apply(scene.inbox.tick(scene.now_s, scene.period))


STEPS: Sequence[Callable[[Scene, Program], None]] = (
    _clove,
    _sealed_clove,
    _sealed_request,
    _attach,
    _chunk,
    _frame,
    _bytes,
    _end,
    _gone,
    _shed,
    _write,
    _finish,
    _time,
    _period,
    _polluted_attach,
)
STEP = {step.__name__[1:]: number for number, step in enumerate(STEPS)}


def inbox(data: bytes) -> None:
    scene, program = Scene(), Program(data)
    program.run(STEPS, scene, MAX_STEPS)
    scene.advance(LIMITS.assembly_timeout_s + 1.0)  # what still waits to be opened
    for ready in scene.ready:
        scene.apply(scene.inbox.finish(ready.request_id, scene.now_s))
    scene.advance(SETTLED_S + scene.now_s)
    scene.check()
    assert scene.kept == [], "something is kept for ever"
    assert scene.wakes == {}

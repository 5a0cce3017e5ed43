"""A client's core among real relays and a made-up model node, without sockets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from random import Random

from overlay.core import frames
from overlay.core.asking import Asking, AskingEffect, Lost, Progress, Whole
from overlay.core.attach import Attach
from overlay.core.choice import Rules
from overlay.core.effects import Entropy, Peer, Purge, Send
from overlay.core.exchange import ExchangeLimits
from overlay.core.guards import GuardRules
from overlay.core.path_driver import PathDriver
from overlay.core.path_driver_effects import Moment, Solve
from overlay.core.path_pool import PathPool
from overlay.core.puzzle import solve_puzzle
from overlay.core.reasons import Reason, Report
from overlay.core.relay import RelayLimits
from overlay.core.relay_memory import RelayMemory
from overlay.core.request import OutgoingRequest, OutgoingStream
from overlay.core.wire import (
    ID_BYTES,
    STREAM,
    STREAM_END,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
)
from planetserve.errors import PlanetServeError
from planetserve.keys import NodeId
from planetserve.records import NodeRecord, RouteSet
from tests.overlay.relays import relay
from tests.overlay.world import OWNER, TARGET, Carried, World

N, K = 4, 3
REPLY_KEY = b"r" * 32
ANSWER = [(frames.DATA, b"Hello "), (frames.DATA, b"world")]
END = [(frames.END, b"."), (frames.PADDING, b""), (frames.LAST, b"")]
WHOLE = b"Hello world."


def request(number: int) -> OutgoingRequest:
    """A question whose cloves say in clear which they are, for the node made up here."""
    keys = tuple(Random(8 * number + slot).randbytes(32) for slot in range(N))
    cloves = tuple(b"clove %d of %d" % (slot, number) for slot in range(N))
    return OutgoingRequest(cloves, REPLY_KEY, keys, N, K, InClear(number, keys))


@dataclass(frozen=True)
class InClear:
    """Seals nothing, and keeps to the keys."""

    number: int
    keys: tuple[bytes, ...]

    def clove(self, index: int, entropy: Entropy) -> OutgoingStream:
        return OutgoingStream(b"clove %d of %d" % (index, self.number), self.keys[index])

    def attach(self, item: Attach, entropy: Entropy) -> OutgoingStream:
        words = (item.index, self.number, item.number, item.next_frame)
        return OutgoingStream(b"attach %d of %d as %d from %d" % words, self.keys[item.index])


@dataclass(eq=False)
class Reply:
    """What the node holds of one question: its cloves, the streams they came by, the frames."""

    request: OutgoingRequest
    cloves: set[int] = field(default_factory=set)
    streams: dict[int, Carried] = field(default_factory=dict)
    attaches: dict[int, int] = field(default_factory=dict)
    sent: list[tuple[bytes, ...]] = field(default_factory=list)

    def chunk(self, number: int, slot: int) -> bytes:
        key = frames.answer_key(self.request.path_keys[slot])
        nonce = number.to_bytes(frames.NONCE_BYTES, "big")
        return frames.seal_clove(key, nonce, number, self.sent[number][slot])


@dataclass(eq=False)
class Client:
    """`answers` holds what came of each question, `whole` those that ended well."""

    relays: int = 20
    seed: int = 1
    limits: RelayLimits = field(default_factory=RelayLimits)
    keep_ahead: bool = True
    operators: Callable[[int], str] = lambda number: ""
    clock_ahead_s: float = 0.0
    own: bytes | None = None

    def __post_init__(self) -> None:
        self.world = World(relays=self.relays, seed=self.seed, limits=self.limits, wire=self.wire)
        self.refused: list[Carried] = []
        self.damage: Callable[[Carried], Carried] = lambda carried: carried
        self.random = Random(self.seed)
        draw = self.random.randrange
        self.memory = RelayMemory(Rules(), GuardRules(), draw, self.own)
        pool = PathPool(Rules(), self.keep_ahead)
        self.paths = PathDriver(pool, self.memory, self.random.randbytes, draw, self.own)
        self.core = Asking(self.paths, ExchangeLimits(), self.random.randbytes, draw)
        self.target = replace(relay(900), id=NodeId(TARGET), roles=("model",), name="model-1")
        self.read_routes()
        self.replies: dict[int, Reply] = {}
        self.answers: dict[int, bytes] = {}
        self.whole: set[int] = set()
        self.errors: dict[int, PlanetServeError] = {}
        self.node_answers = True
        self.links: set[bytes] = set()
        """First hops that a frame went to."""

    def read_routes(self, height: int = 77) -> None:
        records = [self.record(node) for node in self.world.members]
        keys = b"".join(record.onion_key for record in records)
        self.memory.routes_read(
            RouteSet(height, hashlib.sha256(keys).digest(), (*records, self.target))
        )

    def record(self, node: bytes) -> NodeRecord:
        number = node[0]
        return replace(
            relay(number, self.operators(number)),
            id=NodeId(node),
            onion_key=self.world.members[node].secrets.public,
        )

    @property
    def at(self) -> Moment:
        return Moment(self.world.now_s, self.world.now_s + self.clock_ahead_s)

    def do(self, effects: Iterable[AskingEffect]) -> None:
        """Carry out, and all that comes of it."""
        gone = []
        for effect in effects:
            match effect:
                case Send(peer, frame):
                    self.links.add(peer.name)
                    if peer.name in self.world.gone:
                        gone.append(peer)
                    else:
                        self.world.deliver(Carried(OWNER, peer.name, frame))
                case Solve(path, puzzles):
                    nonces = {}
                    for item in puzzles:
                        found = solve_puzzle(item.seed, item.ephemeral, item.difficulty, 0, 1 << 22)
                        assert found is not None
                        nonces[item.hop] = found.to_bytes(8, "big")
                    self.do(self.core.solved(path, nonces, self.at))
                case Progress(question):
                    self.answers[question] += self.core.read(question, 1 << 20)
                case Whole(question):
                    assert question not in self.errors
                    self.whole.add(question)
                case Lost(question, error):
                    assert question not in self.whole
                    assert question not in self.errors
                    self.errors[question] = error
                case Purge():
                    pass
        for peer in gone:
            self.do(self.core.peer_gone(peer, self.at))
        self.settle()

    def settle(self) -> None:
        """Bring what waits for the client and for the node."""
        while True:
            frames_in = self.world.arrived.pop(OWNER, None)
            asked = self.world.arrived.pop(TARGET, None)
            refused, self.refused = self.refused, []
            if not frames_in and not asked and not refused:
                return
            for carried in refused:
                sender = self.world.members.get(carried.sender)
                if sender is not None:
                    peer = Peer(not carried.dialled, carried.receiver)
                    self.world.carry_out(sender, sender.core.peer_gone(peer))
            for carried in frames_in or ():
                peer = Peer(True, carried.sender)
                self.do(self.core.frame_arrived(peer, carried.frame, self.at))
            for carried in asked or ():
                self.at_node(carried)

    def wire(self, carried: Carried) -> list[Carried]:
        """A dead relay takes no connection, which who dialled it notices."""
        if carried.receiver in self.world.gone:
            self.refused.append(carried)
            return []
        return [self.damage(carried)]

    # The model node.

    def at_node(self, carried: Carried) -> None:
        frame = decode_frame(carried.frame)
        if frame.kind == STREAM_END:
            for reply in self.replies.values():
                ended = [
                    slot
                    for slot, stream in reply.streams.items()
                    if stream.frame[:ID_BYTES] == frame.link_id
                ]
                for slot in ended:
                    del reply.streams[slot]
            return
        assert frame.kind == STREAM
        data = read_chunk(frame.body)
        found = self.attached(data) if data.startswith(b"attach") else self.clove(data)
        if found is None or found[1] in found[0].streams:
            body = Report(Reason.TARGET_REFUSED).close_body()
            back = encode_frame(backward_id(frame.link_id), STREAM_END, body)
            self.world.deliver(Carried(TARGET, carried.sender, back, dialled=True))
            return
        reply, slot, first = found
        reply.streams[slot] = carried
        for number in range(first, len(reply.sent)):
            self.world.answer(carried, reply.chunk(number, slot))
        if len(reply.cloves) >= K and not reply.sent and self.node_answers:
            self.say(reply, ANSWER)

    def clove(self, data: bytes) -> tuple[Reply, int, int] | None:
        slot, number = (int(word) for word in data.split()[1::2])
        reply = self.replies.setdefault(number, Reply(request(number)))
        reply.cloves.add(slot)
        return reply, slot, 0

    def attached(self, data: bytes) -> tuple[Reply, int, int] | None:
        slot, number, attach_number, next_frame = (int(word) for word in data.split()[1::2])
        reply = self.replies.get(number)
        if reply is None or slot not in reply.cloves:
            return None
        assert attach_number >= reply.attaches.get(slot, 0)
        reply.attaches[slot] = attach_number + 1
        reply.streams.pop(slot, None)
        return reply, slot, next_frame

    def say(self, reply: Reply, parts: Iterable[tuple[int, bytes]]) -> None:
        """Send frames on every stream that the node has."""
        for kind, data in parts:
            number = len(reply.sent)
            entropy = Random(number).randbytes
            reply.sent.append(frames.disperse(kind, data, number, REPLY_KEY, N, K, entropy))
            for slot, carried in list(reply.streams.items()):
                self.world.answer(carried, reply.chunk(number, slot))
        self.settle()

    # The user.

    def ask(self, session: int | None = None) -> int:
        number, effects = self.core.begin(session, self.target, request(len(self.answers)), self.at)
        self.answers[number] = b""
        self.do(effects)
        return number

    def finish(self, question: int) -> None:
        """The node sends the end of its answer."""
        reply = self.replies[question]
        self.say(reply, END if reply.sent else [*ANSWER, *END])

    def leave(self, question: int) -> None:
        self.do(self.core.leave(question, self.at))

    def prepare(self) -> None:
        self.do(self.core.prepare(self.at))

    def run(self, seconds: float, step_s: float = 0.1) -> None:
        for _ in range(round(seconds / step_s)):
            self.world.tick(step_s)
            self.do(self.core.tick(self.at))

    def kill(self, node: bytes) -> None:
        self.world.kill(node)
        self.do(self.core.peer_gone(Peer(True, node), self.at))

    def revive(self, node: bytes) -> None:
        self.world.gone.discard(node)
        self.world.add(node)
        self.read_routes()

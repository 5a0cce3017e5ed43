"""Relays, owners and model nodes in one process, without sockets: frames travel at once and in
order, and each link's are kept. A link that is held back queues what a relay sends over it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import InitVar, dataclass, field
from random import Random

from overlay.core import client_path
from overlay.core.client_path import ClientPath, PathEvent
from overlay.core.effects import (
    Count,
    Effect,
    Entropy,
    Neighbour,
    Peer,
    Purge,
    Remember,
    Send,
    Tell,
)
from overlay.core.fair_queue import MAX_REFUSALS, FairQueue, QueueBudget
from overlay.core.payload import PAD, Payload
from overlay.core.relay import Relay, RelayLimits
from overlay.core.replay_filter import SECRET_BYTES, ReplayFilter
from overlay.core.setup import PUZZLE_NONCE_BYTES, HopSpec, OnionSecrets, period_of
from overlay.core.wire import ID_BYTES, STREAM, CellError, backward_id, decode_frame, stream_frame

START_S = 1_800_000_000.0
FILTER_BITS = 1 << 14
OWNER = b"owner"
TARGET = b"T" * 20


def node_id(number: int) -> bytes:
    return bytes((number,)) * 20


@dataclass(frozen=True)
class Carried:
    """A frame on its way; `dialled` says whether the receiver opened the connection. Names are
    node ids and, for owners, what the test calls them."""

    sender: bytes
    receiver: bytes
    frame: bytes
    dialled: bool = False


@dataclass(eq=False)
class Member:
    """A relay with what it sees of the world."""

    world: World
    node: bytes
    secrets: OnionSecrets
    core: Relay = field(init=False)
    counts: Counter[str] = field(default_factory=Counter)
    remembered: list[Remember] = field(default_factory=list)
    purged: list[Purge] = field(default_factory=list)
    disk_is_full: bool = False
    clock_ahead_s: float = 0.0
    """How far its Unix time is ahead of the world's."""
    unlisted: set[bytes] = field(default_factory=set)
    """What everybody else knows and this relay's route set lacks."""
    queues: QueueBudget = field(default_factory=lambda: QueueBudget(1 << 26))

    def knows(self, node: bytes) -> bool:
        return node in self.world.known and node not in self.unlisted

    def neighbour(self, peer: Peer) -> Neighbour:
        return Neighbour(peer.name in self.world.members, peer.name)

    def route_set(self) -> tuple[int, bytes]:
        return 77, bytes(range(32))

    def period(self) -> int:
        return period_of(self.world.now_s + self.clock_ahead_s)

    def took(self, effects: Iterable[Effect]) -> list[Carried]:
        """Count what is to be counted; the frames that go out."""
        frames = []
        pending = deque(effects)
        while pending:
            effect = pending.popleft()
            match effect:
                case Send() if (self.node, effect.peer.name) in self.world.held:
                    pending.extend(self._queued(effect))
                case Send():
                    frames.append(self.carried(effect.peer, effect.frame))
                case Count():
                    self.counts[effect.event] += 1
                case Remember() if self.disk_is_full:
                    self.core.not_remembered()
                case Remember():
                    self.remembered.append(effect)
                    pending.extendleft(reversed(self.core.remembered()))
                case Purge():
                    self.purged.append(effect)
                    self._queue(effect.peer).purge(effect.link_id)
        return frames

    def carried(self, peer: Peer, frame: bytes) -> Carried:
        return Carried(self.node, peer.name, frame, dialled=not peer.dialled)

    def _queue(self, peer: Peer) -> FairQueue:
        return self.queues.queue(peer, self.neighbour(peer))

    def _queued(self, send: Send) -> Iterable[Effect]:
        """Put a frame into its queue; what the core makes of an overflow."""
        queue = self._queue(send.peer)
        if isinstance(send, Tell) and len(queue) >= MAX_REFUSALS:
            return
        if not queue.put(send.frame):
            yield from self.core.shed(send.peer, send.frame[:ID_BYTES])
        for peer, link_id in self.queues.over():
            yield from self.core.shed(peer, link_id)


@dataclass(eq=False)
class World:
    """`members` are the relays by node id; what goes to model nodes and owners waits in `arrived`
    until the test takes it."""

    relays: int = 3
    seed: int = 1
    limits: RelayLimits = field(default_factory=RelayLimits)
    targets: Sequence[bytes] = (TARGET,)
    now_s: float = START_S
    wire: Callable[[Carried], list[Carried]] = lambda carried: [carried]
    """What becomes of a frame on its way: nothing, itself, another, several."""
    relay: type[Relay] = Relay
    draws: InitVar[Entropy | None] = None
    """In place of what `seed` gives."""

    def __post_init__(self, draws: Entropy | None) -> None:
        self.entropy = draws or Random(self.seed).randbytes
        self.members: dict[bytes, Member] = {}
        self.known: set[bytes] = set(self.targets)
        self.carried: list[Carried] = []
        self.arrived: dict[bytes, deque[Carried]] = {}
        self.gone: set[bytes] = set()
        self.held: set[tuple[bytes, bytes]] = set()
        """Links, as sender and receiver, over which relays' frames wait until they are let go."""
        for number in range(1, self.relays + 1):
            self.add(node_id(number))

    def add(self, node: bytes) -> Member:
        member = Member(self, node, OnionSecrets.from_bytes(self.entropy(32)))
        replay = ReplayFilter(self.entropy(SECRET_BYTES), period_of(self.now_s), FILTER_BITS)
        member.core = self.relay(node, member.secrets, member, replay, self.entropy, self.limits)
        self.members[node] = member
        self.known.add(node)
        return member

    @property
    def line(self) -> list[Member]:
        return list(self.members.values())

    def specs(self, hops: Sequence[bytes]) -> list[HopSpec]:
        return [HopSpec(node, self.members[node].secrets.public, self.entropy(32)) for node in hops]

    def begin(
        self, hops: Sequence[bytes] | None = None, owner: bytes = OWNER, fast_s: float = 0.0
    ) -> Owned:
        """A path through all relays, or through `hops`, of which no answer was looked at; the
        owner's clock is `fast_s` fast."""
        specs = self.specs(hops or list(self.members))
        nonces = [self.entropy(PUZZLE_NONCE_BYTES) for _ in specs]
        path, sends = client_path.build(specs, period_of(self.now_s + fast_s), nonces, self.entropy)
        owned = Owned(self, owner, path, sends[0].frame)
        owned.send(sends)
        return owned

    def build(self, hops: Sequence[bytes] | None = None, owner: bytes = OWNER) -> Owned:
        owned = self.begin(hops, owner)
        owned.receive()
        return owned

    def deliver(self, carried: Carried) -> None:
        """Bring a frame where it goes, and all that comes of it."""
        pending = deque(self.wire(carried))
        while pending:
            for sent in self.arrive(pending.popleft()):
                pending.extend(self.wire(sent))

    def arrive(self, carried: Carried) -> list[Carried]:
        """A frame is where it was sent; what its receiver sends, if that is a relay."""
        if carried.receiver in self.gone:
            return []
        self.carried.append(carried)
        member = self.members.get(carried.receiver)
        if member is None:
            self.arrived.setdefault(carried.receiver, deque()).append(carried)
            return []
        peer = Peer(carried.dialled, carried.sender)
        return member.took(member.core.frame_arrived(peer, carried.frame, self.now_s))

    def carry_out(self, member: Member, effects: Iterable[Effect]) -> None:
        for carried in member.took(effects):
            self.deliver(carried)

    def let_go(self, sender: bytes, receiver: bytes, most: int = 1 << 30) -> int:
        """Bring up to `most` of the frames that wait where they go; how many there were."""
        member = self.members[sender]
        for count in range(most):
            for peer in (Peer(True, receiver), Peer(False, receiver)):
                frame = member.queues.queue(peer, member.neighbour(peer)).take()
                if frame is not None:
                    self.deliver(member.carried(peer, frame))
                    if frame[ID_BYTES] == STREAM:
                        self.carry_out(member, member.core.sent(peer, frame[:ID_BYTES]))
                    break
            else:
                return count
        return most

    def at_target(self, target: bytes = TARGET) -> list[Carried]:
        """Frames that came to the model node since the last call."""
        waiting = self.arrived.pop(target, deque())
        return list(waiting)

    def answer(self, asked: Carried, chunk: bytes) -> None:
        """The model node that got `asked` sends a chunk back."""
        frame = stream_frame(backward_id(asked.frame[:ID_BYTES]), chunk)
        self.deliver(Carried(asked.receiver, asked.sender, frame, dialled=True))

    def kill(self, node: bytes) -> None:
        """The relay or model node is gone, and its neighbours notice."""
        self.gone.add(node)
        for member in self.line:
            for dialled in (True, False):
                member.queues.drop(Peer(dialled, node))
                self.carry_out(member, member.core.peer_gone(Peer(dialled, node)))

    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        for member in self.line:
            self.carry_out(member, member.core.tick(self.now_s))

    def open_paths(self) -> list[int]:
        return [member.core.paths for member in self.line]


@dataclass(eq=False)
class Owned:
    """A path at its owner; `events` is what the path reported so far."""

    world: World
    owner: bytes
    path: ClientPath
    setup: bytes
    """The set-up frame."""
    events: list[PathEvent] = field(default_factory=list)

    def send(self, sends: Iterable[Send]) -> None:
        for item in sends:
            self.world.deliver(Carried(self.owner, item.peer.name, item.frame))

    def ask(self, data: bytes, target: bytes = TARGET) -> int:
        number, sends = self.path.open_stream(target, data)
        self.send(sends)
        self.receive()
        return number

    def receive(self) -> list[PathEvent]:
        """Take in what came back for this path; the new events."""
        new: list[PathEvent] = []
        waiting = self.world.arrived.get(self.owner, deque())
        own = [c for c in waiting if c.frame[:ID_BYTES] == self.path.backward_id]
        for carried in own:
            waiting.remove(carried)
            try:
                frame = decode_frame(carried.frame)
            except CellError:
                continue  # as the shell does
            sends, events = self.path.frame_arrived(frame)
            new += events
            self.send(sends)
        self.events += new
        return new + (self.receive() if own else [])


def pad(path: ClientPath) -> list[Send]:
    """A cell that says nothing. Relays take it, though the client has no use for it."""
    return [path._cell(Payload(PAD))]

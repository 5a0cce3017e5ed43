"""The target `relay`: one relay among owners, other relays and model nodes, all of them hostile but
for one owner, who keeps to the rules and must never lose a path that the relay still has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from overlay.core import client_path
from overlay.core.client_path import OPEN, Broken, ClientPath
from overlay.core.effects import Count, Effect, Neighbour, Peer, Purge, Remember, Send
from overlay.core.layer import PAYLOAD_BYTES, wrap
from overlay.core.payload import HEADER_BYTES as PAYLOAD_HEADER_BYTES
from overlay.core.relay import Relay, RelayLimits, Role
from overlay.core.relay_exit import MAX_STREAMS, MAX_WAITING
from overlay.core.replay_filter import SECRET_BYTES, ReplayFilter
from overlay.core.setup import HopSpec, OnionSecrets, period_of
from overlay.core.wire import (
    BODY_BYTES,
    CELL,
    FRAME_BYTES,
    ID_BYTES,
    KINDS,
    SETUP,
    STREAM,
    Frame,
    backward_id,
    decode_frame,
    encode_frame,
    stream_frame,
)
from tests.fuzz.program import Program
from tests.overlay.world import pad

NODE = b"R" * 20
SECRETS = OnionSecrets.from_bytes(bytes(range(32)))
START_S = 1_800_000_000.0
FOLLOWING = (b"1" * 20, b"2" * 20)
TARGETS = (b"T" * 20, b"U" * 20)
HONEST = Peer(False, b"honest")
PEERS = (
    *(Peer(False, name) for name in (b"a", b"b", b"node")),
    *(Peer(True, name) for name in (*FOLLOWING, *TARGETS, b"?" * 20)),
)
LIMITS = RelayLimits(
    max_paths=6,
    max_paths_a_node=4,
    max_paths_a_stranger=3,
    idle_s=40.0,
    path_life_s=90.0,
    setups_per_s=2.0,
)
MAX_STEPS = 200


@dataclass(frozen=True)
class Known:
    """A set-up whose keys the fuzzer has. Its `ClientPath` is made anew for each run."""

    hops: tuple[bytes, ...]
    periods_off: int = 0
    opens: bool = True

    def build(self, number: int) -> tuple[ClientPath, bytes]:
        random = Random(number)
        keys = SECRETS if self.opens else OnionSecrets.from_bytes(bytes(32))
        specs = [HopSpec(NODE, keys.public, random.randbytes(32))]
        specs += [HopSpec(node, SECRETS.public, random.randbytes(32)) for node in self.hops]
        period = period_of(START_S) + self.periods_off
        nonces = [random.randbytes(8) for _ in specs]
        path, sends = client_path.build(specs, period, nonces, random.randbytes)
        return path, sends[0].frame[1 + ID_BYTES :]


SETUPS = (
    *(Known(()) for _ in range(6)),
    *(Known((FOLLOWING[i % 2],)) for i in range(4)),
    Known((b"?" * 20,)),
    Known((NODE,)),
    Known((), periods_off=1),
    Known((), periods_off=2),
    Known((), opens=False),
)
HONEST_SETUPS = (0, 1)
"""The honest owner's; nobody else uses them."""


@lru_cache(maxsize=1)
def _bodies() -> tuple[bytes, ...]:
    return tuple(known.build(number)[1] for number, known in enumerate(SETUPS))


@lru_cache(maxsize=1)
def _paths() -> tuple[ClientPath, ...]:
    return tuple(known.build(number)[0] for number, known in enumerate(SETUPS))


@dataclass(eq=False)
class Owned:
    """A path at its owner, honest or not; `path` keeps its keys and counters."""

    path: ClientPath
    link_id: bytes
    peer: Peer


@dataclass(eq=False)
class Scene:
    """The relay and what the others know; each effect is looked at as it comes."""

    random: Random = field(default_factory=lambda: Random(1))
    now_s: float = START_S
    owned: dict[tuple[Peer, bytes], Owned] = field(default_factory=dict)
    out_ids: list[tuple[Peer, bytes]] = field(default_factory=list)
    """Ids that the relay chose, with whom it told them to."""
    unsent: list[tuple[Peer, bytes]] = field(default_factory=list)
    pending: deque[Effect] = field(default_factory=deque)
    busy: bool = False
    disk_is_full: bool = False
    relay: Relay = field(init=False)

    def __post_init__(self) -> None:
        replay = ReplayFilter(bytes(SECRET_BYTES), period_of(self.now_s), 1 << 12)
        self.relay = Relay(NODE, SECRETS, self, replay, self.random.randbytes, LIMITS)

    def knows(self, node: bytes) -> bool:
        return node in FOLLOWING or node in TARGETS

    def neighbour(self, peer: Peer) -> Neighbour:
        return Neighbour(peer.name == b"node", peer.name)

    def route_set(self) -> tuple[int, bytes]:
        return 7, bytes(32)

    def period(self) -> int:
        return period_of(self.now_s)

    def arrive(self, peer: Peer, frame: bytes) -> None:
        self.took(self.relay.frame_arrived(peer, frame, self.now_s))

    def took(self, effects: Iterable[Effect]) -> None:
        """Carry out effects in their order, those that come of them at the end."""
        self.pending.extend(effects)
        if self.busy:
            return
        self.busy = True
        while self.pending:
            effect = self.pending.popleft()
            match effect:
                case Send():
                    self.sent(effect)
                case Purge():
                    assert effect.peer in PEERS or effect.peer == HONEST
                case Remember():
                    assert len(effect.entry) == 16
                    if self.disk_is_full:
                        self.relay.not_remembered()
                    else:
                        self.pending.extendleft(reversed(self.relay.remembered()))
                case Count():
                    assert effect.event.isidentifier()
        self.busy = False

    def sent(self, send: Send) -> None:
        assert len(send.frame) == FRAME_BYTES
        link_id, kind, body = decode_frame(send.frame)
        if send.peer.dialled:
            assert self.knows(send.peer.name), "it dials who is not in the ledger"
            if kind == STREAM:
                self.unsent.append((send.peer, link_id))
            if (send.peer, link_id) not in self.out_ids:
                self.out_ids.append((send.peer, link_id))
            return
        assert send.peer in PEERS or send.peer == HONEST
        owned = self.owned.get((send.peer, link_id))
        if owned is not None and send.peer == HONEST:
            self.heard(owned, Frame(link_id, kind, body))

    def heard(self, owned: Owned, frame: Frame) -> None:
        """The honest owner gets a frame, and answers as it does."""
        sends, events = owned.path.frame_arrived(frame)
        for event in events:
            if isinstance(event, Broken):
                links = self.relay._links.get(owned.peer, {})
                assert owned.link_id not in links, "an honest owner was told nonsense"
        for item in sends:
            self.arrive(owned.peer, item.frame)

    def set_up(self, number: int, peer: Peer, link_id: bytes) -> None:
        before = self.owned.get((peer, backward_id(link_id)))
        path = _fresh(number)
        path.forward_id, path.backward_id = link_id, backward_id(link_id)
        if before is None or before.link_id not in self.relay._links.get(peer, {}):
            self.owned[peer, path.backward_id] = Owned(path, link_id, peer)
        self.arrive(peer, encode_frame(link_id, SETUP, _bodies()[number]))

    def check(self) -> None:
        """The relay's tables say the same, and are within their bounds."""
        relay, expected = self.relay, 0
        for path in relay._paths:
            entry = relay._links[path.previous][path.in_id]
            assert (entry.path, entry.role) == (path, Role.OUT)
            expected += 1
            if path.following is not None:
                assert path.exit is None
                entry = relay._links[path.following][backward_id(path.out_id)]
                assert (entry.path, entry.role) == (path, Role.BACK)
                expected += 1
                continue
            assert path.exit is not None
            assert len(path.exit.streams) <= MAX_STREAMS
            assert len(path.exit._waiting or ()) <= MAX_WAITING
            unsent = sum(stream.unsent for stream in path.exit.streams.values())
            assert unsent <= path.exit._meter.held
            for number, stream in path.exit.streams.items():
                entry = relay._links[stream.target][backward_id(stream.link_id)]
                assert (entry.path, entry.role, entry.stream) == (path, Role.TARGET, number)
                expected += 1
        assert sum(map(len, relay._links.values())) == expected, "a path left something behind"
        assert all(relay._links.values())
        assert relay._inwards == {(path.previous, path.back_id): path for path in relay._paths}
        assert len(relay._shares) == relay.paths <= LIMITS.max_paths
        for peer in (*PEERS, HONEST):
            neighbour = self.neighbour(peer)
            held = sum(path.neighbour == neighbour for path in relay._paths)
            assert relay._shares.count(neighbour) == held
            share = LIMITS.max_paths_a_stranger
            assert held <= (LIMITS.max_paths_a_node if neighbour.is_node else share)


def _fresh(number: int) -> ClientPath:
    """A path with the keys of the set-up, that nothing has happened to."""
    made = _paths()[number]
    random = Random(number)
    return ClientPath(
        made.hops, made.first, made.forward_id, made.backward_id, made._keys, random.randbytes
    )


def _link_id(scene: Scene, program: Program) -> bytes:
    """One of a few, or one that another follows from, or one that the relay chose."""
    choice = program.byte()
    if choice >= 128 and scene.out_ids:
        return backward_id(scene.out_ids[choice % len(scene.out_ids)][1])
    link_id = bytes((choice & 3,)) * ID_BYTES
    for _ in range(choice >> 2 & 3):
        link_id = backward_id(link_id)
    return link_id


def _setup(scene: Scene, program: Program) -> None:
    number = len(HONEST_SETUPS) + program.byte() % (len(SETUPS) - len(HONEST_SETUPS))
    scene.set_up(number, program.choose(PEERS), _link_id(scene, program))


def _honest_setup(scene: Scene, program: Program) -> None:
    number = program.choose(HONEST_SETUPS)
    scene.set_up(number, HONEST, b"honest%d." % number)


def _honest_path(scene: Scene, program: Program) -> Owned | None:
    link_id = b"honest%d." % program.choose(HONEST_SETUPS)
    owned = scene.owned.get((HONEST, backward_id(link_id)))
    return owned if owned is not None and owned.path.phase == OPEN else None


def _honest_deed(scene: Scene, program: Program) -> None:
    owned, deed = _honest_path(scene, program), program.byte() % 5
    if owned is None:
        return
    sends: Sequence[Send]
    if deed == 0:
        size = program.number() * 8
        _, sends = owned.path.open_stream(program.choose(TARGETS), bytes(size))
    elif deed == 1:
        sends = owned.path.end_stream(program.byte())
    elif deed == 2:
        sends = owned.path.ping(bytes(8))
    elif deed == 3:
        sends = pad(owned.path)
    else:
        sends = owned.path.close()
    for item in sends:
        scene.arrive(HONEST, item.frame)


def _forged(scene: Scene, program: Program) -> None:
    """A cell of an owner who says anything, as the last relay's keys make it look right."""
    mine = [owned for owned in scene.owned.values() if owned.peer != HONEST]
    times = program.byte() + 1 if program.byte() % 4 == 3 else 1
    command, stream, claimed = program.byte(), program.number(), program.byte()
    data = program.data()[: PAYLOAD_BYTES - PAYLOAD_HEADER_BYTES]
    owned = program.choose(mine) if mine else None
    if owned is None:
        return
    length = len(data) if claimed < 250 else claimed
    for number in range(times):
        at = stream + number if claimed % 2 else stream
        head = bytes((command,)) + (at & 0xFFFF).to_bytes(2, "big") + length.to_bytes(2, "big")
        payload = (head + data).ljust(PAYLOAD_BYTES, b"\0")
        keys = [hop.forward for hop in owned.path._keys]
        body = wrap(keys, owned.path._sent, payload, scene.random.randbytes(48))
        owned.path._sent += 1
        scene.arrive(owned.peer, encode_frame(owned.link_id, CELL, body))


def _answered(scene: Scene, program: Program) -> None:
    """Something comes back from where the relay sent something."""
    choice, kind = program.byte(), program.byte()
    times = program.byte() + 1 if kind >= 192 else 1
    data = program.data()
    if not scene.out_ids:
        return
    peer, link_id = scene.out_ids[choice % len(scene.out_ids)]
    back = backward_id(link_id)
    for _ in range(times):
        if kind % 4 < 2:
            scene.arrive(peer, stream_frame(back, data[:1970]))
        else:
            body = data[:BODY_BYTES].ljust(BODY_BYTES, b"\0")
            known = sorted(KINDS)[kind // 4 % len(KINDS)]
            scene.arrive(peer, encode_frame(back, known, body))


def _frame(scene: Scene, program: Program) -> None:
    peer, link_id, kind = program.choose(PEERS), _link_id(scene, program), program.byte()
    scene.arrive(peer, encode_frame(link_id, kind, program.filled(BODY_BYTES)))


def _bytes(scene: Scene, program: Program) -> None:
    scene.arrive(program.choose(PEERS), program.data())


def _gone(scene: Scene, program: Program) -> None:
    scene.took(scene.relay.peer_gone(program.choose((*PEERS, HONEST))))


def _shed(scene: Scene, program: Program) -> None:
    peer, link_id, dialled = program.choose(PEERS), _link_id(scene, program), program.byte()
    if dialled and scene.out_ids:
        peer, link_id = scene.out_ids[dialled % len(scene.out_ids)]
    scene.took(scene.relay.shed(peer, link_id))
    if not peer.dialled:
        left = [path.in_id for path in scene.relay._paths if path.previous == peer]
        assert link_id not in map(backward_id, left), "a path that lost cells goes on"


def _left(scene: Scene, program: Program) -> None:
    for _ in range(program.byte()):
        if scene.unsent:
            scene.took(scene.relay.sent(*scene.unsent.pop(0)))


def _time(scene: Scene, program: Program) -> None:
    scene.now_s += program.byte() / 4 - 4
    scene.took(scene.relay.tick(scene.now_s))


def _not_remembered(scene: Scene, program: Program) -> None:
    """The disk is full from now on, or again has room."""
    scene.disk_is_full = not scene.disk_is_full


STEPS: Sequence[Callable[[Scene, Program], None]] = (
    _setup,
    _honest_setup,
    _honest_deed,
    _forged,
    _answered,
    _frame,
    _bytes,
    _gone,
    _shed,
    _left,
    _time,
    _not_remembered,
)
STEP = {step.__name__[1:]: number for number, step in enumerate(STEPS)}


def relay(data: bytes) -> None:
    scene, program = Scene(), Program(data)
    program.run(STEPS, scene, MAX_STEPS)
    scene.took(scene.relay.shut_down())
    scene.check()
    assert scene.relay.paths == 0

"""A client's paths: what its path sets ask for, done; what its paths report, told to the sets.

from            what                          becomes
──────────────  ────────────────────────────  ──────────────────────────────────────────────────
path_pool       WantHops                      HopsChosen or NoHops, from `choice` and `guards`
path_pool       Build                         the set-up is sent; with puzzles, Solve
path_pool       Ping, Close                   cells of the path
path_pool       SlotOpen, SlotLost            SlotOpened, SlotGone for the questions of the set
path_pool       Built, Served, Failed,        build times, the guards' counts
                Refused, Unreachable
the shell       solved                        PuzzleSolved, and the set-up is sent
client_path     Opened                        PathOpened
client_path     Chunk, StreamOver             StreamData, StreamDone for its question; PathHeard
client_path     Pong                          PathHeard
client_path     Chunk, the first of a stream  PathUsed
client_path     Broken: a puzzle, building    PuzzleAsked
client_path     Broken: the guard has no      GuardRefused
                room, building
client_path     Broken, anything else         PathBroken
the shell       link lost, or none            GuardUnreachable for each path over it
a question      doubted                       PathDoubted

A reader of this file finds no rule of its own here: `path_set` says when, `choice` whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from overlay.core import client_path, path_pool
from overlay.core.choice import Hops
from overlay.core.client_path import BUILDING, Broken, Chunk, ClientPath, Opened, Pong, StreamOver
from overlay.core.cover import PathName
from overlay.core.draw import Draw
from overlay.core.effects import Entropy, Peer, Purge, Send
from overlay.core.path_driver_effects import (
    DriverEffect,
    Moment,
    PathKey,
    Puzzle,
    SlotGone,
    SlotOpened,
    Solve,
    StreamData,
    StreamDone,
)
from overlay.core.path_pool import InSet, PathPool
from overlay.core.path_set import Building, Empty
from overlay.core.path_set_events import (
    Build,
    Built,
    Close,
    Failed,
    GuardRefused,
    GuardUnreachable,
    HopsChosen,
    NoHops,
    NoSetup,
    PathBroken,
    PathDoubted,
    PathHeard,
    PathOpened,
    PathUsed,
    Ping,
    PuzzleAsked,
    Puzzles,
    PuzzleSolved,
    Refused,
    Served,
    SetEvent,
    SlotLost,
    SlotOpen,
    StreamBegun,
    StreamEnded,
    Unreachable,
    WantHops,
)
from overlay.core.payload import PING_BYTES
from overlay.core.puzzle import SEED_BYTES
from overlay.core.reasons import Reason, Report
from overlay.core.relay_memory import RelayMemory, accused
from overlay.core.setup import PUZZLE_NONCE_BYTES, HopSpec, period_of
from overlay.core.wire import ID_BYTES, CellError, decode_frame
from planetserve.records import NodeRecord

HEARD_EVERY_S = 1.0
NO_ROOM = (Reason.QUOTA, Reason.SHUTTING_DOWN)


@dataclass(slots=True)
class _Stream:
    question: int
    heard: bool = False


@dataclass(slots=True)
class _Running:
    """A path with the set and slot it serves; `slot` is None until it is open."""

    key: PathKey
    hops: Hops
    path: ClientPath
    period: int
    slot: int | None = None
    heard_s: float = 0.0
    streams: dict[int, _Stream] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Unsolved:
    hops: Hops
    specs: tuple[HopSpec, ...]


class PathDriver:
    """Mutable, as it sees every frame; `own` is the client's node id if it relays itself."""

    def __init__(
        self,
        pool: PathPool,
        memory: RelayMemory,
        entropy: Entropy,
        draw: Draw,
        own: bytes | None = None,
    ) -> None:
        self.pool = pool
        self.memory = memory
        self._entropy = entropy
        self._draw = draw
        self._own = own
        self._paths: dict[PathKey, _Running] = {}
        self._by_link: dict[tuple[Peer, bytes], PathKey] = {}
        self._unsolved: dict[PathKey, _Unsolved] = {}

    # What the shell says.

    def prepare(self, at: Moment) -> list[DriverEffect]:
        """Have a set ahead."""
        self.pool, effects = path_pool.prepare(self.pool, at.now_s, self._draw)
        return self._carry_out(effects, at)

    def take(
        self, session: int | None, target: NodeRecord, at: Moment
    ) -> tuple[int, list[DriverEffect]]:
        """A set for a question to `target`; see `path_pool.take`."""
        self.pool, number, effects = path_pool.take(
            self.pool, session, target, at.now_s, self._draw
        )
        return number, self._carry_out(effects, at)

    def give_back(self, number: int, at: Moment) -> list[DriverEffect]:
        self.pool, effects = path_pool.give_back(self.pool, number, at.now_s, self._draw)
        return self._carry_out(effects, at)

    def end_session(self, session: int, at: Moment) -> list[DriverEffect]:
        self.pool, effects = path_pool.end_session(self.pool, session, at.now_s, self._draw)
        return self._carry_out(effects, at)

    def shut(self, at: Moment) -> list[DriverEffect]:
        self.pool, effects = path_pool.shut(self.pool, at.now_s, self._draw)
        return self._carry_out(effects, at)

    def tick(self, at: Moment) -> list[DriverEffect]:
        """Time passed; `next_s` says when to call it again."""
        timeout_s = self.memory.build_times.timeout_s
        self.pool, effects = path_pool.tick(self.pool, timeout_s, at.now_s, self._draw)
        return self._carry_out(effects, at)

    def next_s(self) -> float | None:
        """When a back-off or a time-out ends; what an open path waits for is not that urgent."""
        times_s: list[float] = []
        for member in self.pool.members.values():
            times_s += [late.until_s for late in member.paths.late]
            for slot in member.paths.slots:
                if isinstance(slot, Empty):
                    times_s.append(slot.retry_s)
                elif isinstance(slot, Building):
                    times_s.append(slot.until_s)
        return min(times_s, default=None)

    def knows(self, peer: Peer, frame: bytes) -> bool:
        """Whether `frame` is of a path of ours."""
        return (peer, frame[:ID_BYTES]) in self._by_link

    def frame_arrived(self, peer: Peer, data: bytes, at: Moment) -> list[DriverEffect]:
        key = self._by_link.get((peer, data[:ID_BYTES]))
        if key is None:
            return []
        running = self._paths[key]
        try:
            frame = decode_frame(data)
        except CellError:
            return []  # a first hop that sends garbage fails its path by not answering
        building, heard = running.path.phase == BUILDING, running.path.cells_heard
        ponged = False
        sends, events = running.path.frame_arrived(frame)
        effects: list[DriverEffect] = list(sends)
        for event in events:
            if key not in self._paths:
                return effects
            match event:
                case Opened():
                    effects += self._happened(key, PathOpened, at)
                case Chunk(stream, chunk):
                    effects += self._chunk(running, stream, chunk, at)
                case StreamOver(stream, reason):
                    effects += self._stream_over(running, stream, reason, at)
                case Broken(report, origin):
                    return effects + self._broken(running, report, origin, building, at)
                case Pong():
                    ponged = True
        new = running.path.cells_heard > heard
        due = ponged or at.now_s - running.heard_s >= HEARD_EVERY_S
        if new and not building and due and key in self._paths:
            running.heard_s = at.now_s
            effects += self._happened(key, PathHeard, at)
        return effects

    def peer_gone(self, peer: Peer, at: Moment) -> list[DriverEffect]:
        """The link to `peer` is lost, or there is none."""
        effects: list[DriverEffect] = []
        for running in [item for item in self._paths.values() if item.path.first == peer]:
            if running.key in self._paths:
                self._forget(running.key)
                effects += self._happened(running.key, GuardUnreachable, at)
        return effects

    def shed(self, peer: Peer, link_id: bytes, at: Moment) -> list[DriverEffect]:
        """What waited for `peer` under `link_id` was dropped, so that the path is of no use."""
        for running in self._paths.values():
            if (running.path.first, running.path.forward_id) == (peer, link_id):
                closing = self._close(running.key)
                return [*closing, *self._happened(running.key, PathBroken, at)]
        return []

    def wanted(self, path: PathKey) -> bool:
        """Whether the puzzles of `path` are still worth solving."""
        return path in self._unsolved

    def solved(self, path: PathKey, nonces: dict[int, bytes], at: Moment) -> list[DriverEffect]:
        """The puzzles of `Solve` are solved; a nonce a hop."""
        unsolved = self._unsolved.pop(path, None)
        if unsolved is None:
            return []
        effects = self._happened(path, PuzzleSolved, at)
        return effects + self._begin(path, unsolved.hops, unsolved.specs, nonces, at)

    # What a question says.

    def open_slots(self, number: int) -> list[int]:
        """The slots of a set that take streams."""
        member = self.pool.members.get(number)
        return [] if member is None else list(member.paths.open_slots)

    def hops_of(self, number: int, slot: int) -> Hops | None:
        member = self.pool.members.get(number)
        return None if member is None else member.paths.hops.get(slot)

    def open_paths(self) -> list[PathName]:
        """All open paths, by set and slot."""
        return [(number, slot) for number in self.pool.members for slot in self.open_slots(number)]

    def shortage(self, number: int, at: Moment) -> str:
        """What to tell a user whose set has too few paths."""
        have, need = len(self.open_slots(number)), self.pool.rules.k
        head = f"only {have} of the {need} paths that are needed are open"
        reason = self.memory.cause(at)
        return f"{head}: {reason}" if reason else f"{head}; try again in a minute"

    def open_stream(
        self, number: int, slot: int, question: int, target: bytes, data: bytes, at: Moment
    ) -> list[DriverEffect]:
        """Send `data` to `target` over the slot's path; nothing where it is gone again."""
        member = self.pool.members.get(number)
        path = None if member is None else member.paths.open_slots.get(slot)
        running = None if path is None else self._paths.get((number, path))
        if running is None:
            return []
        stream, sends = running.path.open_stream(target, data)
        running.streams[stream] = _Stream(question)
        return [*sends, *self._happened(running.key, StreamBegun, at)]

    def end_stream(self, number: int, slot: int, question: int, at: Moment) -> list[DriverEffect]:
        running = self._in_slot(number, slot)
        found = (
            []
            if running is None
            else [stream for stream, held in running.streams.items() if held.question == question]
        )
        effects: list[DriverEffect] = []
        for stream in found:
            assert running is not None
            del running.streams[stream]
            effects += running.path.end_stream(stream)
            effects += self._happened(running.key, StreamEnded, at)
        return effects

    def doubted(self, number: int, slot: int, at: Moment) -> list[DriverEffect]:
        """The slot's path brought a question nothing, or what does not authenticate."""
        running = self._in_slot(number, slot)
        return [] if running is None else self._happened(running.key, PathDoubted, at)

    def ping(self, number: int, slot: int) -> list[Send]:
        """A loop to the last relay of the slot's path and back."""
        running = self._in_slot(number, slot)
        return [] if running is None else running.path.ping(self._entropy(PING_BYTES))

    # What the pool asks for.

    def _happened(
        self, key: PathKey, event: Callable[[int], SetEvent], at: Moment
    ) -> list[DriverEffect]:
        return self._in_set(key[0], event(key[1]), at)

    def _in_set(self, number: int, event: SetEvent, at: Moment) -> list[DriverEffect]:
        self.pool, effects = path_pool.in_set(self.pool, number, event, at.now_s, self._draw)
        return self._carry_out(effects, at)

    def _carry_out(self, effects: Iterable[InSet], at: Moment) -> list[DriverEffect]:
        done: list[DriverEffect] = []
        for number, effect in ((item.set, item.effect) for item in effects):
            match effect:
                case WantHops(slot):
                    used = path_pool.use_of(self.pool, number, slot, self._own)
                    chosen = self.memory.choose(used, at)
                    event = NoHops(slot) if chosen is None else HopsChosen(slot, chosen)
                    done += self._in_set(number, event, at)
                case Build(path, hops, puzzles):
                    done += self._build((number, path), hops, puzzles, at)
                case Close(path):
                    done += self._close((number, path))
                case Ping(path):
                    running = self._paths.get((number, path))
                    if running is not None:
                        done += running.path.ping(self._entropy(PING_BYTES))
                case SlotOpen(slot, path):
                    self._paths[number, path].slot = slot
                    done.append(SlotOpened(number, slot))
                case SlotLost(slot):
                    done.append(SlotGone(number, slot))
                case Built(hops, duration_s, late):
                    self.memory.opened(hops, duration_s, late)
                case Served(hops):
                    self.memory.served(hops)
                case Refused(hops):
                    self.memory.refused(hops, at)
                case Failed(hops, origin, timed_out, in_use):
                    self.memory.failed(hops, origin, timed_out, in_use, at)
                case Unreachable(hops):
                    self.memory.unreachable(hops, at)
        return done

    def _build(self, key: PathKey, hops: Hops, puzzles: Puzzles, at: Moment) -> list[DriverEffect]:
        self.memory.begun(hops, at)
        specs = tuple(HopSpec(hop.id, hop.onion_key, self._entropy(32)) for hop in hops.relays)
        if not puzzles:
            return self._begin(key, hops, specs, {}, at)
        self._unsolved[key] = _Unsolved(hops, specs)
        asked = [
            Puzzle(hop, seed, _public(specs[hop].ephemeral_secret), difficulty)
            for hop, (seed, difficulty) in puzzles.items()
        ]
        return [Solve(key, tuple(asked))]

    def _begin(
        self,
        key: PathKey,
        hops: Hops,
        specs: Sequence[HopSpec],
        nonces: dict[int, bytes],
        at: Moment,
    ) -> list[DriverEffect]:
        period = period_of(at.unix_s)
        all_nonces = [
            nonces.get(hop) or self._entropy(PUZZLE_NONCE_BYTES) for hop in range(len(specs))
        ]
        try:
            path, sends = client_path.build(specs, period, all_nonces, self._entropy)
        except ValueError:  # a relay announced an onion key that is none
            self.memory.pass_over(hops.relays)
            return self._happened(key, NoSetup, at)
        self._paths[key] = _Running(key, hops, path, period)
        self._by_link[path.first, path.backward_id] = key
        return list(sends)

    def _close(self, key: PathKey) -> list[DriverEffect]:
        self._unsolved.pop(key, None)
        running = self._forget(key)
        if running is None:
            return []
        gone = Purge(running.path.first, running.path.forward_id)
        return [gone, *running.path.close()]

    def _forget(self, key: PathKey) -> _Running | None:
        running = self._paths.pop(key, None)
        if running is not None:
            del self._by_link[running.path.first, running.path.backward_id]
        return running

    # What a path reports.

    def _chunk(
        self, running: _Running, stream: int, chunk: bytes, at: Moment
    ) -> list[DriverEffect]:
        held = running.streams.get(stream)
        if held is None or running.slot is None:
            return []
        effects: list[DriverEffect] = [StreamData(held.question, running.slot, chunk)]
        if not held.heard:
            held.heard = True
            self.memory.used(running.hops)
            effects += self._happened(running.key, PathUsed, at)
        return effects

    def _stream_over(
        self, running: _Running, stream: int, reason: int, at: Moment
    ) -> list[DriverEffect]:
        held = running.streams.pop(stream, None)
        if held is None or running.slot is None:
            return []
        ended = StreamDone(held.question, running.slot, reason)
        return [ended, *self._happened(running.key, StreamEnded, at)]

    def _broken(
        self, running: _Running, report: Report, origin: int | None, building: bool, at: Moment
    ) -> list[DriverEffect]:
        self.memory.reported(running.hops, report, origin, running.period, at)
        self._forget(running.key)
        number, path = running.key
        event: SetEvent = PathBroken(path, origin)
        if building and report.reason == Reason.PUZZLE:
            seed, difficulty = report.detail[:SEED_BYTES], report.detail[SEED_BYTES]
            event = PuzzleAsked(path, accused(running.hops, origin), seed, difficulty)
        elif building and origin is None and report.reason in NO_ROOM:
            event = GuardRefused(path)
        return self._in_set(number, event, at)

    def _in_slot(self, number: int, slot: int) -> _Running | None:
        """The path of the slot, be it open or draining."""
        member = self.pool.members.get(number)
        state = None if member is None else member.paths.slots[slot]
        if state is None or isinstance(state, Empty | Building):
            return None
        return self._paths.get((number, state.path))


def _public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()

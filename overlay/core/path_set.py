"""The n paths of one conversation, kept open.

slot      event                                      next      effects
────────  ─────────────────────────────────────────  ────────  ─────────────────────────────────
EMPTY     tick, back-off over                        EMPTY     WantHops
EMPTY     no hops                                    EMPTY     (back-off)
EMPTY     hops chosen                                BUILDING  Build
BUILDING  opened                                     OPEN      Built, SlotOpen
BUILDING  time-out                                   EMPTY     Failed (listened to a while yet)
BUILDING  broken                                     EMPTY     Failed
BUILDING  refused by the guard                       EMPTY     Refused
BUILDING  a puzzle too hard, asked twice, too long   EMPTY     Refused if the guard's, else Failed
BUILDING  no set-up could be made                    EMPTY     (back-off: nobody is blamed)
BUILDING  a puzzle                                   BUILDING  Build with the puzzle
BUILDING  guard unreachable                          EMPTY     Unreachable
OPEN      tick, nothing heard for 20 s               OPEN      Ping
OPEN      doubted, in use by other questions         OPEN      Ping, unless one is under way
OPEN      doubted, not in use                        EMPTY     SlotLost, Ping, WantHops
OPEN      tick, two pings unanswered                 EMPTY     SlotLost, Close, Failed
OPEN      broken, guard unreachable                  EMPTY     SlotLost, Failed, WantHops
OPEN      tick, life over, idle, more than k open    EMPTY     Served if used, Close, WantHops
OPEN      tick, life over, in use, more than k open  DRAINING  (no new streams)
DRAINING  last stream ended                          EMPTY     Served if used, Close, WantHops
DRAINING  broken, guard unreachable, pings           EMPTY     SlotLost, Failed
any       shut                                       EMPTY     Served if used, Close
(doubted) heard                                      -         Served if used, Close
(doubted) broken, guard unreachable, pings           -         Failed, Close

A path that opened comes to one end: Served when we close it after an answer came over it, Failed
when it breaks, whatever it carried before. Opening is no success: a guard could open each path and
end those that a friend of its is not on. Nor is it one to stand unused, however long: a guard could
save up such successes while its user is away.

A path that brings a question nothing, or nonsense, is doubted: it leaves its slot, and is pinged.
Cells that are lost or altered on the way never come as cells that open, so when the last relay
answers, all relays before it did their part, and it or the model node is at fault: the path counts
as if it had ended at our will. Else a model node could fail the guard of its choice. When there is
no answer, the path has failed.

A set that is shut keeps the paths in doubt for so long, and nothing else.

A set is ready with k slots OPEN. Age alone never makes a ready set unready. An event of a path
that is in no slot changes nothing, so that it does not matter in what order events cross.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from overlay.core.build_times import FIRST_TIMEOUT_S, LATE_FACTOR
from overlay.core.choice import Hops, Rules
from overlay.core.draw import Draw, between
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
    PathEvent,
    PathHeard,
    PathOpened,
    PathUsed,
    Ping,
    PuzzleAsked,
    Puzzles,
    PuzzleSolved,
    Refused,
    Served,
    SetEffect,
    SetEvent,
    Shut,
    SlotLost,
    SlotOpen,
    StreamBegun,
    StreamEnded,
    Tick,
    Unreachable,
    WantHops,
)
from overlay.core.puzzle import MAX_DIFFICULTY

EMPTY = "EMPTY"
BUILDING = "BUILDING"
OPEN = "OPEN"
DRAINING = "DRAINING"

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 5.0
STEADY_S = 5.0
"""A path that broke sooner after it opened is rebuilt after a back-off, any other at once."""
MIN_LIFE_S = 480.0
MAX_LIFE_S = 900.0
QUIET_S = 20.0
PINGS = 2
SOLVING_S = 60.0


@dataclass(frozen=True, slots=True)
class Empty:
    """`fails` builds in a row failed; none is begun before `retry_s`."""

    retry_s: float = 0.0
    fails: int = 0


@dataclass(frozen=True, slots=True)
class Building:
    """`since_s` is None while puzzles are solved; at `until_s` the slot gives up."""

    path: int
    hops: Hops
    since_s: float | None
    until_s: float
    fails: int
    puzzles: Puzzles = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Open:
    """At `ping_s` the next ping is due, or the one under way is given up."""

    path: int
    hops: Hops
    opened_s: float
    ends_s: float
    ping_s: float
    fails: int
    pings: int = 0
    streams: int = 0
    used: bool = False
    draining: bool = False


Slot: TypeAlias = Empty | Building | Open


TRANSITIONS = frozenset(
    {
        (EMPTY, HopsChosen, BUILDING),
        (BUILDING, PathOpened, OPEN),
        (BUILDING, Tick, EMPTY),
        (BUILDING, PathBroken, EMPTY),
        (BUILDING, GuardRefused, EMPTY),
        (BUILDING, NoSetup, EMPTY),
        (BUILDING, PuzzleAsked, EMPTY),
        (BUILDING, GuardUnreachable, EMPTY),
        (OPEN, Tick, EMPTY),
        (OPEN, Tick, DRAINING),
        (OPEN, PathDoubted, EMPTY),
        (OPEN, PathBroken, EMPTY),
        (OPEN, GuardUnreachable, EMPTY),
        (DRAINING, StreamEnded, EMPTY),
        (DRAINING, Tick, EMPTY),
        (DRAINING, PathBroken, EMPTY),
        (DRAINING, GuardUnreachable, EMPTY),
        (BUILDING, Shut, EMPTY),
        (OPEN, Shut, EMPTY),
        (DRAINING, Shut, EMPTY),
    }
)
"""Every change of a slot's phase, with the event that may bring it about."""


Step: TypeAlias = tuple["PathSet", list[SetEffect]]


@dataclass(frozen=True, slots=True)
class PathSet:
    """`late` are builds that timed out, listened to for what they say of build times; `doubted`
    are paths that left their slots, until it is known who is at fault."""

    rules: Rules
    slots: tuple[Slot, ...]
    late: tuple[Building, ...] = ()
    doubted: tuple[Open, ...] = ()
    next_path: int = 0
    timeout_s: float = FIRST_TIMEOUT_S
    shut: bool = False

    @property
    def open_slots(self) -> dict[int, int]:
        """The slots that take new streams, each with its path."""
        return {
            index: slot.path
            for index, slot in enumerate(self.slots)
            if isinstance(slot, Open) and not slot.draining
        }

    @property
    def ready(self) -> bool:
        return len(self.open_slots) >= self.rules.k

    @property
    def full(self) -> bool:
        return len(self.open_slots) == self.rules.n

    @property
    def hops(self) -> dict[int, Hops]:
        """The relays of each slot that has a path, open or not."""
        return {
            index: slot.hops for index, slot in enumerate(self.slots) if not isinstance(slot, Empty)
        }


def new_set(rules: Rules) -> PathSet:
    return PathSet(rules, (Empty(),) * rules.n)


def phase(slot: Slot) -> str:
    match slot:
        case Empty():
            return EMPTY
        case Building():
            return BUILDING
        case Open():
            return DRAINING if slot.draining else OPEN


def handle(state: PathSet, event: SetEvent, now_s: float, draw: Draw) -> Step:
    """The set after `event` at `now_s`, and what its shell is to do."""
    if isinstance(event, Tick):
        state, effects = _tick_doubted(replace(state, timeout_s=event.timeout_s), now_s)
        if not state.shut:
            state, more = _tick(state, now_s, draw)
            effects += more
        return state, effects
    match event:
        case Shut():
            return _shut(state)
        case HopsChosen():
            slot = state.slots[event.slot]
            if state.shut or not isinstance(slot, Empty):
                return state, []
            return _build(state, event.slot, event.hops, slot.fails, {}, now_s)
        case NoHops():
            slot = state.slots[event.slot]
            if state.shut or not isinstance(slot, Empty):
                return state, []
            return _put(state, event.slot, _backed_off(slot.fails, now_s, draw)), []
    for index, slot in enumerate(state.slots):
        if not isinstance(slot, Empty) and slot.path == event.path:
            if isinstance(slot, Building):
                return _while_building(state, index, slot, event, now_s, draw)
            return _while_open(state, index, slot, event, now_s, draw)
    for slot in state.doubted:
        if slot.path == event.path:
            return _while_doubted(state, slot, event)
    return _when_late(state, event, now_s)


def _while_building(
    state: PathSet, index: int, slot: Building, event: PathEvent, now_s: float, draw: Draw
) -> Step:
    failed = _put(state, index, _backed_off(slot.fails, now_s, draw))
    match event:
        case PathOpened():
            since_s = slot.since_s if slot.since_s is not None else now_s
            opened = Open(
                path=slot.path,
                hops=slot.hops,
                opened_s=now_s,
                ends_s=now_s + between(MIN_LIFE_S, MAX_LIFE_S, draw),
                ping_s=_quiet_until(now_s, draw),
                fails=slot.fails,
            )
            built = Built(slot.hops, now_s - since_s, late=False)
            return _put(state, index, opened), [built, SlotOpen(index, slot.path)]
        case PathBroken():
            return failed, [Failed(slot.hops, event.origin)]
        case GuardRefused():
            return failed, [Refused(slot.hops)]
        case NoSetup():
            return failed, []
        case PuzzleAsked():
            # A hop that asks again after its puzzle was solved would keep us solving.
            if event.difficulty > MAX_DIFFICULTY or event.hop in slot.puzzles:
                return failed, [_unsolved(slot.hops, event.hop)]
            puzzles = {**slot.puzzles, event.hop: (event.seed, event.difficulty)}
            return _build(state, index, slot.hops, slot.fails, puzzles, now_s)
        case PuzzleSolved():
            sent = replace(slot, since_s=now_s, until_s=now_s + state.timeout_s)
            return _put(state, index, sent), []
        case GuardUnreachable():
            return failed, [Unreachable(slot.hops)]
        case PathHeard() | PathUsed() | PathDoubted() | StreamBegun() | StreamEnded():
            return state, []


def _while_open(
    state: PathSet, index: int, slot: Open, event: PathEvent, now_s: float, draw: Draw
) -> Step:
    match event:
        case PathHeard():
            return _put(state, index, replace(slot, pings=0, ping_s=_quiet_until(now_s, draw))), []
        case PathDoubted():
            return _doubted(state, index, slot, now_s, draw)
        case PathBroken():
            return _lost(state, index, slot, event.origin, now_s, draw)
        case GuardUnreachable():
            return _lost(state, index, slot, None, now_s, draw)
        case PathUsed():
            return _put(state, index, replace(slot, used=True)), []
        case StreamBegun():
            return _put(state, index, replace(slot, streams=slot.streams + 1)), []
        case StreamEnded():
            streams = max(slot.streams - 1, 0)
            if streams or not slot.draining:
                return _put(state, index, replace(slot, streams=streams)), []
            return _ended(state, index, slot, now_s)
        case PathOpened() | GuardRefused() | NoSetup() | PuzzleAsked() | PuzzleSolved():
            return state, []


def _while_doubted(state: PathSet, slot: Open, event: PathEvent) -> Step:
    rest = replace(state, doubted=tuple(item for item in state.doubted if item is not slot))
    match event:
        case PathHeard():
            return rest, [*_served(slot), Close(slot.path)]
        case PathBroken():
            return rest, [Failed(slot.hops, event.origin, in_use=True)]
        case GuardUnreachable():
            return rest, [Failed(slot.hops, None, in_use=True)]
        case _:
            return state, []


def _when_late(state: PathSet, event: PathEvent, now_s: float) -> Step:
    found = next((build for build in state.late if build.path == event.path), None)
    passing = PathHeard | PathUsed | PathDoubted | PuzzleSolved | StreamBegun | StreamEnded
    if found is None or isinstance(event, passing):
        return state, []
    state = replace(state, late=tuple(build for build in state.late if build is not found))
    if not isinstance(event, PathOpened) or found.since_s is None:
        return state, []  # it is over, and was counted when it timed out
    return state, [Built(found.hops, now_s - found.since_s, late=True), Close(found.path)]


def _tick(state: PathSet, now_s: float, draw: Draw) -> Step:
    effects: list[SetEffect] = [Close(build.path) for build in state.late if build.until_s <= now_s]
    late = tuple(build for build in state.late if build.until_s > now_s)
    state = replace(state, late=late)
    for index, slot in enumerate(state.slots):
        match slot:
            case Building() if slot.until_s <= now_s:
                state, more = _timed_out(state, index, slot, now_s, draw)
            case Open() if slot.ping_s <= now_s:
                state, more = _pinged(state, index, slot, now_s, draw)
            case Open() if slot.ends_s <= now_s and not slot.draining:
                state, more = _aged(state, index, slot, now_s)
            case _:
                more = []
        effects += more
    wanted = {effect.slot for effect in effects if isinstance(effect, WantHops)}
    effects += [
        WantHops(index)
        for index, slot in enumerate(state.slots)
        if isinstance(slot, Empty) and slot.retry_s <= now_s and index not in wanted
    ]
    return state, effects


def _tick_doubted(state: PathSet, now_s: float) -> Step:
    effects: list[SetEffect] = []
    doubted: list[Open] = []
    for slot in state.doubted:
        if slot.ping_s > now_s:
            doubted.append(slot)
        elif slot.pings < PINGS:
            doubted.append(_asked(state, slot, now_s))
            effects.append(Ping(slot.path))
        else:
            effects += [Failed(slot.hops, None, in_use=True), Close(slot.path)]
    return replace(state, doubted=tuple(doubted)), effects


def _timed_out(state: PathSet, index: int, slot: Building, now_s: float, draw: Draw) -> Step:
    state = _put(state, index, _backed_off(slot.fails, now_s, draw))
    if slot.since_s is None:
        return state, [_unsolved(slot.hops, max(slot.puzzles)), Close(slot.path)]
    listened = replace(slot, until_s=slot.since_s + LATE_FACTOR * state.timeout_s)
    effects: list[SetEffect] = [Failed(slot.hops, None, timed_out=True)]
    if listened.until_s <= now_s:
        return state, [*effects, Close(slot.path)]
    return replace(state, late=(*state.late, listened)), effects


def _pinged(state: PathSet, index: int, slot: Open, now_s: float, draw: Draw) -> Step:
    if slot.pings >= PINGS:
        state, effects = _lost(state, index, slot, None, now_s, draw)
        return state, [*effects, Close(slot.path)]
    return _put(state, index, _asked(state, slot, now_s)), [Ping(slot.path)]


def _asked(state: PathSet, slot: Open, now_s: float) -> Open:
    """The path with one ping more under way."""
    return replace(slot, pings=slot.pings + 1, ping_s=now_s + 2 * state.timeout_s)


def _doubted(state: PathSet, index: int, slot: Open, now_s: float, draw: Draw) -> Step:
    pings: list[SetEffect] = [] if slot.pings else [Ping(slot.path)]
    asked = slot if slot.pings else _asked(state, slot, now_s)
    if slot.streams:
        return _put(state, index, asked), pings
    state = replace(state, doubted=(*state.doubted, asked))
    state, effects = _emptied(state, index, slot, now_s, draw)
    return state, [SlotLost(index), *pings, *effects]


def _aged(state: PathSet, index: int, slot: Open, now_s: float) -> Step:
    if len(state.open_slots) <= state.rules.k:
        return state, []
    if slot.streams:
        return _put(state, index, replace(slot, draining=True)), []
    return _ended(state, index, slot, now_s)


def _ended(state: PathSet, index: int, slot: Open, now_s: float) -> Step:
    """The life of a path is over, and nothing goes over it any more."""
    effects = [*_served(slot), Close(slot.path), WantHops(index)]
    return _put(state, index, Empty(now_s)), effects


def _served(slot: Slot) -> list[SetEffect]:
    return [Served(slot.hops)] if isinstance(slot, Open) and slot.used else []


def _lost(
    state: PathSet, index: int, slot: Open, origin: int | None, now_s: float, draw: Draw
) -> Step:
    failed = Failed(slot.hops, origin, in_use=slot.streams > 0)
    state, effects = _emptied(state, index, slot, now_s, draw)
    return state, [SlotLost(index), failed, *effects]


def _emptied(state: PathSet, index: int, slot: Open, now_s: float, draw: Draw) -> Step:
    if now_s - slot.opened_s < STEADY_S:
        return _put(state, index, _backed_off(slot.fails, now_s, draw)), []
    return _put(state, index, Empty(now_s)), [WantHops(index)]


def _build(
    state: PathSet, index: int, hops: Hops, fails: int, puzzles: Puzzles, now_s: float
) -> Step:
    path = state.next_path
    since_s = None if puzzles else now_s
    until_s = now_s + (SOLVING_S if puzzles else state.timeout_s)
    slot = Building(path, hops, since_s, until_s, fails, puzzles)
    state = replace(_put(state, index, slot), next_path=path + 1)
    return state, [Build(path, hops, puzzles)]


def _shut(state: PathSet) -> Step:
    paths = [slot.path for slot in (*state.slots, *state.late) if not isinstance(slot, Empty)]
    slots = (Empty(),) * len(state.slots)
    effects = [effect for slot in state.slots for effect in _served(slot)]
    effects += [Close(path) for path in paths]
    return replace(state, slots=slots, late=(), shut=True), effects


def _unsolved(hops: Hops, asked: int) -> SetEffect:
    """The puzzle of the hop `asked` is not solved. The guard answers for its own, and for what it
    says of the second hop; the second one for what it says of the third."""
    return Failed(hops, asked - 1) if asked else Refused(hops)


def _put(state: PathSet, index: int, slot: Slot) -> PathSet:
    return replace(state, slots=(*state.slots[:index], slot, *state.slots[index + 1 :]))


def _backed_off(fails: int, now_s: float, draw: Draw) -> Empty:
    wait_s = min(FIRST_BACKOFF_S * 2.0 ** min(fails, 20), MAX_BACKOFF_S)
    return Empty(now_s + wait_s * between(0.8, 1.2, draw), fails + 1)


def _quiet_until(now_s: float, draw: Draw) -> float:
    return now_s + QUIET_S * between(0.8, 1.2, draw)

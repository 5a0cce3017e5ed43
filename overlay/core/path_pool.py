"""The path sets of a client: one a conversation, and one ahead.

A set belongs to one conversation, so that the last relays of two conversations tell the model node
nothing of their being one user's. The guards are the same in all sets, the other relays fresh.

set       event                              next      effects
────────  ─────────────────────────────────  ────────  ──────────────────────────────────────────
-         prepare, and there is none ahead   AHEAD
AHEAD     taken                              TAKEN     another is made ready, if so wanted
-         taken, and none ahead suits        TAKEN
TAKEN     taken again by its conversation    TAKEN     (after 10 min, at rest: a new set instead)
TAKEN     given back, no conversation's      -         Close each path
TAKEN     conversation over, at rest         -         Close each path
TAKEN     10 min since first taken, at rest  -         Close each path
any       shut                               -         Close each path

Paths in doubt (`path_set`) outlast their set, until it is known who is at fault.

A set costs four builds. At `MAX_SETS` the set that was made first of those at rest gives way; where
all are at work, a question that belongs to no conversation shares the set of another such question:
then, and only then, can the model node join the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from overlay.core.choice import Rules, SetUse
from overlay.core.diversity import kin_of, shared, traits_of
from overlay.core.draw import Draw
from overlay.core.path_set import PathSet, handle, new_set
from overlay.core.path_set_events import Close, SetEffect, SetEvent, Shut, Tick
from planetserve.records import NodeRecord

MAX_SETS = 32
SET_LIFE_S = 600.0


@dataclass(frozen=True, slots=True)
class InSet:
    """An effect of the set of that number."""

    set: int
    effect: SetEffect


@dataclass(frozen=True, slots=True)
class Member:
    """A set with whom it serves: `session` is None while it is ahead and for a question that
    belongs to no conversation; `taken_s` is when it was first taken, `running` how many questions
    are under way, `target` the model node that its relays are chosen with regard to."""

    paths: PathSet
    session: int | None = None
    taken_s: float | None = None
    running: int = 0
    target: NodeRecord | None = None


@dataclass(frozen=True, slots=True)
class PathPool:
    """`keep_ahead` says whether a set is made ready when one is taken."""

    rules: Rules
    keep_ahead: bool = True
    members: Mapping[int, Member] = field(default_factory=dict)
    next_set: int = 0

    @property
    def ahead(self) -> int | None:
        """The set that is ready for the next conversation."""
        return next((n for n, member in self.members.items() if member.taken_s is None), None)


Step: TypeAlias = tuple[PathPool, list[InSet]]


def prepare(pool: PathPool, now_s: float, draw: Draw) -> Step:
    """Have a set ahead."""
    if pool.ahead is not None:
        return pool, []
    pool, _, effects = _new(pool, Member(new_set(pool.rules)), now_s, draw)
    return pool, effects


def take(
    pool: PathPool, session: int | None, target: NodeRecord, now_s: float, draw: Draw
) -> tuple[PathPool, int, list[InSet]]:
    """A set for a question to `target`, in a conversation or in none; its number comes second.

    Each `take` is ended by a `give_back`.
    """
    effects: list[InSet] = []
    if session is not None:
        own = next((n for n, member in pool.members.items() if member.session == session), None)
        if own is not None:
            member = pool.members[own]
            if member.running:
                return _with(pool, own, replace(member, running=member.running + 1)), own, []
            if _suits(member, target) and not _old(member, now_s):
                return _with(pool, own, replace(member, running=1, target=target)), own, []
            pool, effects = _drop(pool, [own], now_s, draw)
    resting = [n for n, m in pool.members.items() if m.taken_s is not None and not m.running]
    if len(pool.members) >= MAX_SETS and resting:
        pool, more = _forget(pool, resting[:1], now_s, draw)
        effects += more
    if session is None and len(pool.members) >= MAX_SETS:
        loose = [n for n, m in pool.members.items() if m.session is None and m.running]
        if loose:
            number = min(loose, key=lambda n: pool.members[n].running)
            member = pool.members[number]
            member = replace(member, running=member.running + 1)
            return _with(pool, number, member), number, effects
    ahead = pool.ahead
    if ahead is not None and _suits(pool.members[ahead], target):
        number = ahead
        member = replace(
            pool.members[ahead], session=session, taken_s=now_s, running=1, target=target
        )
        pool = _with(pool, number, member)
    else:
        member = Member(new_set(pool.rules), session, now_s, 1, target)
        pool, number, more = _new(pool, member, now_s, draw)
        effects += more
    if pool.keep_ahead:
        pool, more = prepare(pool, now_s, draw)
        effects += more
    return pool, number, effects


def give_back(pool: PathPool, number: int, now_s: float, draw: Draw) -> Step:
    """The question is answered, or given up."""
    member = pool.members.get(number)
    if member is None or not member.running:
        return pool, []
    member = replace(member, running=member.running - 1)
    pool = _with(pool, number, member)
    if member.session is None and not member.running:
        return _drop(pool, [number], now_s, draw)
    return pool, []


def end_session(pool: PathPool, session: int, now_s: float, draw: Draw) -> Step:
    """The conversation is over; what still runs in it runs on."""
    idle = []
    for number, member in pool.members.items():
        if member.session == session:
            pool = _with(pool, number, replace(member, session=None))
            if not member.running:
                idle.append(number)
    return _drop(pool, idle, now_s, draw)


def in_set(pool: PathPool, number: int, event: SetEvent, now_s: float, draw: Draw) -> Step:
    """Something happened to a path of the set; nothing comes of it once the set is closed."""
    member = pool.members.get(number)
    if member is None:
        return pool, []
    paths, effects = handle(member.paths, event, now_s, draw)
    pool = _kept(pool, number, replace(member, paths=paths))
    return pool, _of(number, effects)


def tick(pool: PathPool, timeout_s: float, now_s: float, draw: Draw) -> Step:
    """Time passed; `timeout_s` is what build times say by now."""
    resting = [n for n, m in pool.members.items() if not m.running and _old(m, now_s)]
    pool, effects = _drop(pool, resting, now_s, draw)
    for number in pool.members:
        pool, more = in_set(pool, number, Tick(timeout_s), now_s, draw)
        effects += more
    return pool, effects


def shut(pool: PathPool, now_s: float, draw: Draw) -> Step:
    """Close every path."""
    return _forget(pool, list(pool.members), now_s, draw)


def use_of(pool: PathPool, number: int, slot: int, own: bytes | None) -> SetUse:
    """What a path for the slot has to keep away from."""
    member = pool.members[number]
    others = tuple(
        relay for index, hops in member.paths.hops.items() if index != slot for relay in hops.relays
    )
    return SetUse(slot, others, own, member.target)


def _suits(member: Member, target: NodeRecord) -> bool:
    """Whether no path of the set leads through the target, or to it by a relay of its operator or
    network. A set that is for this target already is as good as could be had."""
    if member.target is not None and member.target.id == target.id:
        return True
    kin = kin_of((target,))
    return not any(
        target.id in hops.ids or any(shared(traits_of(hops.relays[-1]), kin))
        for hops in member.paths.hops.values()
    )


def _old(member: Member, now_s: float) -> bool:
    return member.taken_s is not None and now_s - member.taken_s >= SET_LIFE_S


def _new(
    pool: PathPool, member: Member, now_s: float, draw: Draw
) -> tuple[PathPool, int, list[InSet]]:
    number = pool.next_set
    pool = replace(_with(pool, number, member), next_set=number + 1)
    pool, effects = in_set(pool, number, Tick(member.paths.timeout_s), now_s, draw)
    return pool, number, effects


def _drop(pool: PathPool, numbers: Iterable[int], now_s: float, draw: Draw) -> Step:
    """Shut sets; what is in doubt of them is left."""
    effects: list[InSet] = []
    for number in numbers:
        member = pool.members[number]
        paths, closing = handle(member.paths, Shut(), now_s, draw)
        pool = _kept(pool, number, replace(member, paths=paths, session=None))
        effects += _of(number, closing)
    return pool, effects


def _forget(pool: PathPool, numbers: Sequence[int], now_s: float, draw: Draw) -> Step:
    """Close all of their paths."""
    pool, effects = _drop(pool, numbers, now_s, draw)
    for number in [n for n in numbers if n in pool.members]:
        effects += _of(number, [Close(path.path) for path in pool.members[number].paths.doubted])
        pool = _without(pool, number)
    return pool, effects


def _kept(pool: PathPool, number: int, member: Member) -> PathPool:
    """With the set, unless it is shut and none of its paths is in doubt."""
    over = member.paths.shut and not member.paths.doubted
    return _without(pool, number) if over else _with(pool, number, member)


def _without(pool: PathPool, number: int) -> PathPool:
    members = {n: member for n, member in pool.members.items() if n != number}
    return replace(pool, members=members)


def _with(pool: PathPool, number: int, member: Member) -> PathPool:
    return replace(pool, members={**pool.members, number: member})


def _of(number: int, effects: Iterable[SetEffect]) -> list[InSet]:
    return [InSet(number, effect) for effect in effects]

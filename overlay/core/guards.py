"""Which first hops a client keeps, and what makes it let one go.

Every fresh first hop is another chance to meet one that watches, so a client samples a few guards
and keeps to them (Tor's proposal 271). They stand in a list; the first n usable ones are in use.

- A list holds up to 3 n guards; one is added only while fewer than n are usable, or where each that
  is usable has its place on another path of the set already.
- A guard's life is drawn from 60-120 days at its first use. It leaves the list when that is over,
  when it was unused for 120 days, or when it is 7 days out of the route set.
- At most two leave in a week, whatever the reasons, those that are longest overdue first: a look
  under a clock that is months ahead costs two guards, not all.
- One that cannot be connected to, or says that it has no room, is passed over and tried again
  after 1, 5, 30, 180 minutes. Where fewer than n are left, those that wait are tried all the same,
  the soonest first.
- Bias: of a guard's paths, and of their uses, attempts and successes are counted (halved at 200),
  each path once, at its end (`overlay.core.path_set`), unless it ended unused by our will. One with
  at least 20 attempts whose share of successes is less than half of what the other guards have in
  the median is dropped, the worst first: who fails everything cannot walk a client through the
  network, at two in a week, until it meets a friend. The others are the measure because loaded
  relays fail the paths of all guards alike; where they fail many, more attempts are awaited, so
  that half is three standard deviations away. The median, since others may be of the same party.
  A dropped one is barred for the longest life: it comes back with a clean record only where no
  other relay is left to be a guard.
- Blame: a failure that a hop behind the guard reported keeps that hop, and the one that it
  accuses, out of the paths under this guard for 30 s, and says nothing of the guard. One without
  an authenticated author, or with the guard for its author, counts against the guard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from overlay.core.diversity import NOBODY, Kin, kin_of, least_in_conflict, seasoned
from overlay.core.draw import Draw
from planetserve.records import NodeRecord

MIN_LIFE_DAYS = 60
MAX_LIFE_DAYS = 120
MAX_MISSING_DAYS = 7
RETRY_S = (60.0, 300.0, 1_800.0, 10_800.0)
HALVED_AT = 200
JUDGED_FROM = 20
DROP_PERIOD_DAYS = 7
MAX_DROPS = 2
MAX_BARRED = 64
SHUN_S = 30.0


@dataclass(frozen=True, slots=True)
class GuardRules:
    """`n` guards are in use, up to `3 n` kept, of relays registered `min_age_blocks` ago."""

    n: int = 4
    min_age_blocks: int = 7_200

    @property
    def most(self) -> int:
        return 3 * self.n


@dataclass(frozen=True, slots=True)
class Tally:
    attempts: int = 0
    successes: int = 0

    def counted(self, succeeded: bool) -> Tally:
        tally = Tally(self.attempts + 1, self.successes + succeeded)
        return tally.halved_to(HALVED_AT - 1)

    def halved_to(self, most: int) -> Tally:
        """The same share of at most so many attempts, which are not fewer than half of `most`."""
        tally = self
        while tally.attempts > most:
            tally = Tally(tally.attempts // 2, tally.successes // 2)
        return tally

    @property
    def share(self) -> float:
        return self.successes / max(self.attempts, 1)


@dataclass(frozen=True, slots=True)
class Guard:
    """`ends_day` is None until the guard is used; days count from the Unix epoch. `retry_s` and
    `unreachable` (failed connections and refusals in a row) last as long as the process."""

    node: bytes
    added_day: int
    ends_day: int | None = None
    missing_since_day: int | None = None
    builds: Tally = Tally()
    uses: Tally = Tally()
    unreachable: int = 0
    retry_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Barred:
    """A relay that was dropped for bias on `day`."""

    node: bytes
    day: int


@dataclass(frozen=True, slots=True)
class Shun:
    """`node` is not to be chosen for paths under `guard` until then."""

    guard: bytes
    node: bytes
    until_s: float


@dataclass(frozen=True, slots=True)
class GuardList:
    """`dropped_days` are the days on which guards left the list, of the last week; `exhausted` says
    that more would have been dropped for bias; `barred` are those that were, a life long."""

    guards: tuple[Guard, ...] = ()
    dropped_days: tuple[int, ...] = ()
    exhausted: bool = False
    shuns: tuple[Shun, ...] = ()
    barred: tuple[Barred, ...] = ()

    def find(self, node: bytes) -> Guard | None:
        return next((guard for guard in self.guards if guard.node == node), None)

    def line_up(self, now_s: float) -> tuple[bytes, ...]:
        """The guards of the route set in the order in which they are to be used."""
        present = [guard for guard in self.guards if guard.missing_since_day is None]
        ready = [guard for guard in present if guard.retry_s <= now_s]
        waiting = sorted(
            (guard for guard in present if guard.retry_s > now_s), key=lambda guard: guard.retry_s
        )
        return tuple(guard.node for guard in (*ready, *waiting))

    def ready(self, now_s: float) -> frozenset[bytes]:
        """Those that do not wait after a failed connection or a refusal."""
        return frozenset(guard.node for guard in self.guards if _usable(guard, now_s))

    def shunned(self, guard: bytes, now_s: float) -> frozenset[bytes]:
        return frozenset(
            shun.node for shun in self.shuns if shun.guard == guard and shun.until_s > now_s
        )


def maintained(
    guards: GuardList,
    relays: Sequence[NodeRecord],
    height: int,
    day: int,
    now_s: float,
    rules: GuardRules,
    draw: Draw,
) -> GuardList:
    """The list after a look at the route set's `relays` at `height`, on `day`."""
    by_id: dict[bytes, NodeRecord] = {relay.id: relay for relay in relays}
    seen = tuple(_seen(guard, guard.node in by_id, day) for guard in guards.guards)
    # A day that is still to come was written under a clock that was ahead.
    days = (min(dropped, day) for dropped in guards.dropped_days)
    recent = tuple(dropped for dropped in days if day - dropped < DROP_PERIOD_DAYS)
    # At two drops a week no more than a few dozen are barred; the bound is for what a file says.
    barred = tuple(item for item in guards.barred if day - item.day < MAX_LIFE_DAYS)[-MAX_BARRED:]
    guards = replace(guards, guards=seen, dropped_days=recent, barred=barred)
    guards = _judged(guards, day)
    guards = _without_overdue(guards, day)
    listed = list(guards.guards)
    candidates = _candidates(guards, relays, height, rules)
    usable = sum(_usable(guard, now_s) for guard in listed)
    while usable < rules.n and len(listed) < rules.most and candidates:
        chosen = _sample(candidates, _kin(listed, by_id), draw)
        candidates.remove(chosen)
        listed.append(Guard(chosen.id, day))
        usable += 1
    shuns = tuple(shun for shun in guards.shuns if shun.until_s > now_s)
    return replace(guards, guards=tuple(listed), shuns=shuns)


def for_set(
    guards: GuardList,
    relays: Sequence[NodeRecord],
    height: int,
    day: int,
    now_s: float,
    barred: Collection[bytes],
    rules: GuardRules,
    draw: Draw,
) -> GuardList:
    """The list with one guard more, if each usable one is `barred`: on another path of a set."""
    if guards.ready(now_s) - frozenset(barred) or len(guards.guards) >= rules.most:
        return guards
    candidates = _candidates(guards, relays, height, rules)
    candidates = [relay for relay in candidates if relay.id not in barred]
    if not candidates:
        return guards
    by_id: dict[bytes, NodeRecord] = {relay.id: relay for relay in relays}
    chosen = _sample(candidates, _kin(guards.guards, by_id), draw)
    return replace(guards, guards=(*guards.guards, Guard(chosen.id, day)))


def first_used(guards: GuardList, node: bytes, day: int, draw: Draw) -> GuardList:
    """A path through the guard is begun; its life is drawn if this is the first."""
    guard = guards.find(node)
    if guard is None or guard.ends_day is not None:
        return guards
    life_days = MIN_LIFE_DAYS + draw(MAX_LIFE_DAYS - MIN_LIFE_DAYS + 1)
    return _with(guards, replace(guard, ends_day=day + life_days))


def built(guards: GuardList, node: bytes) -> GuardList:
    """A path through the guard opened, which is no success yet."""
    guard = guards.find(node)
    if guard is None:
        return guards
    return _with(guards, replace(guard, unreachable=0, retry_s=0.0))


def served(guards: GuardList, node: bytes) -> GuardList:
    """A path through the guard was used and ended well."""
    guard = guards.find(node)
    if guard is None:
        return guards
    return _with(guards, replace(guard, builds=guard.builds.counted(True)))


def used(guards: GuardList, node: bytes, answered: bool) -> GuardList:
    """A stream of a path through the guard was answered, or was not."""
    guard = guards.find(node)
    if guard is None:
        return guards
    return _with(guards, replace(guard, uses=guard.uses.counted(answered)))


def failed(guards: GuardList, hops: Sequence[bytes], origin: int | None, now_s: float) -> GuardList:
    """A path through `hops` broke or did not open in time.

    `origin` is the hop that authenticated the report, from 0; None where nobody did.
    """
    if origin is not None:
        accused = hops[max(origin, 1) : origin + 2]
        shuns = tuple(Shun(hops[0], node, now_s + SHUN_S) for node in accused)
        guards = replace(guards, shuns=(*guards.shuns, *shuns))
    guard = guards.find(hops[0])
    if guard is None or (origin is not None and origin > 0):
        return guards
    return _with(guards, replace(guard, builds=guard.builds.counted(False)))


def refused(guards: GuardList, node: bytes, now_s: float) -> GuardList:
    """The guard says that it has no room: it fails the path, and is passed over for a while."""
    return unreachable(failed(guards, (node,), None, now_s), node, now_s)


def unreachable(guards: GuardList, node: bytes, now_s: float) -> GuardList:
    """No connection to the guard could be made, or it did not prove its key."""
    guard = guards.find(node)
    if guard is None or guard.retry_s > now_s:
        return guards  # one refusal that several paths met counts once
    wait_s = RETRY_S[min(guard.unreachable, len(RETRY_S) - 1)]
    guard = replace(guard, unreachable=guard.unreachable + 1, retry_s=now_s + wait_s)
    return _with(guards, guard)


def _with(guards: GuardList, changed: Guard) -> GuardList:
    return replace(
        guards,
        guards=tuple(changed if guard.node == changed.node else guard for guard in guards.guards),
    )


def _usable(guard: Guard, now_s: float) -> bool:
    return guard.missing_since_day is None and guard.retry_s <= now_s


def _candidates(
    guards: GuardList, relays: Sequence[NodeRecord], height: int, rules: GuardRules
) -> list[NodeRecord]:
    barred = {item.node for item in guards.barred}
    old = seasoned(relays, height, rules.min_age_blocks, rules.most + len(barred))
    free = [relay for relay in old if guards.find(relay.id) is None]
    return [relay for relay in free if relay.id not in barred] or free


def _kin(listed: Iterable[Guard], by_id: Mapping[bytes, NodeRecord]) -> Kin:
    return kin_of(by_id[guard.node] for guard in listed if guard.node in by_id)


def _seen(guard: Guard, present: bool, day: int) -> Guard:
    if present:
        return replace(guard, missing_since_day=None)
    return guard if guard.missing_since_day is not None else replace(guard, missing_since_day=day)


def _leaves_day(guard: Guard) -> int:
    ends_day = guard.added_day + MAX_LIFE_DAYS if guard.ends_day is None else guard.ends_day
    if guard.missing_since_day is None:
        return ends_day
    return min(ends_day, guard.missing_since_day + MAX_MISSING_DAYS)


def _without_overdue(guards: GuardList, day: int) -> GuardList:
    """Without the guards whose time is over, as far as the week allows."""
    overdue = sorted((g for g in guards.guards if _leaves_day(g) <= day), key=_leaves_day)
    gone = overdue[: max(MAX_DROPS - len(guards.dropped_days), 0)]
    return replace(
        guards,
        guards=tuple(guard for guard in guards.guards if guard not in gone),
        dropped_days=(*guards.dropped_days, *(day for _ in gone)),
    )


def _judged(guards: GuardList, day: int) -> GuardList:
    """Without the biased guards, as far as the week allows."""
    days, listed, barred = guards.dropped_days, guards.guards, guards.barred
    while True:
        rates = {guard.node: _bias(guard, listed) for guard in listed}
        biased = [guard for guard in listed if rates[guard.node] is not None]
        if not biased or len(days) >= MAX_DROPS:
            break
        worst = min(biased, key=lambda guard: rates[guard.node] or 0.0)
        listed = tuple(guard for guard in listed if guard is not worst)
        days = (*days, day)
        barred = (*(item for item in barred if item.node != worst.node), Barred(worst.node, day))
    return replace(guards, guards=listed, dropped_days=days, exhausted=bool(biased), barred=barred)


def _bias(guard: Guard, listed: Sequence[Guard]) -> float | None:
    """The share of successes of a biased guard, None for any other."""
    others = [other for other in listed if other is not guard]
    judged = [
        own.share
        for own, theirs in (
            (guard.builds, [other.builds for other in others]),
            (guard.uses, [other.uses for other in others]),
        )
        if _is_biased(own, theirs)
    ]
    return min(judged, default=None)


def _is_biased(own: Tally, theirs: Iterable[Tally]) -> bool:
    known = sorted((t for t in theirs if t.attempts >= JUDGED_FROM), key=lambda tally: tally.share)
    if own.attempts < JUDGED_FROM or not known:
        return False
    usual = known[len(known) // 2]
    low = 2 * own.successes * usual.attempts < own.attempts * usual.successes
    # With n attempts at the usual share p, np/2 is 3 sqrt(np(1-p)) or more.
    clear = own.attempts * usual.successes >= 36 * (usual.attempts - usual.successes)
    return low and clear


def _sample(candidates: Sequence[NodeRecord], taken: Kin, draw: Draw) -> NodeRecord:
    return least_in_conflict(candidates, NOBODY, taken, NOBODY, draw)[0]

"""What a client knows of relays, and the hops it chooses from that.

event of a path           guards       build times  diagnosis
────────────────────────  ───────────  ───────────  ───────────────────────────────
begun                     life begins
opened                    built        completed
opened late                            completed
not opened in time        failed       timed out    its first relay did not answer
broke                     failed                    who reported what about whom
refused by its first hop  refused                   who reported what about whom
ended well                served
first hop not reached     unreachable               its first relay did not answer
stream answered, or path  used
failed under it

Guards are looked over (`guards.maintained`) before the next choice after the route set has changed,
a day began, a guard failed, refused or could not be reached. One that did the latter is no first
hop of a set that could have another (`guards.for_set`) for a while. Guards that another process
keeps are borrowed: while k of them are usable, none is added to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from overlay.core import guards
from overlay.core.build_times import BuildTimes
from overlay.core.choice import Hops, Rules, SetUse, choose_set_hops
from overlay.core.diagnosis import Diagnosis, Refusal, RouteView, cause, reported, unanswered
from overlay.core.draw import Draw
from overlay.core.guards import GuardList, GuardRules
from overlay.core.path_driver_effects import DAY_S, Moment
from overlay.core.reasons import Report
from planetserve.records import NodeRecord, RouteSet


class RelayMemory:
    """Mutable; `own` is the client's node id if it relays itself. `guards` and `build_times` are
    what outlasts the process."""

    def __init__(
        self, rules: Rules, guard_rules: GuardRules, draw: Draw, own: bytes | None = None
    ) -> None:
        self.guards = GuardList()
        self.build_times = BuildTimes()
        self.view = RouteView(0, b"")
        self.relays: Sequence[NodeRecord] = ()
        """The trusted ones whose keys are keys, without the client's own."""
        self._own = own
        self._rules = rules
        self._guard_rules = guard_rules
        self._draw = draw
        self._diagnosis = Diagnosis()
        self._unusable: set[tuple[bytes, bytes]] = set()
        self._day = 0
        self._routes_day = 0
        self._borrowed: frozenset[bytes] | None = None
        self._lean = False
        self._stale = True

    def remember(
        self, guard_list: GuardList, build_times: BuildTimes, borrowed: bool = False
    ) -> None:
        """What an earlier process left; `borrowed` says that another one keeps it meanwhile."""
        self.guards, self.build_times, self._stale = guard_list, build_times, True
        self._borrowed = frozenset(item.node for item in guard_list.guards) if borrowed else None

    @property
    def unsaved(self) -> bool:
        """Whether there are guards that nobody keeps, beside borrowed ones."""
        nodes = {guard.node for guard in self.guards.guards}
        return self._borrowed is not None and not nodes <= self._borrowed

    def routes_read(self, routes: RouteSet) -> None:
        """A route set that the light client verified."""
        if routes.hash != self.view.hash:
            self.relays = [
                relay
                for relay in routes.relays()
                if relay.id != self._own and (relay.id, relay.onion_key) not in self._unusable
            ]
            self._stale = True
        self.view = RouteView(routes.height, routes.hash)
        self._routes_day = routes.time_ns // (DAY_S * 1_000_000_000)

    def _today(self, at: Moment) -> int:
        """The day of the newest verified header: guards do not go by this machine's clock, which
        others may set."""
        return self._routes_day or at.day

    def _enough_borrowed(self, at: Moment) -> bool:
        if self._borrowed is None:
            return False
        usable = {guard.node for guard in self.guards.guards if guard.retry_s <= at.now_s}
        present = {relay.id for relay in self.relays}
        return len(usable & present & self._borrowed) >= self._rules.k

    def choose(self, used: SetUse, at: Moment) -> Hops | None:
        """Hops for one path; None when there are not enough relays."""
        day, lean = self._today(at), self._enough_borrowed(at)
        if self._stale or day != self._day or lean != self._lean:
            self.guards = guards.maintained(
                self.guards,
                self.relays,
                self.view.height,
                day,
                at.now_s,
                replace(self._guard_rules, n=0) if lean else self._guard_rules,
                self._draw,
            )
            self._day, self._lean, self._stale = day, lean, False
        if not lean:
            self._lengthen(used, day, at)
        return choose_set_hops(
            self.relays, self.view.height, self.guards, used, self._rules, self._draw, at.now_s
        )

    def _lengthen(self, used: SetUse, day: int, at: Moment) -> None:
        barred = {relay.id for relay in used.others}
        if used.target is not None:
            barred.add(used.target.id)
        self.guards = guards.for_set(
            self.guards,
            self.relays,
            self.view.height,
            day,
            at.now_s,
            barred,
            self._guard_rules,
            self._draw,
        )

    def pass_over(self, relays: Iterable[NodeRecord]) -> None:
        """One of `relays` has a key that is none: those that have are chosen no more."""
        bad = {(relay.id, relay.onion_key) for relay in relays if not _usable(relay.onion_key)}
        self._unusable |= bad
        self.relays = [item for item in self.relays if (item.id, item.onion_key) not in bad]
        self._stale = True

    def begun(self, hops: Hops, at: Moment) -> None:
        self.guards = guards.first_used(self.guards, hops.ids[0], self._today(at), self._draw)

    def opened(self, hops: Hops, duration_s: float, late: bool) -> None:
        self.build_times = self.build_times.completed(duration_s, late)
        if not late:
            self.guards = guards.built(self.guards, hops.ids[0])

    def failed(
        self, hops: Hops, origin: int | None, timed_out: bool, in_use: bool, at: Moment
    ) -> None:
        if in_use and not origin:
            self.guards = guards.used(self.guards, hops.ids[0], False)
        if timed_out:
            self.build_times = self.build_times.timed_out()
            self._diagnosis = unanswered(self._diagnosis, hops.relays[0], at.now_s)
        self.guards = guards.failed(self.guards, hops.ids, origin, at.now_s)
        self._stale = True

    def served(self, hops: Hops) -> None:
        self.guards = guards.served(self.guards, hops.ids[0])

    def refused(self, hops: Hops, at: Moment) -> None:
        self.guards = guards.refused(self.guards, hops.ids[0], at.now_s)
        self._stale = True

    def unreachable(self, hops: Hops, at: Moment) -> None:
        self.guards = guards.unreachable(self.guards, hops.ids[0], at.now_s)
        self._diagnosis = unanswered(self._diagnosis, hops.relays[0], at.now_s)
        self._stale = True

    def used(self, hops: Hops) -> None:
        """A stream of the path was answered."""
        self.guards = guards.used(self.guards, hops.ids[0], True)

    def reported(
        self, hops: Hops, report: Report, origin: int | None, period: int, at: Moment
    ) -> None:
        """A path is over, says the hop `origin`, or the first one in clear. A hop that reports in
        this way speaks about the one that follows, the first one about itself."""
        author = hops.relays[origin or 0]
        about = hops.relays[accused(hops, origin)]
        refusal = Refusal(at.now_s, author, about, report, period)
        self._diagnosis = reported(self._diagnosis, refusal)

    def cause(self, at: Moment) -> str:
        """Why there are too few paths; empty when nothing was noticed."""
        return cause(self._diagnosis, self.view, at.now_s)


def accused(hops: Hops, origin: int | None) -> int:
    """The place of the hop that a report is about."""
    return 0 if origin is None else min(origin + 1, len(hops.relays) - 1)


def _usable(onion_key: bytes) -> bool:
    """Whether a key is of high order, as all are but a handful."""
    try:
        X25519PrivateKey.from_private_bytes(b"\x01" * 32).exchange(
            X25519PublicKey.from_public_bytes(onion_key)
        )
    except ValueError:
        return False
    return True

"""How long a path may take to build, learned from those that were built.

The time-out is 1.5 times the 80 % quantile of the last 200 completed builds, as Tor takes that
quantile (tor-spec, "Learning when to give up"); with 200 samples the empirical one needs no model
to be wrong. Builds that complete after their time-out are waited for and counted, else a time-out
that is too short would never be found out. When half of the last twenty builds timed out, the
network has changed: the history is dropped and the time-out doubled until there is a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

KEPT = 200
ENOUGH = 20
RECENT = 20
TOO_MANY_TIMED_OUT = 10
FIRST_TIMEOUT_S = 3.0
MIN_TIMEOUT_S = 0.25
MAX_TIMEOUT_S = 10.0
MARGIN = 1.5
LATE_FACTOR = 3.0
"""After so many time-outs a build that timed out is not listened to any more."""


@dataclass(frozen=True, slots=True)
class BuildTimes:
    """`durations_s`, oldest first; `recent` says of the last builds which timed out;
    `unlearned_s` is the time-out while too few durations are known."""

    durations_s: tuple[float, ...] = ()
    recent: tuple[bool, ...] = ()
    unlearned_s: float = FIRST_TIMEOUT_S

    @property
    def timeout_s(self) -> float:
        """When a build is not waited for any more."""
        if len(self.durations_s) < ENOUGH:
            return self.unlearned_s
        # Nearest rank: the smallest duration that at least 80 % do not exceed.
        rank = -(-4 * len(self.durations_s) // 5)
        quantile_s = sorted(self.durations_s)[rank - 1]
        return min(max(MARGIN * quantile_s, MIN_TIMEOUT_S), MAX_TIMEOUT_S)

    def completed(self, duration_s: float, late: bool = False) -> BuildTimes:
        """A build took `duration_s`; `late` if it was counted as timed out before."""
        recent = self.recent if late else (*self.recent, False)[-RECENT:]
        durations_s = (*self.durations_s, duration_s)[-KEPT:]
        return replace(self, durations_s=durations_s, recent=recent)

    def timed_out(self) -> BuildTimes:
        recent = (*self.recent, True)[-RECENT:]
        if sum(recent) < TOO_MANY_TIMED_OUT:
            return replace(self, recent=recent)
        return BuildTimes(unlearned_s=min(2 * self.timeout_s, MAX_TIMEOUT_S))

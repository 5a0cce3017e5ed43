"""Reputation: the paper's rule (section 4), a CUSUM beside it, admission, and the way back.

    candidate ──credits reach `admission_ppm`──▶ trusted ◀──R high again, probation passed──┐
                                                    └──R too low, CUSUM, or evidence──▶ untrusted

The paper's rule forgives a node that cheats in one epoch of five, for its window never holds more
than one abnormal credit. The CUSUM does not: every credit C adds `cusum_reference_ppm` - C, but
takes off no more than `cusum_allowance_ppm`, so that good epochs cannot pay for bad ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from planetserve.fixedpoint import ONE_PPM, clamp_ppm, floor_ratio
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED
from planetserve.scoring.parameters import Parameters

KEPT = "no quorum: reputation kept"
ALARMED = "a sample of the probers found the node bad: all of them judge the next epochs"
SMOOTHED = "smoothed with this epoch's credit"
PUNISHED = "punished: too many abnormal epochs in the window"
REASONS = (KEPT, ALARMED, SMOOTHED, PUNISHED)

ADMITTED = "admitted: its probes passed"
LOST_REPUTATION = "lost trust: reputation below the threshold"
LOST_CUSUM = "lost trust: bad epochs keep coming back (CUSUM)"
REGAINED = "regained trust: probation passed"
MAX_DOUBLINGS = 16

VERDICTS = ("", ADMITTED, LOST_REPUTATION, LOST_CUSUM, REGAINED)


@dataclass(frozen=True, slots=True)
class Reputation:
    """`ppm` is R; `window_ppm` are the credits C of the node's last settled epochs, oldest first.

    `streak` counts the good epochs up to now; `alarm` is how many more good epochs everyone must
    judge; `last` names the node id and epoch of the newest result, whose `before` names the one
    before it. `convictions` counts what evidence has shown.
    """

    ppm: int
    window_ppm: tuple[int, ...] = ()
    cusum_ppm: int = 0
    trusted: bool = True
    admitted: bool = False
    streak: int = 0
    alarm: int = 0
    last: tuple[bytes, int] | None = None
    convictions: int = 0

    @property
    def status(self) -> str:
        """A model node's, as far as its conduct goes."""
        if not self.admitted:
            return CANDIDATE
        return TRUSTED if self.trusted else UNTRUSTED

    def to_wire(self) -> dict[str, Any]:
        """Keys in ascending order."""
        return {
            "admitted": self.admitted,
            "alarm": self.alarm,
            "convictions": self.convictions,
            "cusum_ppm": self.cusum_ppm,
            "last": None if self.last is None else list(self.last),
            "ppm": self.ppm,
            "streak": self.streak,
            "trusted": self.trusted,
            "window_ppm": list(self.window_ppm),
        }


@dataclass(frozen=True, slots=True)
class Update:
    """One application of the rules: the reputation after it, how many of the window's epochs
    were abnormal, which of `REASONS` says how R came about, and which of `VERDICTS` what became
    of the node's standing."""

    reputation: Reputation
    abnormal: int
    reason: str
    verdict: str = ""


def initial_reputation(parameters: Parameters, *, admitted: bool = False) -> Reputation:
    return Reputation(parameters.initial_reputation_ppm, admitted=admitted)


def updated(before: Reputation, credit_ppm: int, parameters: Parameters) -> Update:
    """Apply the credit C of one settled epoch.

    With c epochs below tau among the last W: the epoch is punished when c / W > gamma, strictly.
    """
    window = (*before.window_ppm, credit_ppm)[-parameters.window_epochs :]
    abnormal = abnormal_in(window, parameters)
    if abnormal * ONE_PPM > parameters.tolerance_ppm * parameters.window_epochs:
        ppm, reason = punished_ppm(before.ppm, credit_ppm, abnormal, parameters), PUNISHED
    else:
        ppm, reason = smoothed_ppm(before.ppm, credit_ppm, parameters), SMOOTHED
    after = replace(
        before,
        ppm=ppm,
        window_ppm=window,
        cusum_ppm=cusum_after(before.cusum_ppm, credit_ppm, parameters),
        streak=before.streak + 1 if credit_ppm >= good_from_ppm(before, parameters) else 0,
        alarm=max(before.alarm - 1, 0)
        if credit_ppm >= alarm_below_ppm(parameters)
        else parameters.alarm_epochs,
    )
    after, verdict = judged(after, parameters)
    return Update(after, abnormal, reason, verdict)


def kept(before: Reputation, parameters: Parameters) -> Update:
    """An epoch without quorum changes nothing, nor does it end an alarm."""
    return Update(before, abnormal_in(before.window_ppm, parameters), KEPT)


def alarmed(before: Reputation, parameters: Parameters) -> Update:
    """A sample's bad credit is no judgement: by chance most of it may be liars. The alarm lasts,
    or a node could cheat when few look and behave in the one epoch in which it knows that
    everyone does."""
    after = replace(before, alarm=parameters.alarm_epochs)
    return Update(after, abnormal_in(before.window_ppm, parameters), ALARMED)


def judged(after: Reputation, parameters: Parameters) -> tuple[Reputation, str]:
    """The node's standing, given what the epoch made of its numbers."""
    # Half of the limit stays on record, so that one who starts again is out sooner.
    cusum = min(after.cusum_ppm, parameters.cusum_limit_ppm // 2)
    if not after.admitted and after.trusted:
        # Good probes do not admit whom the next epoch would put out again.
        low = after.ppm < parameters.untrusted_below_ppm
        if low or after.streak < parameters.admission_epochs:
            return after, ""
        return replace(after, admitted=True, streak=0, cusum_ppm=cusum), ADMITTED
    if after.trusted:
        if after.ppm < parameters.untrusted_below_ppm:
            return replace(after, trusted=False, streak=0), LOST_REPUTATION
        if after.cusum_ppm >= parameters.cusum_limit_ppm:
            return replace(after, trusted=False, streak=0), LOST_CUSUM
        return after, ""
    low = after.ppm < parameters.trusted_from_ppm
    if low or after.streak < probation_epochs(after.convictions, parameters):
        return after, ""
    back = replace(after, admitted=True, trusted=True, streak=0, cusum_ppm=cusum)
    return back, REGAINED


def alarm_below_ppm(parameters: Parameters) -> int:
    """What a sample must not decide: any credit that counts against the node."""
    return max(parameters.abnormal_below_ppm, parameters.cusum_reference_ppm)


def good_from_ppm(before: Reputation, parameters: Parameters) -> int:
    """From which credit on an epoch counts towards admission or the end of probation."""
    return parameters.abnormal_below_ppm if before.admitted else parameters.admission_ppm


def probation_epochs(convictions: int, parameters: Parameters) -> int:
    """How long the way back takes: twice as long with each conviction."""
    return parameters.probation_epochs << min(convictions, MAX_DOUBLINGS)


def abnormal_in(window_ppm: tuple[int, ...], parameters: Parameters) -> int:
    """How many of the credits lie below tau."""
    return sum(credit < parameters.abnormal_below_ppm for credit in window_ppm)


def smoothed_ppm(old_ppm: int, credit_ppm: int, parameters: Parameters) -> int:
    """a R + (1 - a) C."""
    smoothing = parameters.smoothing_ppm
    weighted = smoothing * old_ppm + (ONE_PPM - smoothing) * credit_ppm
    return clamp_ppm(floor_ratio(weighted, ONE_PPM))


def punished_ppm(old_ppm: int, credit_ppm: int, abnormal: int, parameters: Parameters) -> int:
    """a R + C (W + 1) / (W + c / gamma + 2)."""
    window, gamma = parameters.window_epochs, parameters.tolerance_ppm
    # The second denominator times gamma is whole, which keeps the sum exact until it is rounded.
    scaled = (window + 2) * gamma + abnormal * ONE_PPM
    from_old = parameters.smoothing_ppm * old_ppm * scaled
    earned = ONE_PPM * credit_ppm * (window + 1) * gamma
    return clamp_ppm(floor_ratio(from_old + earned, ONE_PPM * scaled))


def cusum_after(cusum_ppm: int, credit_ppm: int, parameters: Parameters) -> int:
    """max(0, S + max(k - C, -d)): Page's one-sided CUSUM with clipped forgiveness."""
    deficit = max(parameters.cusum_reference_ppm - credit_ppm, -parameters.cusum_allowance_ppm)
    return max(0, cusum_ppm + deficit)


def convicted(before: Reputation, parameters: Parameters) -> Reputation:
    """Evidence has shown misconduct: R falls to nothing and trust with it. The way back is the
    usual one, also for a node that was not admitted yet, but twice as long each time."""
    return replace(
        before,
        ppm=0,
        trusted=False,
        streak=0,
        cusum_ppm=max(before.cusum_ppm, parameters.cusum_limit_ppm),
        alarm=parameters.alarm_epochs,
        convictions=before.convictions + 1,
    )


def rotated(before: Reputation, parameters: Parameters) -> Reputation:
    """The node goes on under another key, whose draws it may have chosen: everyone judges it for
    a while, as after an alarm."""
    return replace(before, alarm=max(before.alarm, parameters.alarm_epochs))


def with_another_model(before: Reputation) -> Reputation:
    """The node must pass the probes anew. The running epoch's may have been of the former model,
    so that it counts for nothing: the streak begins below 0."""
    return replace(before, admitted=False, streak=-1)


def reputation_from(record: Mapping[str, Any]) -> Reputation:
    """Of a `reputation/` record, or of `before` or `after` in a `results/` record. Raises
    `KeyError`, `TypeError` or `IndexError` for one of another form."""
    last = record["last"]
    return Reputation(
        record["ppm"],
        tuple(record["window_ppm"]),
        record["cusum_ppm"],
        record["trusted"],
        record["admitted"],
        record["streak"],
        record["alarm"],
        None if last is None else (last[0], last[1]),
        record["convictions"],
    )

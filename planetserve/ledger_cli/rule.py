"""What the ledger makes of one epoch's scores of a node: its rule once more, for its readers.

A proof says that the validators agreed on a number; with the rule in hand a reader sees that the
number follows from the evidence beside it. docs/protocol.md states the rule under "Epochs". The
ledger's own is `abci_app.core`, above this package; a test holds the two together.

Integers only, in millionths, rounded down once a formula.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from planetserve.assignment import ONE_PPM
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED

VERSION = 1
"""Of the rules that this file holds; see `planetserve.records.ChainStatus.version`."""

KEPT = "no quorum: reputation kept"
ALARMED = "a sample of the probers found the node bad: all of them judge the next epochs"
SMOOTHED = "smoothed with this epoch's credit"
PUNISHED = "punished: too many abnormal epochs in the window"

ADMITTED = "admitted: its probes passed"
LOST_REPUTATION = "lost trust: reputation below the threshold"
LOST_CUSUM = "lost trust: bad epochs keep coming back (CUSUM)"
REGAINED = "regained trust: probation passed"

SAMPLE_QUORUM_PPM = ONE_PPM // 2
MAX_DOUBLINGS = 16

Parameters = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Score:
    """One prober's reveal, with the power that weighed it; `digest` is that of its transcripts."""

    prober: bytes
    power: int
    score_ppm: int
    samples: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """What the rule knows of a node between two epochs. `window_ppm` are its last credits, oldest
    first; `whole` is false while older ones that belong there are not known. `alarm` is how many
    more good epochs everyone must judge, None when that is not known. `convictions` counts what
    evidence has shown."""

    ppm: int
    window_ppm: tuple[int, ...]
    whole: bool
    cusum_ppm: int
    admitted: bool
    trusted: bool
    streak: int
    alarm: int | None
    convictions: int = 0

    @property
    def status(self) -> str:
        if not self.admitted:
            return CANDIDATE
        return TRUSTED if self.trusted else UNTRUSTED


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an epoch makes of a standing. `abnormal` is None where the window is not known."""

    after: Standing
    abnormal: int | None
    reason: str
    verdict: str = ""


def quorum_ppm(chance: int, parameters: Parameters) -> int:
    """Which part of the power that was to judge must reveal."""
    return parameters["quorum_ppm"] if chance == ONE_PPM else SAMPLE_QUORUM_PPM


def reveals_enough(
    scores: Iterable[Score], total_power: int, chance: int, parameters: Parameters
) -> bool:
    """Whether the quorum of the power that was to judge has revealed."""
    revealed = sum(score.power for score in scores)
    due = total_power * chance
    return revealed > 0 and revealed * ONE_PPM * ONE_PPM >= quorum_ppm(chance, parameters) * due


def median(scores: Iterable[Score]) -> int:
    """The lowest score at which half of the revealed power is reached."""
    ordered = sorted((score.score_ppm, score.power) for score in scores)
    total = sum(power for _, power in ordered)
    reached = 0
    for score_ppm, power in ordered:
        reached += power
        if 2 * reached >= total:
            return score_ppm
    raise ValueError("a median needs at least one score")


def credit_of(
    scores: Sequence[Score], total_power: int, chance: int, held_ppm: int, parameters: Parameters
) -> int | None:
    """The credit C of a node whose reputation is `held_ppm`, None when its scores decide nothing.

    Without a quorum it is the median that would be if all of the missing spoke for `held_ppm`.
    """
    if reveals_enough(scores, total_power, chance, parameters):
        return median(scores)
    due = total_power * chance
    ordered = sorted((score.score_ppm, score.power) for score in scores)
    highest = _at_half(ordered, due)
    if highest is not None and highest < held_ppm:
        return highest
    lowest = _at_half(ordered[::-1], due)
    return lowest if lowest is not None and lowest > held_ppm else None


def alarm_below_ppm(parameters: Parameters) -> int:
    """Credits below this count against a node, which no sample decides alone."""
    return max(parameters["abnormal_below_ppm"], parameters["cusum_reference_ppm"])


def alarms(scores: Sequence[Score], chance: int, parameters: Parameters) -> bool:
    """Whether a sample calls for everyone's judgement."""
    return chance < ONE_PPM and bool(scores) and median(scores) < alarm_below_ppm(parameters)


def settle(
    before: Standing,
    scores: Sequence[Score],
    credit: int | None,
    chance: int,
    parameters: Parameters,
    recorded_abnormal: int,
) -> Outcome:
    """Apply one settled epoch. `recorded_abnormal` stands in for the count of abnormal epochs
    where the window is not whole."""
    abnormal = _abnormal(before.window_ppm, before.whole, parameters)
    if alarms(scores, chance, parameters):
        return Outcome(replace(before, alarm=parameters["alarm_epochs"]), abnormal, ALARMED)
    if credit is None:
        return Outcome(before, abnormal, KEPT)
    size = parameters["window_epochs"]
    window = (*before.window_ppm, credit)[-size:]
    whole = before.whole or len(window) == size
    abnormal = _abnormal(window, whole, parameters)
    counted = recorded_abnormal if abnormal is None else abnormal
    punished = counted * ONE_PPM > parameters["tolerance_ppm"] * size
    if punished:
        ppm = punished_ppm(before.ppm, credit, counted, parameters)
    else:
        ppm = smoothed_ppm(before.ppm, credit, parameters)
    needed = parameters["abnormal_below_ppm" if before.admitted else "admission_ppm"]
    after = Standing(
        ppm=ppm,
        window_ppm=window,
        whole=whole,
        cusum_ppm=cusum_after(before.cusum_ppm, credit, parameters),
        admitted=before.admitted,
        trusted=before.trusted,
        streak=before.streak + 1 if credit >= needed else 0,
        alarm=_alarm_after(before.alarm, credit, parameters),
        convictions=before.convictions,
    )
    after, verdict = _judged(after, parameters)
    return Outcome(after, abnormal, PUNISHED if punished else SMOOTHED, verdict)


def convicted(
    before: Standing, parameters: Parameters | None, recorded_cusum_ppm: int = 0
) -> Standing:
    """Evidence takes the whole reputation. Without the `parameters` of its epoch CUSUM is as
    recorded, and the alarm is not known."""
    cusum, alarm = recorded_cusum_ppm, None
    if parameters is not None:
        cusum = max(before.cusum_ppm, parameters["cusum_limit_ppm"])
        alarm = parameters["alarm_epochs"]
    return replace(
        before,
        ppm=0,
        trusted=False,
        streak=0,
        cusum_ppm=cusum,
        alarm=alarm,
        convictions=before.convictions + 1,
    )


def rotated(before: Standing, parameters: Parameters | None) -> Standing:
    """Everyone judges a node under a new key for a while."""
    if before.alarm is None or parameters is None:
        return replace(before, alarm=None)
    return replace(before, alarm=max(before.alarm, parameters["alarm_epochs"]))


def with_another_model(before: Standing) -> Standing:
    """Who serves something else must pass the probes anew, from the next epoch on."""
    return replace(before, admitted=False, streak=-1)


def probation_epochs(convictions: int, parameters: Parameters) -> int:
    """How long the way back takes: twice as long with each conviction."""
    return parameters["probation_epochs"] << min(convictions, MAX_DOUBLINGS)


def smoothed_ppm(old_ppm: int, credit: int, parameters: Parameters) -> int:
    """a R + (1 - a) C."""
    weight = parameters["smoothing_ppm"]
    return _clamped((weight * old_ppm + (ONE_PPM - weight) * credit) // ONE_PPM)


def punished_ppm(old_ppm: int, credit: int, abnormal: int, parameters: Parameters) -> int:
    """a R + C (W + 1) / (W + c / gamma + 2)."""
    window, gamma = parameters["window_epochs"], parameters["tolerance_ppm"]
    scaled = (window + 2) * gamma + abnormal * ONE_PPM
    from_old = parameters["smoothing_ppm"] * old_ppm * scaled
    earned = ONE_PPM * credit * (window + 1) * gamma
    return _clamped((from_old + earned) // (ONE_PPM * scaled))


def cusum_after(cusum_ppm: int, credit: int, parameters: Parameters) -> int:
    """max(0, S + max(k - C, -d))."""
    deficit = parameters["cusum_reference_ppm"] - credit
    return max(0, cusum_ppm + max(deficit, -parameters["cusum_allowance_ppm"]))


def _alarm_after(alarm: int | None, credit: int, parameters: Parameters) -> int | None:
    if credit < alarm_below_ppm(parameters):
        return parameters["alarm_epochs"]
    return None if alarm is None else max(alarm - 1, 0)


def _at_half(ordered: Iterable[tuple[int, int]], due: int) -> int | None:
    """The score with which more than half of `due`, in millionths of power, is reached."""
    reached = 0
    for score_ppm, power in ordered:
        reached += power
        if 2 * reached * ONE_PPM > due:
            return score_ppm
    return None


def _judged(after: Standing, parameters: Parameters) -> tuple[Standing, str]:
    cusum = min(after.cusum_ppm, parameters["cusum_limit_ppm"] // 2)
    low = after.ppm < parameters["untrusted_below_ppm"]
    if after.trusted and not after.admitted:
        if low or after.streak < parameters["admission_epochs"]:
            return after, ""
        return replace(after, admitted=True, streak=0, cusum_ppm=cusum), ADMITTED
    if after.trusted:
        if low:
            return replace(after, trusted=False, streak=0), LOST_REPUTATION
        if after.cusum_ppm >= parameters["cusum_limit_ppm"]:
            return replace(after, trusted=False, streak=0), LOST_CUSUM
        return after, ""
    high = after.ppm >= parameters["trusted_from_ppm"]
    if not high or after.streak < probation_epochs(after.convictions, parameters):
        return after, ""
    back = replace(after, admitted=True, trusted=True, streak=0, cusum_ppm=cusum)
    return back, REGAINED


def _abnormal(window_ppm: Sequence[int], whole: bool, parameters: Parameters) -> int | None:
    if not whole:
        return None
    return sum(credit < parameters["abnormal_below_ppm"] for credit in window_ppm)


def _clamped(ppm: int) -> int:
    return min(max(ppm, 0), ONE_PPM)

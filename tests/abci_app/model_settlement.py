"""The rules of reputation and penalties once more, in fractions (see `tests.abci_app.model`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import floor
from typing import Any, Protocol

from planetserve.scoring import reputation

MILLION = 1_000_000


@dataclass
class Conduct:
    """A model node's record, in millionths."""

    ppm: int
    admitted: bool = False
    trusted: bool = True
    window: list[int] = field(default_factory=list)
    cusum: int = 0
    streak: int = 0
    alarm: int = 0
    last: tuple[bytes, int] | None = None
    convictions: int = 0

    @property
    def status(self) -> str:
        if not self.admitted:
            return "candidate"
        return "trusted" if self.trusted else "untrusted"

    def record(self) -> dict[str, Any]:
        return {
            "admitted": self.admitted,
            "alarm": self.alarm,
            "convictions": self.convictions,
            "cusum_ppm": self.cusum,
            "last": self.last and list(self.last),
            "ppm": self.ppm,
            "streak": self.streak,
            "trusted": self.trusted,
            "window_ppm": self.window,
        }


@dataclass
class Score:
    prober: bytes
    power: int
    ppm: int
    samples: int
    digest: bytes


class Judged(Protocol):
    power: int
    voted: int
    trust: int
    benched: int


def settled(
    before: Conduct,
    scores: Sequence[Score],
    total: int,
    chance: Fraction,
    parameters: Mapping[str, int],
) -> tuple[dict[str, Any], Conduct]:
    """The result of one node's epoch as the ledger records it, and the conduct after it."""
    ppm = {name: Fraction(value, MILLION) for name, value in parameters.items()}
    after = replace(before, window=list(before.window))
    ballots = sorted(score.ppm for score in scores for _ in range(score.power))
    quorum = ppm["quorum_ppm"] if chance == 1 else Fraction(1, 2)
    credit = agreed(ballots, total * chance, before.ppm, quorum)
    bad = max(parameters["abnormal_below_ppm"], parameters["cusum_reference_ppm"])
    # Who weighs nothing can still raise an alarm where nobody else has revealed.
    middle = median(ballots or sorted(score.ppm for score in scores)[:1])
    verdict = ""
    if chance < 1 and middle < bad:
        reason, after.alarm = reputation.ALARMED, parameters["alarm_epochs"]
    elif credit is None:
        reason = reputation.KEPT
    else:
        after.alarm = max(before.alarm - 1, 0) if credit >= bad else parameters["alarm_epochs"]
        after.window = [*after.window, credit][-parameters["window_epochs"] :]
        after.ppm, reason = smoothed(before.ppm, credit, after.window, ppm)
        step = max(
            ppm["cusum_reference_ppm"] - Fraction(credit, MILLION), -ppm["cusum_allowance_ppm"]
        )
        after.cusum = max(0, int(before.cusum + MILLION * step))
        needed = "abnormal_below_ppm" if before.admitted else "admission_ppm"
        after.streak = before.streak + 1 if credit >= parameters[needed] else 0
        verdict = judge(after, parameters)
    result = {
        "abnormal": sum(item < parameters["abnormal_below_ppm"] for item in after.window),
        "chance_ppm": int(chance * MILLION),
        "credit_ppm": credit,
        "reason": reason,
        "scores": [[s.prober, s.power, s.ppm, s.samples, s.digest] for s in scores],
        "total_power": total,
        "verdict": verdict,
    }
    return result, after


def median(ballots: Sequence[int]) -> int:
    return ballots[(len(ballots) - 1) // 2]


def agreed(ballots: Sequence[int], due: Fraction, held: int, quorum: Fraction) -> int | None:
    """The credit that `ballots`, one for each unit of power and ascending, come to, where `due`
    units were to judge a node with reputation `held`."""
    if not ballots:
        return None
    if len(ballots) >= quorum * due:
        return median(ballots)
    more_than_half = floor(due / 2) + 1
    if len(ballots) < more_than_half:
        return None
    low, high = ballots[more_than_half - 1], ballots[-more_than_half]
    if low < held:
        return low
    return high if high > held else None


def smoothed(
    old: int, credit: int, window: Sequence[int], ppm: Mapping[str, Fraction]
) -> tuple[int, str]:
    """The paper's formula with one rounding."""
    weight, gamma = ppm["smoothing_ppm"], ppm["tolerance_ppm"]
    epochs = int(ppm["window_epochs"] * MILLION)
    abnormal = sum(Fraction(item, MILLION) < ppm["abnormal_below_ppm"] for item in window)
    if Fraction(abnormal, epochs) > gamma:
        exact = weight * old + Fraction(credit * (epochs + 1)) / (epochs + abnormal / gamma + 2)
        return min(MILLION, floor(exact)), reputation.PUNISHED
    return floor(weight * old + (1 - weight) * credit), reputation.SMOOTHED


def judge(after: Conduct, parameters: Mapping[str, int]) -> str:
    """Change a node's standing where its numbers ask for it; the verdict."""
    low = after.ppm < parameters["untrusted_below_ppm"]
    limit = parameters["cusum_limit_ppm"]
    if after.trusted and after.admitted:
        if not low and after.cusum < limit:
            return ""
        after.trusted, after.streak = False, 0
        return reputation.LOST_REPUTATION if low else reputation.LOST_CUSUM
    if after.trusted:
        ready = after.streak >= parameters["admission_epochs"] and not low
        verdict = reputation.ADMITTED
    else:
        high = after.ppm >= parameters["trusted_from_ppm"]
        ready = after.streak >= parameters["probation_epochs"] * 2**after.convictions and high
        verdict = reputation.REGAINED
    if not ready:
        return ""
    after.trusted, after.admitted, after.streak = True, True, 0
    after.cusum = min(after.cusum, limit // 2)
    return verdict


def held_against(
    before: Conduct, scores: Sequence[Score], credit: int | None, distance: int
) -> list[tuple[bytes, bool]]:
    """Each prober that scored a node which counts, and whether its score lies far from C."""
    if credit is None or not before.admitted or not before.trusted:
        return []
    found = [(score.prober, abs(score.ppm - credit) > distance) for score in scores]
    power = {score.prober: score.power for score in scores}
    near = sum(power[prober] for prober, far in found if not far)
    return found if near >= Fraction(2, 3) * sum(power.values()) else []


def conducted(
    verifier: Judged, withheld: bool, far: bool, epoch: int, ppm: Mapping[str, int], room: int
) -> int:
    """Change a prober's record after an epoch in which it committed; how much power moved, of
    the `room` for it."""
    if not withheld and not far:
        verifier.trust = min(MILLION, verifier.trust + ppm["trust_gain_ppm"])
        lost = verifier.voted - verifier.power
        if verifier.trust < MILLION or not 0 < lost <= room:
            return 0
        verifier.power = verifier.voted
        return lost
    verifier.trust = max(0, verifier.trust - ppm["trust_loss_ppm"])
    if not withheld:
        if not verifier.trust:
            verifier.trust, verifier.benched = MILLION // 2, epoch + 8
        return 0
    verifier.benched = epoch + 1
    loss = verifier.power - max(1, verifier.voted // 2)
    if verifier.trust or not 0 < loss <= room:
        return 0
    verifier.power, verifier.trust = verifier.power - loss, MILLION // 2
    return loss

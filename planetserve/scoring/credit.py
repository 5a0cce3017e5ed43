"""What the probers' scores of a node come to: the credit C of its epoch.

It is the power-weighted median of the revealed scores, when the probers that revealed hold the
quorum of the power that was to judge the node: with less than a third of all power lying, the
median lies among honest scores. With less than the quorum, it takes more than half of all that
power on one side of R to move R; otherwise liars who stay silent could keep a cheat in trust
wherever an honest prober is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planetserve.fixedpoint import ONE_PPM
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import alarm_below_ppm

SAMPLE_QUORUM_PPM = ONE_PPM // 2


@dataclass(frozen=True, slots=True)
class Score:
    """One prober's reveal, with the power that weighs it; `digest` is that of its transcripts."""

    prober: bytes
    power: int
    score_ppm: int
    samples: int
    digest: bytes


def weighted_median(scores: Iterable[tuple[int, int]]) -> int:
    """The lowest score at which half of the weight is reached, of (score, weight) pairs."""
    ordered = sorted(scores)
    half = sum(weight for _, weight in ordered)
    reached = 0
    for score, weight in ordered:
        reached += weight
        if 2 * reached >= half:
            return score
    raise ValueError("a median needs at least one score")


def median_of(scores: Iterable[Score]) -> int:
    """Of scores as they are weighed. Raises `ValueError` where there is none."""
    return weighted_median((score.score_ppm, score.power) for score in scores)


def quorum_ppm(chance_ppm: int, parameters: Parameters) -> int:
    """Which part of the power that was to judge must reveal. A sample is held to its expected
    size, of which half is enough: the draw varies, and a sample can only speak for a node."""
    return parameters.quorum_ppm if chance_ppm == ONE_PPM else SAMPLE_QUORUM_PPM


def reaches_quorum(
    scores: Iterable[Score], total_power: int, chance_ppm: int, parameters: Parameters
) -> bool:
    """Whether the quorum of the power that was to judge has revealed; no power never has."""
    revealed = sum(score.power for score in scores)
    needed = quorum_ppm(chance_ppm, parameters) * total_power * chance_ppm
    return revealed > 0 and revealed * ONE_PPM * ONE_PPM >= needed


def agreed_credit(
    scores: Sequence[Score],
    total_power: int,
    chance_ppm: int,
    held_ppm: int,
    parameters: Parameters,
) -> int | None:
    """The credit of a node whose reputation is `held_ppm`, None when its scores decide nothing.

    With the quorum of the power that was to judge it is their median. Without, it is what the
    median would be if all of the missing spoke for `held_ppm`, or None where they would decide.
    """
    if reaches_quorum(scores, total_power, chance_ppm, parameters):
        return median_of(scores)
    due = total_power * chance_ppm
    ordered = sorted((score.score_ppm, score.power) for score in scores)
    highest = _at_half(ordered, due)
    if highest is not None and highest < held_ppm:
        return highest
    lowest = _at_half(ordered[::-1], due)
    return lowest if lowest is not None and lowest > held_ppm else None


def is_alarming(scores: Sequence[Score], parameters: Parameters) -> bool:
    """Whether the median of a sample calls for everyone's judgement. However small the sample:
    an alarm costs a good node nothing."""
    return bool(scores) and median_of(scores) < alarm_below_ppm(parameters)


def _at_half(ordered: Iterable[tuple[int, int]], due: int) -> int | None:
    """The score with which more than half of `due`, in millionths of power, is reached."""
    reached = 0
    for score, power in ordered:
        reached += power
        if 2 * reached * ONE_PPM > due:
            return score
    return None

"""One node's epoch: who was to judge it, what they agreed on, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planetserve.fixedpoint import ONE_PPM
from planetserve.scoring.credit import Score, agreed_credit, is_alarming
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation, Update, alarmed, kept, updated


@dataclass(frozen=True, slots=True)
class Judgement:
    """`chance_ppm` is the share of the probers that was to judge the node; `credit_ppm` is None
    where their scores decide nothing."""

    chance_ppm: int
    credit_ppm: int | None
    update: Update


def chance_ppm(reputation: Reputation, full_below_ppm: int, sample_ppm: int) -> int:
    """A node's chance of being assigned to any one prober.

    Everyone judges a node that is not admitted, not trusted, of low reputation, or for which a
    sample has raised the alarm: what is at stake then must not hang on who was drawn.
    """
    sampled = (
        reputation.admitted
        and reputation.trusted
        and not reputation.alarm
        and reputation.ppm >= full_below_ppm
    )
    return sample_ppm if sampled else ONE_PPM


def judge_epoch(
    before: Reputation,
    scores: Sequence[Score],
    total_power: int,
    sample_ppm: int,
    parameters: Parameters,
) -> Judgement:
    """Settle an epoch of a node that went into it with `before`.

    `scores` are what was revealed of it, of `total_power` in all; `sample_ppm` is the share of
    the probers that judges a node in good standing. The reputation after it names no `last`
    result yet but the one before.
    """
    chance = chance_ppm(before, parameters.full_below_ppm, sample_ppm)
    credit = agreed_credit(scores, total_power, chance, before.ppm, parameters)
    if chance < ONE_PPM and is_alarming(scores, parameters):
        update = alarmed(before, parameters)
    elif credit is None:
        update = kept(before, parameters)
    else:
        update = updated(before, credit, parameters)
    return Judgement(chance, credit, update)

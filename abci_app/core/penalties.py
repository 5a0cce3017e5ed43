"""What becomes of a prober that leaves commitments unopened or scores far from the others.

Both cost trust, and a clean epoch earns a little back. With the last of its trust

- one that left commitments unopened loses half of the power that it was voted, and sits out the
  epoch after each such fault. Full trust gives the power back.
- one that scored far from the others sits out for a while. It loses no power: distance is no
  proof. Who runs enough nodes can answer honest probers badly now and then, and if that took
  their power away, less than a third of all power could become more than two thirds.

For the same reason distance is a fault only when more than half of an epoch's compared scores are
far off, among at least `MIN_COMPARED` nodes that all were in good standing, judged by everyone
and found alike by most (`abci_app.core.settlement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from abci_app.core.quotas import Quota
from abci_app.core.verifiers import Verifier
from planetserve.fixedpoint import ONE_PPM, clamp_ppm
from planetserve.scoring.parameters import Parameters

MIN_COMPARED = 3
TRUST_AFTER_PENALTY_PPM = ONE_PPM // 2
BENCHED_EPOCHS = 8
MAX_CUT_SHARE = 10
"""In one epoch no more than a tenth of all power moves this way, beyond the first prober:
CometBFT's light clients follow changes of less than a third."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """A prober's epoch: how many commitments it made and opened, how many of its scores were
    `compared` with a median, and how many of those were `far` from it."""

    commits: int
    reveals: int
    compared: int = 0
    far: int = 0

    @property
    def withheld(self) -> bool:
        return self.reveals < self.commits

    @property
    def far_off(self) -> bool:
        return self.compared >= MIN_COMPARED and 2 * self.far > self.compared

    def to_wire(self, prober: bytes) -> dict[str, int | bytes]:
        return {
            "commits": self.commits,
            "compared": self.compared,
            "far": self.far,
            "id": prober,
            "reveals": self.reveals,
        }


def conduct_of(quota: Quota, compared: int, far: int) -> Conduct:
    return Conduct(quota.commits, quota.reveals, compared, far)


def penalised(
    verifiers: list[Verifier],
    conducts: Mapping[bytes, Conduct],
    epoch: int,
    parameters: Parameters,
    *,
    may_move_power: bool = True,
) -> list[Verifier]:
    """The verifiers whose record changes with the epoch, in the given order. Power moves in
    another epoch when a vote has moved some with this block."""
    room = _Room(sum(verifier.power for verifier in verifiers), may_move_power)
    changed = []
    for verifier in verifiers:
        conduct = conducts.get(verifier.id)
        if conduct is None or not conduct.commits:
            continue
        after = _after(verifier, conduct, epoch, parameters, room)
        if after != verifier:
            changed.append(after)
    return changed


class _Room:
    """How much power may still move in this epoch."""

    def __init__(self, total: int, may_move: bool) -> None:
        self._total, self._may_move, self._moved = total, may_move, 0

    def take(self, amount: int) -> bool:
        fits = self._moved == 0 or (self._moved + amount) * MAX_CUT_SHARE <= self._total
        if not self._may_move or not fits:
            return False
        self._moved += amount
        return True


def _after(
    verifier: Verifier, conduct: Conduct, epoch: int, parameters: Parameters, room: _Room
) -> Verifier:
    if not conduct.withheld and not conduct.far_off:
        trust = clamp_ppm(verifier.trust_ppm + parameters.trust_gain_ppm)
        lost = verifier.voted_power - verifier.power
        if trust == ONE_PPM and lost > 0 and room.take(lost):
            return replace(verifier, trust_ppm=trust, power=verifier.voted_power)
        return replace(verifier, trust_ppm=trust)
    trust = clamp_ppm(verifier.trust_ppm - parameters.trust_loss_ppm)
    if not conduct.withheld:
        if trust:
            return replace(verifier, trust_ppm=trust)
        return replace(verifier, trust_ppm=TRUST_AFTER_PENALTY_PPM, benched=epoch + BENCHED_EPOCHS)
    benched = replace(verifier, trust_ppm=trust, benched=epoch + 1)
    half = max(1, verifier.voted_power // 2)
    if trust == 0 and verifier.power > half and room.take(verifier.power - half):
        return replace(benched, power=half, trust_ppm=TRUST_AFTER_PENALTY_PPM)
    return benched

"""What becomes of a prober that leaves commitments unopened or scores far from the others.

A fault costs trust, a clean epoch earns a little back; with the last of its trust a prober loses
half of its power. One that left a commitment unopened also sits out the next epoch: its VRF
output is missing from that epoch's seed, and a seed bent by leaving it out must not serve it.

Distance is a fault only when more than half of an epoch's scores are far off: a single node can
answer one prober badly on purpose, to make it look like a liar, but not all nodes can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from abci_app.core.fixedpoint import ONE_PPM, clamp_ppm
from abci_app.core.parameters import Parameters
from abci_app.core.quotas import Quota
from abci_app.core.verifiers import Verifier

TRUST_AFTER_CUT_PPM = ONE_PPM // 2
MAX_CUT_SHARE = 10
"""In one epoch no more than a tenth of all power is cut, beyond the first prober: CometBFT's
light clients follow changes of less than a third."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """A prober's epoch: how many commitments it made and opened, how many of its scores were
    `compared` with a median, and how many of those were `far` from it."""

    commits: int
    reveals: int
    compared: int = 0
    far: int = 0

    @property
    def withheld(self) -> int:
        return self.commits - self.reveals

    @property
    def faulty(self) -> bool:
        return self.withheld > 0 or 2 * self.far > self.compared

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
    verifiers: list[Verifier], conducts: Mapping[bytes, Conduct], epoch: int, parameters: Parameters
) -> list[Verifier]:
    """The verifiers whose record changes with the epoch, in the given order."""
    total = sum(verifier.power for verifier in verifiers)
    changed, cut = [], 0
    for verifier in verifiers:
        conduct = conducts.get(verifier.id)
        if conduct is None or not conduct.commits:
            continue
        if conduct.faulty:
            trust = clamp_ppm(verifier.trust_ppm - parameters.trust_loss_ppm)
            loss = verifier.power - max(1, verifier.power // 2)
            may_cut = cut == 0 or (cut + loss) * MAX_CUT_SHARE <= total
            after = replace(verifier, trust_ppm=trust)
            if trust == 0 and may_cut:
                cut += loss
                after = replace(after, trust_ppm=TRUST_AFTER_CUT_PPM, power=verifier.power - loss)
            if conduct.withheld:
                after = replace(after, benched=epoch + 1)
        else:
            trust = clamp_ppm(verifier.trust_ppm + parameters.trust_gain_ppm)
            after = replace(verifier, trust_ppm=trust)
        if after != verifier:
            changed.append(after)
    return changed

"""What liars gain by withholding their VRF outputs to bend the seeds of coming epochs.

A prober's output for a seed is a hash of both, which nobody but the liars can compute for theirs.
In each epoch they look as far ahead as their own outputs let them, and show or withhold an output
so that in the coming epochs as many of them as possible are drawn for one node. They pay nothing
for it: who shows no output by making no commitment at all is not benched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from planetserve.assignment import contributor_of, is_assigned, next_seed, sample_ppm


@dataclass(frozen=True, slots=True)
class Bias:
    """Of all epochs, the mean share of the liars drawn for the node, as a multiple of what it is
    without choosing, and the share of epochs in which most of the node's sample are liars."""

    growth: float
    captured: float


class SeedGame:
    """Verifiers of equal power unless `powers` says otherwise; the first `liars` of them lie."""

    def __init__(
        self,
        seed: int,
        powers: Sequence[int],
        liars: int,
        *,
        probers_per_node: int = 8,
        ahead: int = 3,
    ) -> None:
        random = Random(seed)
        self.seed = random.randbytes(32)
        self.node = random.randbytes(20)
        keys = [random.randbytes(20) for _ in powers]
        self.powers = sorted(zip(keys, powers, strict=True))
        self.liars = set(keys[:liars])
        self.chance = sample_ppm(probers_per_node, len(powers))
        self.ahead = ahead
        self.expected = liars * self.chance / 1_000_000

    def play(self, epochs: int, *, choosing: bool = True) -> Bias:
        drawn = captured = 0
        for _ in range(epochs):
            known = self._own_seeds(self.seed) if choosing else {}
            everyone = {prober for prober, _ in self.powers}
            left_to_honest = next_seed(self.seed, self._output_of_honest(choosing, everyone))
            best = max(known, key=lambda seed: self._value(seed, self.ahead), default=None)
            if best is not None and self._value(best, self.ahead) >= self.ahead * self.expected:
                self.seed = best
            else:
                self.seed = left_to_honest
            mine = self._drawn(self.seed, self.liars)
            others = self._drawn(self.seed, everyone - self.liars)
            drawn += mine
            captured += mine >= max(others, 1)
        return Bias(drawn / epochs / self.expected, captured / epochs)

    def _output_of_honest(self, choosing: bool, everyone: set[bytes]) -> bytes:
        revealed = everyone - self.liars if choosing else everyone
        contributor = contributor_of(self.seed, self.powers, revealed)
        assert contributor is not None
        return output_of(contributor, self.seed)

    def _own_seeds(self, seed: bytes) -> Mapping[bytes, bytes]:
        """The seeds that the liars can bring about, by the liar that shows its output. Those
        drawn before it withhold theirs."""
        seeds: dict[bytes, bytes] = {}
        silent: set[bytes] = set()
        everyone = {prober for prober, _ in self.powers}
        while True:
            contributor = contributor_of(seed, self.powers, everyone - silent)
            if contributor is None or contributor not in self.liars:
                return seeds
            seeds[next_seed(seed, output_of(contributor, seed))] = contributor
            silent.add(contributor)

    def _value(self, seed: bytes, ahead: int) -> float:
        """How many of the liars are drawn in the `ahead` epochs from one with `seed` on."""
        mine = float(self._drawn(seed, self.liars))
        if ahead == 1:
            return mine
        rest = [self._value(later, ahead - 1) for later in self._own_seeds(seed)]
        return mine + max([*rest, (ahead - 1) * self.expected])

    def _drawn(self, seed: bytes, probers: set[bytes]) -> int:
        return sum(is_assigned(output_of(each, seed), self.node, self.chance) for each in probers)


def output_of(prober: bytes, seed: bytes) -> bytes:
    return hashlib.sha512(prober + seed).digest()

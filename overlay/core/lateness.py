"""How late a dummy's first token comes: as late as a question's would, and never as one did.

Kept is the time from acceptance to first token of the last question that each of the last
neighbours brought and the engine answered: whoever asks much says no more than others of how long
it takes. To draw one of these again would be to repeat it, and who remembers what it saw would know
a dummy by that; a draw between two that are next to each other is still too near them. A draw is
therefore one of the n kept, moved up or down by as much as lies between it and the sqrt(n)-th
nearest other, at most. So draws are close together where questions are and far apart where they
are, in one group or several, and as wide in all: a bell of one width laid over each would be wider
than they are, and fill what is empty between groups. Small moves are rare (a move of half the most
is half as likely as the most), so that beside a delay that was seen are no more draws than the
others around it bring, which is as many as there are questions. Who knows all that is kept tells
one dummy of sixty by it, or two, where it guesses anyhow at the others: it is right in 52 to 54 of
a hundred cases. All of this is of logarithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

from overlay.core.effects import Entropy, Neighbour

FIRST_S = 0.25
"""Before any question had a first token, in the median."""
SPREAD = 0.5
"""Of the logarithm, around the one delay that is known."""
KEPT = 64
MIN_S = 1e-4


@dataclass(slots=True)
class Lateness:
    _delays_s: dict[Neighbour, float] = field(default_factory=dict)

    def seen(self, neighbour: Neighbour, delay_s: float) -> None:
        """A question that `neighbour` brought had its first token so long after its acceptance."""
        self._delays_s.pop(neighbour, None)
        self._delays_s[neighbour] = delay_s
        if len(self._delays_s) > KEPT:
            del self._delays_s[next(iter(self._delays_s))]

    def draw_s(self, entropy: Entropy) -> float:
        """For a dummy."""
        known = [math.log(max(delay_s, MIN_S)) for delay_s in self._delays_s.values()]
        part = (int.from_bytes(entropy(6), "big") + 0.5) / (1 << 48)
        if len(known) < 2:
            middle = known[0] if known else math.log(FIRST_S)
            return math.exp(middle + SPREAD * NormalDist().inv_cdf(0.01 + 0.98 * part))
        chosen = known[int.from_bytes(entropy(6), "big") % len(known)]
        distances = sorted(abs(other - chosen) for other in known)  # its own is the first
        most = distances[math.isqrt(len(known))]
        return math.exp(chosen + math.copysign(math.sqrt(abs(2 * part - 1)), part - 0.5) * most)

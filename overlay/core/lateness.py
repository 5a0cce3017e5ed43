"""How late a dummy's first token comes: as late as a question's would, and never as one did.

Kept is the time from acceptance to first token of the last question that each of the last
neighbours brought and the engine answered: whoever asks much says no more than others of how long
it takes. To draw one of these again would be to repeat it, and who remembers what it saw would know
a dummy by that. A further question, of the same kind as n others, is as likely to come between any
two of them that are next to each other, or before or after all: one chance in n + 1 each. So does a
draw. It is therefore spread as wide as they are, close together where they are and far apart where
they are, in one group or several; a bell laid over each of them would be wider than they are, and
fill what is empty between groups. Within a gap all logarithms are alike likely. Beyond the ends,
where one draw in thirty comes of sixty that are kept, they fall off as fast as the outer quarter
does.
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
LONGEST_TAIL = 0.95
"""Of what lies beyond the ends, the rest is left out."""


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
        part = (int.from_bytes(entropy(6), "big") + 0.5) / (1 << 48)
        known = sorted(math.log(max(delay_s, MIN_S)) for delay_s in self._delays_s.values())
        if len(known) < 2:
            middle = known[0] if known else math.log(FIRST_S)
            return math.exp(middle + SPREAD * NormalDist().inv_cdf(0.01 + 0.98 * part))
        gap, within = divmod(part * (len(known) + 1), 1.0)
        at = int(gap)
        if 0 < at < len(known):
            return math.exp(known[at - 1] + within * (known[at] - known[at - 1]))
        beyond = -math.log(1.0 - LONGEST_TAIL * within)
        if at == 0:
            return math.exp(known[0] - beyond * _tail([-value for value in reversed(known)]))
        return math.exp(known[-1] + beyond * _tail(known))


def _tail(ascending: list[float]) -> float:
    """The mean excess over the last, if the outer quarter is the end of an exponential: its gaps
    are then 1, 1/2, 1/3, ... of that on average, from the last one inwards (Renyi 1953)."""
    count = max(1, len(ascending) // 4)
    return (ascending[-1] - ascending[-1 - count]) / sum(1 / rank for rank in range(1, count + 1))

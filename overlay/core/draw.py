"""Random choices as arguments: what the cores draw, and from what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Draw: TypeAlias = Callable[[int], int]
"""`draw(n)` is uniform in 0..n-1; the shell gives `secrets.randbelow`, tests a seeded one."""

STEPS = 1 << 48


def shuffled(count: int, draw: Draw) -> tuple[int, ...]:
    """0..count-1 in an order of which each is as likely (Fisher and Yates)."""
    order = list(range(count))
    for place in range(count - 1, 0, -1):
        other = draw(place + 1)
        order[place], order[other] = order[other], order[place]
    return tuple(order)


def between(low: float, high: float, draw: Draw) -> float:
    """Uniform in `low` <= x < `high`."""
    return low + (high - low) * (draw(STEPS) / STEPS)


def exponential(mean: float, draw: Draw) -> float:
    """The gap to the next event of a Poisson process whose events are `mean` apart on average."""
    return -mean * math.log((draw(STEPS) + 1) / STEPS)

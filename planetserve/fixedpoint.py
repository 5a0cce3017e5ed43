"""Millionths: the ledger's only fractions. A formula rounds once, down, in its last step."""

from __future__ import annotations

ONE_PPM = 1_000_000


def floor_ratio(numerator: int, denominator: int) -> int:
    """The largest integer at most numerator / denominator; the denominator must be positive."""
    if denominator <= 0:
        raise ValueError("the denominator of a ratio must be positive")
    return numerator // denominator


def clamp_ppm(value: int) -> int:
    """`value` within 0 to 1_000_000."""
    return min(max(value, 0), ONE_PPM)

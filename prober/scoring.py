"""From replies to the credit C of a node, in whole millionths.

A reply is compared with the reference engine's own reply to the same challenge: the cosine of
their embeddings, times a factor for a length far off. The cosine of two unrelated replies in the
same register is well above 0 and that of two honest ones below 1 (other threads and batches round
differently), so a straight line between two measured points maps it to 0 ... 1.
"""

from __future__ import annotations

from collections.abc import Sequence

SCALE_PPM = 1_000_000

LOW_SIMILARITY_PPM = 350_000
"""At or below this a reply earns nothing."""

HIGH_SIMILARITY_PPM = 900_000
"""At or above this a reply earns everything."""

FULL_LENGTH_RATIO_PPM = 500_000
"""The shorter of reply and reference, over the longer: below this the credit shrinks with it."""


def to_ppm(value: float) -> int:
    """A number to its nearest millionth: the one place where a float becomes an integer."""
    return round(value * SCALE_PPM)


def similarity_credit_ppm(similarity_ppm: int) -> int:
    """0 up to `LOW_SIMILARITY_PPM`, 1,000,000 from `HIGH_SIMILARITY_PPM`, a line between."""
    above = similarity_ppm - LOW_SIMILARITY_PPM
    width = HIGH_SIMILARITY_PPM - LOW_SIMILARITY_PPM
    return min(max(above, 0), width) * SCALE_PPM // width


def length_factor_ppm(reply_characters: int, reference_characters: int) -> int:
    """1,000,000 while the lengths are within a factor of two, then less; two empty texts agree."""
    longer = max(reply_characters, reference_characters)
    if not longer:
        return SCALE_PPM
    ratio_ppm = min(reply_characters, reference_characters) * SCALE_PPM // longer
    return min(ratio_ppm * SCALE_PPM // FULL_LENGTH_RATIO_PPM, SCALE_PPM)


def reply_credit_ppm(similarity_ppm: int, reply: str, reference: str) -> int:
    """The credit of one reply."""
    factor = length_factor_ppm(len(reply.strip()), len(reference.strip()))
    return similarity_credit_ppm(similarity_ppm) * factor // SCALE_PPM


def node_credit_ppm(reply_credits_ppm: Sequence[int]) -> int:
    """C of a node: the mean, rounded down, over its replies; a request that got no reply counts
    with 0. Raises `ValueError` without any."""
    if not reply_credits_ppm:
        raise ValueError("a credit needs at least one reply")
    return sum(reply_credits_ppm) // len(reply_credits_ppm)

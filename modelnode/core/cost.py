"""What it would cost, in milliseconds, to have a node serve a request.

    cost = RTT + wait for a slot + queued prefill + 1.5 x uncached prefill + decode + surprise

All but the RTT and the last come from the node's own measured speeds. What is computed again counts
half as much again: meanwhile the engine serves nobody else, and it pushes out what others will ask
for (of the weights 1, 1.25, 1.5, 2 and 3, those in the middle were the best at each load in a
simulation of eight engines). `surprise` is what a node's answers have lately taken beyond what its
words promised, so that one that understates its load gains nothing by it. How much of a prompt is
cached is what the HR-tree says, times how often such claims of the node came true
(`modelnode.core.claims`).
"""

from __future__ import annotations

from typing import NamedTuple

from modelnode.core.load import Member

DEFAULT_PREFILL_US = 200
DEFAULT_DECODE_US = 10_000
"""Of a token, for a node that has measured nothing yet."""
PREFILL_WEIGHT = 1.5
REPLY_TOKENS = 64
"""What a reply is taken to have where the request allows more: few use all they may."""


class Cost(NamedTuple):
    """The terms of one node's cost, in milliseconds, and the prompt tokens it would compute."""

    rtt_ms: float
    slot_ms: float
    queued_ms: float
    prefill_ms: float
    decode_ms: float
    surprise_ms: float
    uncached_tokens: int

    @property
    def first_token_ms(self) -> float:
        """When the reply would begin, if all that was said is so."""
        return self.rtt_ms + self.slot_ms + self.queued_ms + self.prefill_ms

    @property
    def total_ms(self) -> float:
        return (
            self.rtt_ms
            + self.slot_ms
            + self.queued_ms
            + PREFILL_WEIGHT * self.prefill_ms
            + self.decode_ms
            + self.surprise_ms
        )


def cost_of(
    member: Member,
    prompt_tokens: int,
    cached_tokens: int,
    max_tokens: int,
    now_s: float,
    surprise_ms: float = 0.0,
) -> Cost:
    """The cost at `member` of a prompt of which it holds `cached_tokens`."""
    report = member.report
    prefill_us = (report.prefill_us if report else 0) or DEFAULT_PREFILL_US
    decode_us = (report.decode_us if report else 0) or DEFAULT_DECODE_US
    uncached_tokens = max(prompt_tokens - cached_tokens, 1)
    return Cost(
        rtt_ms=member.rtt_ms,
        slot_ms=_slot_ms(member),
        queued_ms=member.queued_ms(now_s),
        prefill_ms=uncached_tokens * prefill_us / 1_000,
        decode_ms=min(max_tokens, REPLY_TOKENS) * decode_us / 1_000 * (1 + _fullness(member)),
        surprise_ms=surprise_ms,
        uncached_tokens=uncached_tokens,
    )


def _fullness(member: Member) -> float:
    """The share of the slots that are taken. Replies that are decoded together slow each other:
    with all slots taken each is counted to take twice as long."""
    report = member.report
    if report is None or not report.capacity:
        return 0.0
    return min(member.running() / report.capacity, 1.0)


def _slot_ms(member: Member) -> float:
    """How long until one of the slots is free, when all are taken: each frees once a `hold_ms`."""
    report = member.report
    if report is None or not report.capacity:
        return 0.0
    ahead = member.running() - report.capacity + 1
    return max(ahead, 0) * report.hold_ms / report.capacity

"""Why a client has too few paths, concluded from what relays report and which do not answer.

A relay may lie, so a fault of ours is believed only when relays of two operators report it. What
is concluded is told to the user and changes nothing else: no clock is set, no relay left.

cause      is concluded when, within the last minute
─────────  ────────────────────────────────────────────────────────────────────────────
clock      two operators' relays are in one period, two or more away from ours
routes     two operators' relays have newer route sets, which lack a hop of ours
key        a relay does not open what was sealed to its key in the ledger
full       relays refuse paths, or set puzzles
down       relays cannot be reached, or do not answer in time

The first that applies is told. An undeclared operator is one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from overlay.core.reasons import Reason, Report
from overlay.core.setup import PERIOD_S
from planetserve.records import NodeRecord

RECENT_S = 60.0
KEPT = 64
VOICES = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """`author` reported about `about`, which may be itself, why a path is over; `period` is what
    the path's set-up said."""

    at_s: float
    author: NodeRecord
    about: NodeRecord
    report: Report
    period: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`silent` are relays that could not be reached or did not answer in time, and when."""

    refusals: tuple[Refusal, ...] = ()
    silent: tuple[tuple[float, NodeRecord], ...] = ()


@dataclass(frozen=True, slots=True)
class RouteView:
    """Which route set the client goes by."""

    height: int
    hash: bytes


def reported(diagnosis: Diagnosis, refusal: Refusal) -> Diagnosis:
    return replace(diagnosis, refusals=(*diagnosis.refusals, refusal)[-KEPT:])


def unanswered(diagnosis: Diagnosis, relay: NodeRecord, now_s: float) -> Diagnosis:
    return replace(diagnosis, silent=(*diagnosis.silent, (now_s, relay))[-KEPT:])


def cause(diagnosis: Diagnosis, view: RouteView, now_s: float) -> str:
    """A sentence that says what is wrong and what to do; empty when nothing was noticed."""
    recent = [item for item in diagnosis.refusals if now_s - item.at_s <= RECENT_S]
    for find in (_clock, _routes(view), _keys, _full):
        found = find(recent)
        if found:
            return found
    down = {relay.id for at_s, relay in diagnosis.silent if now_s - at_s <= RECENT_S}
    if down:
        relays = "one relay does" if len(down) == 1 else f"{len(down)} relays do"
        return f"{relays} not answer; try again in a minute, or see `ps-ledger nodes`"
    return ""


def clock_behind_s(refusals: Iterable[Refusal]) -> int:
    """By how much our clock is behind those of relays that agree; below zero if it is ahead."""
    gaps = [
        (_number(item.report.detail) - item.period, item.author)
        for item in refusals
        if item.report.reason == Reason.PERIOD
    ]
    for gap, _ in reversed(gaps):
        like = [author for other, author in gaps if abs(other - gap) <= 1]
        if abs(gap) > 1 and _agree(like):
            return gap * PERIOD_S
    return 0


def _clock(refusals: list[Refusal]) -> str:
    behind_s = clock_behind_s(refusals)
    if not behind_s:
        return ""
    way = "behind" if behind_s > 0 else "ahead of"
    return (
        f"this machine's clock is about {abs(behind_s) // 60} minutes {way} the relays'; set it "
        "to the right time"
    )


def _routes(view: RouteView) -> Callable[[list[Refusal]], str]:
    def find(refusals: list[Refusal]) -> str:
        others = [
            item
            for item in refusals
            if item.report.reason == Reason.UNKNOWN_NEXT and item.report.detail[8:] != view.hash[:8]
        ]
        newer = [item for item in others if _number(item.report.detail[:8]) > view.height]
        if not _agree([item.author for item in newer]):
            return ""
        theirs = max(_number(item.report.detail[:8]) for item in newer)
        return (
            f"the route set is older than the relays' (height {view.height}, theirs {theirs}): the "
            "RPC servers of the network file may be behind, or withhold blocks"
        )

    return find


def _keys(refusals: list[Refusal]) -> str:
    names = sorted({r.about.name for r in refusals if r.report.reason == Reason.NOT_OPENED})
    if not names:
        return ""
    return (
        f"{', '.join(names)} does not hold the onion key that the ledger lists: paths keep away "
        "as far as they can, its operator has to announce the key that it runs with"
    )


def _full(refusals: list[Refusal]) -> str:
    if any(item.report.reason in (Reason.QUOTA, Reason.PUZZLE) for item in refusals):
        return "relays have no room for more paths; try again in a minute"
    return ""


def _agree(authors: Iterable[NodeRecord]) -> bool:
    return len({author.operator or author.id for author in authors}) >= VOICES


def _number(detail: bytes) -> int:
    return int.from_bytes(detail, "big")

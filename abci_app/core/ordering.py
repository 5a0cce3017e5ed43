"""The order of a proposal's transactions: who is served first when a block is short.

Verifiers come before everyone else, and what they owe the epoch (commitments in its commit
window, reveals in its reveal window) before what else they send; then keys with an account, then
keys that nobody knows. Within a rank the order of arrival stays. A key's transactions keep the
order of their nonces, so one never overtakes another that it depends on: it waits at the rank of
the last it stands behind, which makes a key's backlog its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from abci_app.core.context import Window
from planetserve.transactions import COMMIT, REVEAL


class Rank(IntEnum):
    DUE = 0
    VERIFIER = 1
    KNOWN = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction as the order sees it."""

    sender: bytes
    nonce: int
    rank: Rank


def rank_of(kind: str, window: Window, height: int, *, is_verifier: bool, is_known: bool) -> Rank:
    """The rank of a transaction of `kind` in block `height`."""
    if not is_verifier:
        return Rank.KNOWN if is_known else Rank.UNKNOWN
    due = COMMIT if height < window.commit_end else REVEAL if height < window.reveal_end else None
    return Rank.DUE if kind == due else Rank.VERIFIER


def order(waiting: Sequence[Waiting]) -> list[int]:
    """The positions of `waiting` in the order of a block. Ordering twice changes nothing."""
    by_sender: dict[bytes, list[int]] = {}
    for position, item in enumerate(waiting):
        by_sender.setdefault(item.sender, []).append(position)
    # Where a key's transactions stood, they stand again, but in the order of their nonces.
    standing = list(range(len(waiting)))
    ranks = [item.rank for item in waiting]
    for places in by_sender.values():
        behind = Rank.DUE
        for place, position in zip(
            places, sorted(places, key=lambda position: waiting[position].nonce), strict=True
        ):
            standing[place] = position
            behind = max(behind, waiting[position].rank)
            ranks[place] = behind
    return [standing[place] for place in sorted(range(len(waiting)), key=ranks.__getitem__)]


def is_ordered(waiting: Sequence[Waiting]) -> bool:
    """Whether `order` would leave everything where it is."""
    return order(waiting) == list(range(len(waiting)))

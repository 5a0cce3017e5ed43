"""The order of a proposal's transactions: who is served first when a block is short.

What verifiers owe the epoch comes first: commitments in its commit window, reveals in its reveal
window. Then comes what else verifiers send and what keys send that somebody endorses, then all
other keys, which anyone can make. Within a rank keys take turns, one transaction each, in the
order of arrival: a key's backlog is its own affair. A key's transactions keep the order of their
nonces, so one never overtakes another that it depends on: it waits at the rank of the last it
stands behind.

A key's turns follow from its own transactions alone. So to leave out what follows one of a key's
transactions, that one included, leaves all others in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from abci_app.core.context import Window
from planetserve.transactions import COMMIT, REVEAL


class Standing(IntEnum):
    """Of a key: a verifier's, one that somebody endorses, or any other."""

    VERIFIER = 0
    KNOWN = 1
    UNKNOWN = 2


class Rank(IntEnum):
    DUE = 0
    KNOWN = 1
    UNKNOWN = 2


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction as the order sees it."""

    sender: bytes
    nonce: int
    rank: Rank


def due_kind(window: Window, height: int) -> str | None:
    """The kind of transaction that verifiers owe the epoch in block `height`."""
    return COMMIT if height < window.commit_end else REVEAL if height < window.reveal_end else None


def rank_of(kind: str, window: Window, height: int, standing: Standing) -> Rank:
    """The rank of a transaction of `kind` in block `height`."""
    if standing is Standing.UNKNOWN:
        return Rank.UNKNOWN
    if standing is Standing.VERIFIER and kind == due_kind(window, height):
        return Rank.DUE
    return Rank.KNOWN


def order(waiting: Sequence[Waiting]) -> list[int]:
    """The positions of `waiting` in the order of a block. Ordering twice changes nothing."""
    by_sender: dict[bytes, list[int]] = {}
    for position, item in enumerate(waiting):
        by_sender.setdefault(item.sender, []).append(position)
    turns: list[tuple[Rank, int]] = [(Rank.DUE, 0)] * len(waiting)
    for positions in by_sender.values():
        positions.sort(key=lambda position: waiting[position].nonce)
        behind, turn = Rank.DUE, 0
        for position in positions:
            rank = waiting[position].rank
            if rank > behind:
                behind, turn = rank, 0
            turns[position] = behind, turn
            turn += 1
    return sorted(range(len(waiting)), key=turns.__getitem__)


def is_ordered(waiting: Sequence[Waiting]) -> bool:
    """Whether `order` would leave everything where it is."""
    return order(waiting) == list(range(len(waiting)))

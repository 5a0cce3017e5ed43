"""What a proposal holds of all that waits: in order, without gaps, as much as fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from planetserve.transactions import Transaction

TAG_BYTES = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transaction that waits, and its bytes."""

    raw: bytes
    transaction: Transaction

    @property
    def key(self) -> bytes:
        return self.transaction.key

    @property
    def nonce(self) -> int:
        return self.transaction.nonce


def unbroken(
    candidates: Iterable[Candidate], next_nonce: Callable[[bytes], int]
) -> list[Candidate]:
    """Of each key's transactions those that can follow each other from its next nonce on: one for
    each nonce, the first to arrive. The order stays."""
    waiting = list(candidates)
    first: dict[tuple[bytes, int], Candidate] = {}
    for candidate in waiting:
        first.setdefault((candidate.key, candidate.nonce), candidate)
    spans: dict[bytes, range] = {}
    for key in {candidate.key for candidate in waiting}:
        start = nonce = next_nonce(key)
        while (key, nonce) in first:
            nonce += 1
        spans[key] = range(start, nonce)
    return [
        candidate
        for candidate in waiting
        if candidate.nonce in spans[candidate.key]
        and first[candidate.key, candidate.nonce] is candidate
    ]


def fitting(
    ordered: Sequence[Candidate], failed: Mapping[bytes, int], max_bytes: int
) -> list[Candidate]:
    """The first that fit into a block. Of a key nothing is taken from the nonce in `failed` on,
    nor what follows one that does not fit."""
    chosen, left = [], max_bytes
    ends = dict(failed)
    for candidate in ordered:
        if candidate.nonce >= ends.get(candidate.key, candidate.nonce + 1):
            continue
        size = size_in_block(candidate.raw)
        if size > left:
            ends[candidate.key] = candidate.nonce
            continue
        left -= size
        chosen.append(candidate)
    return chosen


def size_in_block(raw: bytes) -> int:
    """A transaction's bytes in a block: with a tag of one byte and its length as a varint."""
    return len(raw) + TAG_BYTES + max(1, (len(raw).bit_length() + 6) // 7)

"""The puzzle that a relay sets while more set-ups come than it wants, or its table fills.

    solved: blake2b(seed 16 | ephemeral 32 | nonce 8, 8 bytes, person "ps/puzzle/v2"), read as a
            big-endian number, begins with `difficulty` zero bits

A solution is bound to the ephemeral key of its set-up, which is let through once whatever follows
it, and to a seed of the relay, which counts for one to two minutes. Checking one costs a hundredth
of opening a set-up.
A graphics card finds solutions cheaply: the puzzle makes a flood cost something, and it is the
shares of `overlay.core.quotas` that keep it from shutting others out.

difficulty  event                                   next
──────────  ──────────────────────────────────────  ───────────
d           a second with more than 3/4 of budget   d + 1, <= 20
d           a second with less than 1/4 of budget   d - 1, >= 0
d           60 s since the last seed                d, new seed
d           the table is more than half full        at least 16 bits times the share of the other
                                                    half that is taken
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from overlay.core.replay_filter import ENTRY_BYTES, ReplayFilter

SEED_BYTES = 16
SEED_LIFE_S = 60.0
MAX_DIFFICULTY = 20
"""A client solves no harder one, which takes it about a second."""
FULL_DIFFICULTY = 16
"""Of a full table: a client takes some 50 ms for it, and who would hold it with paths that end
after two minutes of silence makes nine million tries a second."""
SPENT_BITS = 1 << 20
"""A filter a seed: it takes 2 new solutions in ten thousand for spent ones when 60,000 are, which
is twice what a relay opens in the time."""
_ADJUST_S = 1.0
_PERSON = b"ps/puzzle/v2"


def is_solved(seed: bytes, ephemeral: bytes, nonce: bytes, difficulty: int) -> bool:
    """Whether `nonce` (8 bytes) solves the puzzle of `difficulty` (0 to 64 bits)."""
    digest = hashlib.blake2b(seed + ephemeral + nonce, digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "big") >> (64 - difficulty) == 0


def solve_puzzle(
    seed: bytes, ephemeral: bytes, difficulty: int, start: int, tries: int
) -> int | None:
    """The first solution among the `tries` nonces from `start` on, as a number; None if none is.

    A difficulty of d takes 2^d tries on average.
    """
    state = hashlib.blake2b(seed + ephemeral, digest_size=8, person=_PERSON)
    limit = 1 << (64 - difficulty)
    for nonce in range(start, start + tries):
        attempt = state.copy()
        attempt.update(nonce.to_bytes(8, "big"))
        if int.from_bytes(attempt.digest(), "big") < limit:
            return nonce
    return None


@dataclass(slots=True)
class PuzzleGate:
    """A relay's puzzle: `budget_per_s` is how many set-ups a second it wants to open, `seed` and
    `secret` are 16 random bytes each."""

    budget_per_s: float
    seed: bytes
    secret: bytes
    difficulty: int = 0
    _previous_seed: bytes = field(init=False)
    _seed_since_s: float | None = field(default=None, init=False)
    _counted_since_s: float | None = field(default=None, init=False)
    _admitted: int = field(default=0, init=False)
    _seeds: int = field(default=0, init=False)
    _spent: ReplayFilter = field(init=False)

    def __post_init__(self) -> None:
        self._previous_seed = self.seed
        self._spent = ReplayFilter(self.secret, self._seeds, SPENT_BITS)

    def admit(self, ephemeral: bytes, nonce: bytes) -> bool:
        """Whether a set-up may be opened; if so, it is counted."""
        if self.difficulty and not self._is_solved(ephemeral, nonce):
            return False
        self._admitted += 1
        return True

    def tick(self, now_s: float, fresh_seed: bytes, fill: float = 0.0) -> None:
        """Adjust to what was admitted since the last tick, and to the share of the table that is
        taken; `fresh_seed` is 16 random bytes."""
        if self._seed_since_s is None or self._counted_since_s is None:
            self._seed_since_s = self._counted_since_s = now_s
            return
        if now_s - self._seed_since_s >= SEED_LIFE_S:
            self._previous_seed, self.seed = self.seed, fresh_seed
            self._seed_since_s = now_s
            self._seeds += 1
            self._spent.advance(self._seeds)
        elapsed_s = now_s - self._counted_since_s
        if elapsed_s < _ADJUST_S:
            return
        rate_per_s = self._admitted / elapsed_s
        if rate_per_s > self.budget_per_s * 3 / 4:
            self.difficulty = min(self.difficulty + 1, MAX_DIFFICULTY)
        elif rate_per_s < self.budget_per_s / 4:
            self.difficulty = max(self.difficulty - 1, 0)
        least = int(FULL_DIFFICULTY * (2 * min(fill, 1.0) - 1)) if fill > 1 / 2 else 0
        self.difficulty = max(self.difficulty, least)
        self._counted_since_s, self._admitted = now_s, 0

    def _is_solved(self, ephemeral: bytes, nonce: bytes) -> bool:
        """Whether this solves the puzzle of a seed that counts, for the first time."""
        for age, seed in enumerate((self.seed, self._previous_seed)):
            if is_solved(seed, ephemeral, nonce, self.difficulty):
                return self._spent.take(self._seeds - age, ephemeral[:ENTRY_BYTES])
        return False

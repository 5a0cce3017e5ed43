"""Which k of some cloves to try next, when a choice that has a polluted one among it does not open.

A choice that failed has at least one polluted clove. The next one therefore leaves out a smallest
set of cloves that would explain every failure, and prefers those that were tried least: one
polluted clove of m is left out within k + 1 <= m tries, wherever it is, and within two if m is
2 k or more. No choice is made twice, and where there is an explanation that leaves k cloves, one
is made: so in the end every choice was tried, or ruled out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Choices:
    """Of `k` among cloves of one kind, which may still come in."""

    k: int
    _indices: list[int] = field(default_factory=list)
    _failed: list[frozenset[int]] = field(default_factory=list)
    _size: int = 0
    """No fewer cloves explain all failures; those that come later explain none."""

    def __len__(self) -> int:
        return len(self._indices)

    def add(self, index: int) -> None:
        """One more clove is here."""
        self._indices.append(index)

    def failed(self, choice: frozenset[int]) -> None:
        """What `best` chose did not open."""
        self._failed.append(choice)

    def best(self) -> frozenset[int] | None:
        """The choice to try next; None while there is none that may open."""
        while self._size <= len(self._indices) - self.k:
            left_out = _explanation(self._failed, self._size)
            if left_out is not None:
                tried = Counter(index for choice in self._failed for index in choice)
                rest = [index for index in self._indices if index not in left_out]
                return frozenset(sorted(rest, key=lambda index: (tried[index], index))[: self.k])
            self._size += 1
        return None


def _explanation(failed: Sequence[frozenset[int]], most: int) -> frozenset[int] | None:
    """At most so many cloves of which each choice in `failed` has one."""
    if not failed:
        return frozenset()
    if most == 0:
        return None
    for index in sorted(failed[0]):
        found = _explanation([choice for choice in failed if index not in choice], most - 1)
        if found is not None:
            return found | {index}
    return None

"""Credits between the two ends of a path: who sends holds a window, who receives a meter.

window  event                     next    effect
──────  ────────────────────────  ──────  ─────────────────────────────────────────
c > 0   cell to send              c - 1   it is sent
0       cell to send              0       the sender holds it
c       CREDIT n, c + n <= limit  c + n   held cells go
c       CREDIT n, c + n > limit   -       protocol error: the path is closed

OPEN and DATA take a credit. Relays between the ends know nothing of credits; they bound their
queues (`overlay.core.fair_queue`). Who grants more than the other end's queues hold loses the path.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.core.wire import CellError


@dataclass(slots=True)
class CreditWindow:
    """How many cells may still be sent; `limit` is what the other end can hold."""

    credits: int
    limit: int

    def take(self) -> bool:
        """Whether one more cell may go now; if so, it is counted as sent."""
        if self.credits == 0:
            return False
        self.credits -= 1
        return True

    def grant(self, cells: int) -> None:
        """The other end has room for `cells` more. Raises `CellError` beyond the limit."""
        if self.credits + cells > self.limit:
            raise CellError("credits beyond the window")
        self.credits += cells


@dataclass(slots=True)
class CreditMeter:
    """Counts the other end's cells against its window of `limit` and grants them anew in steps."""

    limit: int
    step: int
    _credits: int = field(init=False)
    _owed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.limit:
            raise ValueError("a meter grants at least one cell and at most its limit at once")
        self._credits = self.limit

    @property
    def held(self) -> int:
        """Cells that have arrived and were not consumed."""
        return self.limit - self._credits - self._owed

    def arrived(self) -> None:
        """One cell came. Raises `CellError` if the other end had no credit for it."""
        if self._credits == 0:
            raise CellError("a cell without credit")
        self._credits -= 1

    def consumed(self, cells: int = 1) -> int:
        """`cells` that had arrived left the path; how many to grant now, mostly none."""
        if cells > self.held:
            raise ValueError("more cells were consumed than arrived")
        self._owed += cells
        if self._owed < self.step:
            return 0
        granted, self._owed = self._owed, 0
        self._credits += granted
        return granted

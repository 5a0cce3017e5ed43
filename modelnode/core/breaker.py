"""Whether a node that fails is given another chance yet: one circuit breaker a node.

state      event                                        next       effects
─────────  ───────────────────────────────────────────  ─────────  ────────────────────────────
CLOSED     a request succeeds                           CLOSED     its failures are forgotten
CLOSED     a request fails                              CLOSED
CLOSED     FAILURES_TO_OPEN in a row have failed        OPEN       no requests for the pause
OPEN       a request of before fails                    OPEN
OPEN       a request of before succeeds                 CLOSED     the pause is the first again
OPEN       a request begins when the pause is over      HALF_OPEN  it is the trial
HALF_OPEN  another request, as long as that one runs    HALF_OPEN  it is not let through
HALF_OPEN  the trial ends without telling               HALF_OPEN  another one is let through
HALF_OPEN  a request fails                              OPEN       twice the pause, up to a limit
HALF_OPEN  a request succeeds                           CLOSED     the pause is the first again

Failures are what is the node's fault: it was lost, fell silent, or its engine failed. A full
queue is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

FAILURES_TO_OPEN = 3
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class State(Enum):
    CLOSED = auto()
    OPEN = auto()
    HALF_OPEN = auto()


class Outcome(Enum):
    """How a request ended: `UNTOLD` says nothing of the node, as when its client left."""

    SUCCEEDED = auto()
    FAILED = auto()
    UNTOLD = auto()


@dataclass(slots=True)
class Breaker:
    """Times are seconds of any clock that does not go back."""

    state: State = State.CLOSED
    failures: int = 0
    pause_s: float = FIRST_PAUSE_S
    until_s: float = 0.0
    on_trial: bool = False

    def lets_through(self, now_s: float) -> bool:
        """Whether a request may begin. It changes nothing: many nodes are looked at for each
        request, and one is taken."""
        if self.state is State.CLOSED:
            return True
        return not self.on_trial and now_s >= self.until_s

    def begin(self, now_s: float) -> bool:
        """A request begins, also one that was not let through. Whether it is the trial, which
        `end` must be told."""
        if self.state is State.CLOSED or not self.lets_through(now_s):
            return False
        self.state = State.HALF_OPEN
        self.on_trial = True
        return True

    def end(self, outcome: Outcome, now_s: float, *, trial: bool) -> None:
        """A request ended; `trial` is what its `begin` returned."""
        if trial:
            self.on_trial = False
        if outcome is Outcome.SUCCEEDED:
            self._close()
        elif outcome is Outcome.FAILED:
            self._fail(now_s)

    def _close(self) -> None:
        # Also a request from before the pause shows that the node works.
        self.state = State.CLOSED
        self.failures = 0
        self.pause_s = FIRST_PAUSE_S

    def _fail(self, now_s: float) -> None:
        self.failures += 1
        if self.state is State.HALF_OPEN:
            self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        elif self.state is State.OPEN or self.failures < FAILURES_TO_OPEN:
            return
        self.state = State.OPEN
        self.until_s = now_s + self.pause_s

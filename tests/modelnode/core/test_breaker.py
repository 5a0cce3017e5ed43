"""The breaker against what its table says, request by request."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelnode.core.breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Breaker,
    Outcome,
    State,
)

FAILED, SUCCEEDED, UNTOLD = Outcome.FAILED, Outcome.SUCCEEDED, Outcome.UNTOLD


def opened(now_s: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.lets_through(now_s)
        breaker.end(FAILED, now_s, trial=breaker.begin(now_s))
    return breaker


def test_it_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(5):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.end(FAILED, 0, trial=breaker.begin(0))
        breaker.end(SUCCEEDED, 0, trial=breaker.begin(0))
    assert breaker.state is State.CLOSED
    assert opened().state is State.OPEN


def test_after_the_pause_one_request_tries() -> None:
    breaker = opened()
    assert not breaker.lets_through(FIRST_PAUSE_S - 0.01)
    assert breaker.lets_through(FIRST_PAUSE_S)
    assert breaker.lets_through(FIRST_PAUSE_S), "looking changes nothing"
    assert breaker.begin(FIRST_PAUSE_S)
    assert not breaker.lets_through(FIRST_PAUSE_S)
    assert not breaker.begin(FIRST_PAUSE_S)
    breaker.end(SUCCEEDED, FIRST_PAUSE_S, trial=True)
    assert breaker.state is State.CLOSED
    assert breaker.failures == 0


def test_a_trial_that_tells_nothing_leaves_room_for_another() -> None:
    breaker = opened()
    breaker.end(UNTOLD, 1, trial=breaker.begin(1))
    assert breaker.state is State.HALF_OPEN
    assert breaker.lets_through(1)


@pytest.mark.parametrize("untold_first", [True, False])
def test_pauses_double_up_to_the_longest(untold_first: bool) -> None:
    breaker = opened()
    now_s, pauses_s = 0.0, []
    for _ in range(9):
        pauses_s.append(breaker.until_s - now_s)
        now_s = breaker.until_s
        if untold_first:
            breaker.end(UNTOLD, now_s, trial=breaker.begin(now_s))
        breaker.end(FAILED, now_s, trial=breaker.begin(now_s))
    assert pauses_s[:4] == [FIRST_PAUSE_S * 2**step for step in range(4)]
    assert pauses_s[-1] == LONGEST_PAUSE_S
    breaker.end(SUCCEEDED, breaker.until_s, trial=breaker.begin(breaker.until_s))
    for _ in range(FAILURES_TO_OPEN):
        breaker.end(FAILED, 1000.0, trial=breaker.begin(1000.0))
    assert breaker.until_s == 1000.0 + FIRST_PAUSE_S


class Requests(RuleBasedStateMachine):
    """Requests begin and end in any order while time passes, some without being let through."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now_s = 0.0
        self.running: list[bool] = []
        self.row = 0

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(forced=st.booleans())
    def begin(self, forced: bool) -> None:
        lets_through = self.breaker.lets_through(self.now_s)
        if lets_through or forced:
            trial = self.breaker.begin(self.now_s)
            assert lets_through or not trial
            self.running.append(trial)

    @rule(index=st.integers(0, 5), outcome=st.sampled_from(list(Outcome)))
    def end(self, index: int, outcome: Outcome) -> None:
        if index >= len(self.running):
            return
        before = self.breaker.state
        self.breaker.end(outcome, self.now_s, trial=self.running.pop(index))
        self.row = {FAILED: self.row + 1, SUCCEEDED: 0, UNTOLD: self.row}[outcome]
        if outcome is SUCCEEDED:
            assert self.breaker.state is State.CLOSED
        elif before is State.CLOSED:
            assert (self.breaker.state is State.OPEN) == (self.row >= FAILURES_TO_OPEN)
        elif outcome is FAILED:
            assert self.breaker.state is State.OPEN
        else:
            assert self.breaker.state is before

    @invariant()
    def at_most_one_tries_and_a_pause_ends(self) -> None:
        assert sum(self.running) == self.breaker.on_trial
        assert self.breaker.until_s <= self.now_s + LONGEST_PAUSE_S
        if self.breaker.state is State.CLOSED:
            assert self.breaker.lets_through(self.now_s)
        elif not self.breaker.on_trial:
            assert self.breaker.lets_through(self.breaker.until_s)


TestRequests = Requests.TestCase

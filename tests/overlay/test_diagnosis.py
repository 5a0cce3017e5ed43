"""What a client says when it has too few paths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from overlay.core.diagnosis import (
    KEPT,
    RECENT_S,
    Diagnosis,
    Refusal,
    RouteView,
    cause,
    reported,
    unanswered,
)
from overlay.core.reasons import Reason, Report
from planetserve.records import NodeRecord
from tests.overlay.relays import relay

VIEW = RouteView(1_000, bytes(range(32)))
A, B, C = relay(1), relay(2), relay(3)
PERIOD = 5_000


def of(*refusals: tuple[NodeRecord, NodeRecord, Report], at_s: float = 0.0) -> Diagnosis:
    diagnosis = Diagnosis()
    for author, about, report in refusals:
        diagnosis = reported(diagnosis, Refusal(at_s, author, about, report, PERIOD))
    return diagnosis


def period(number: int) -> Report:
    return Report(Reason.PERIOD, number.to_bytes(4, "big"))


def unknown(height: int, first: bytes = b"another!") -> Report:
    return Report(Reason.UNKNOWN_NEXT, height.to_bytes(8, "big") + first)


@given(st.integers(2, 4_000), st.booleans())
def test_a_clock_that_two_relays_contradict_is_named(gap: int, behind: bool) -> None:
    theirs = PERIOD + gap if behind else PERIOD - gap
    said = cause(of((A, A, period(theirs)), (B, C, period(theirs))), VIEW, 1.0)
    way = "behind" if behind else "ahead of"
    assert f"clock is about {5 * gap} minutes {way} the relays'" in said


def test_one_relay_alone_or_one_operator_does_not_move_the_clock() -> None:
    late = period(PERIOD + 9)
    assert cause(of((A, A, late), (A, B, late)), VIEW, 1.0) == ""
    first, second = relay(1, "maker"), relay(2, "maker")
    assert cause(of((first, first, late), (second, second, late)), VIEW, 1.0) == ""


def test_relays_that_contradict_each_other_do_not_move_the_clock() -> None:
    said = of((A, A, period(PERIOD + 9)), (B, B, period(PERIOD - 9)), (C, C, period(PERIOD + 20)))
    assert cause(said, VIEW, 1.0) == ""


def test_the_period_beside_ours_is_no_fault() -> None:
    assert cause(of((A, A, period(PERIOD + 1)), (B, B, period(PERIOD + 1))), VIEW, 1.0) == ""


def test_a_route_set_older_than_the_relays_is_named() -> None:
    said = cause(of((A, B, unknown(1_200)), (B, C, unknown(1_150))), VIEW, 1.0)
    assert "route set is older than the relays' (height 1000, theirs 1200)" in said


def test_a_relay_with_an_older_route_set_or_ours_proves_nothing() -> None:
    older = of((A, B, unknown(900)), (B, C, unknown(901)))
    same = of((A, B, unknown(1_200, VIEW.hash[:8])), (B, C, unknown(1_200, VIEW.hash[:8])))
    alone = of((A, B, unknown(1_200)))
    assert [cause(item, VIEW, 1.0) for item in (older, same, alone)] == ["", "", ""]


def test_a_relay_with_another_key_is_named() -> None:
    said = cause(of((A, B, Report(Reason.NOT_OPENED))), VIEW, 1.0)
    assert said.startswith("relay-2 does not hold the onion key that the ledger lists")


def test_full_and_silent_relays_are_told_after_faults_of_ours() -> None:
    diagnosis = unanswered(Diagnosis(), A, 0.0)
    assert "one relay does not answer" in cause(diagnosis, VIEW, 1.0)
    diagnosis = unanswered(unanswered(diagnosis, B, 0.0), B, 0.5)
    assert "2 relays do not answer" in cause(diagnosis, VIEW, 1.0)
    diagnosis = reported(diagnosis, Refusal(0.0, A, A, Report(Reason.QUOTA), PERIOD))
    assert "no room" in cause(diagnosis, VIEW, 1.0)
    for author in (A, B):
        refusal = Refusal(0.0, author, author, period(PERIOD + 3), PERIOD)
        diagnosis = reported(diagnosis, refusal)
    assert "clock" in cause(diagnosis, VIEW, 1.0)


def test_what_is_over_is_forgotten() -> None:
    diagnosis = unanswered(of((A, A, period(PERIOD + 9)), (B, B, period(PERIOD + 9))), C, 0.0)
    assert "clock" in cause(diagnosis, VIEW, RECENT_S)
    assert cause(diagnosis, VIEW, RECENT_S + 1) == ""
    for _ in range(2 * KEPT):
        diagnosis = unanswered(reported(diagnosis, diagnosis.refusals[0]), A, 1.0)
    assert (len(diagnosis.refusals), len(diagnosis.silent)) == (KEPT, KEPT)

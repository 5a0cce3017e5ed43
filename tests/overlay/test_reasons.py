from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.reasons import Reason, Report, read_close_body, read_error_data
from overlay.core.wire import BODY_BYTES, CellError

DETAILS = {Reason.PERIOD: 4, Reason.UNKNOWN_NEXT: 16, Reason.PUZZLE: 17}

reports = st.sampled_from(Reason).flatmap(
    lambda reason: st.builds(
        Report, st.just(reason), st.binary(min_size=(n := DETAILS.get(reason, 0)), max_size=n)
    )
)


@given(reports)
def test_a_report_comes_back_from_either_form(report: Report) -> None:
    assert len(report.close_body()) == BODY_BYTES
    assert read_close_body(report.close_body()) == report
    assert read_error_data(report.error_data()) == report


@pytest.mark.parametrize("reason", Reason)
def test_every_truncation_is_refused(reason: Reason) -> None:
    report = Report(reason, b"\1" * DETAILS.get(reason, 0))
    for size in range(BODY_BYTES):
        with pytest.raises(CellError):
            read_close_body(report.close_body()[:size])
    for size in range(len(report.error_data())):
        with pytest.raises(CellError):
            read_error_data(report.error_data()[:size])
    with pytest.raises(CellError):
        read_error_data(report.error_data() + b"\0")


@given(reports, st.integers(0, 8 * BODY_BYTES - 1))
def test_a_changed_bit_is_refused_or_means_what_it_says(report: Report, bit: int) -> None:
    body = bytearray(report.close_body())
    body[bit // 8] ^= 1 << bit % 8
    try:
        read = read_close_body(bytes(body))
    except CellError:
        return
    assert read != report
    assert read.close_body() == body


@given(st.binary(max_size=40).map(lambda head: head.ljust(BODY_BYTES, b"\0")))
def test_any_body_is_a_report_or_an_error(body: bytes) -> None:
    try:
        report = read_close_body(body)
    except CellError:
        return
    assert report.close_body() == body


def test_a_detail_of_the_wrong_length_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="PUZZLE"):
        Report(Reason.PUZZLE, b"seed")
    with pytest.raises(ValueError, match="QUOTA"):
        Report(Reason.QUOTA, b"x")

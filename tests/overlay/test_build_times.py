"""The time-out that is learned from build times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.build_times import BuildTimes


def after(durations_s: list[float]) -> BuildTimes:
    times = BuildTimes()
    for duration_s in durations_s:
        times = times.completed(duration_s)
    return times


def test_three_seconds_until_twenty_builds_are_known() -> None:
    assert after([0.5] * 19).timeout_s == 3.0
    assert after([0.5] * 20).timeout_s == pytest.approx(0.75)


def test_one_and_a_half_times_the_eighty_percent_quantile() -> None:
    assert after([number / 10 for number in range(1, 21)]).timeout_s == pytest.approx(1.5 * 1.6)
    assert after([number / 10 for number in range(1, 22)]).timeout_s == pytest.approx(1.5 * 1.7)


@given(st.lists(st.floats(0, 100), min_size=20, max_size=300))
def test_the_timeout_is_a_quantile_of_the_last_two_hundred_in_bounds(
    durations_s: list[float],
) -> None:
    times = after(durations_s)
    kept = durations_s[-200:]
    assert times.durations_s == tuple(kept)
    assert 0.25 <= times.timeout_s <= 10
    quantile_s = times.timeout_s / 1.5
    if 0.25 < times.timeout_s < 10:
        assert sum(item <= quantile_s + 1e-9 for item in kept) >= 0.8 * len(kept)
        assert sum(item < quantile_s - 1e-9 for item in kept) < 0.8 * len(kept)


def test_late_builds_are_learned_from() -> None:
    times = after([0.2] * 20)
    for _ in range(9):
        times = times.timed_out().completed(2.0, late=True)
    assert times.timeout_s == pytest.approx(3.0)


def test_half_of_the_last_twenty_timed_out_so_the_history_goes() -> None:
    times = after([0.4] * 30)
    for _ in range(9):
        times = times.timed_out()
    assert times.timeout_s == pytest.approx(0.6)
    times = times.timed_out()
    assert times == BuildTimes(unlearned_s=times.timeout_s)
    assert times.timeout_s == pytest.approx(1.2)
    for _ in range(40):
        times = times.timed_out()
    assert times.timeout_s == 10.0
    assert after([0.4] * 20).timeout_s == pytest.approx(0.6)


def test_time_outs_that_are_long_past_do_not_add_up() -> None:
    times = BuildTimes()
    for _ in range(30):
        times = times.timed_out()
        for _ in range(2):
            times = times.completed(0.4)
    assert len(times.durations_s) == 60

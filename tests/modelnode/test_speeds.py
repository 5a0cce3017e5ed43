"""The engine's speeds, from values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.core.speeds import (
    MIN_DECODE_TOKENS,
    MIN_PREFILL_TOKENS,
    WINDOW_REPLIES,
    Speeds,
    WeightedQuantile,
)


def test_nothing_is_known_before_a_reply_that_is_long_enough() -> None:
    speeds = Speeds()
    speeds.prefilled(MIN_PREFILL_TOKENS - 1, 100.0)
    speeds.decoded(MIN_DECODE_TOKENS - 1, 100.0)
    speeds.prefilled(1000, 0.0)
    speeds.decoded(1000, -1.0)
    assert (speeds.prefill_us_per_token, speeds.decode_ms_per_token) == (None, None)


def test_one_reply_gives_its_own_speeds() -> None:
    speeds = Speeds()
    speeds.prefilled(200, 50.0)
    speeds.decoded(31, 310.0)
    assert speeds.prefill_us_per_token == 250.0
    assert speeds.decode_ms_per_token == 10.0


def test_what_waited_inside_the_engine_does_not_slow_the_figure() -> None:
    """Two thirds of the replies stood in line for up to a minute."""
    speeds = Speeds()
    for waited_ms in (0.0, 400.0, 60_000.0) * 15:
        speeds.prefilled(100, 20.0 + waited_ms)
        speeds.decoded(20, 200.0)
    assert speeds.prefill_us_per_token == 200.0


def test_a_few_that_look_too_fast_do_not_speed_it_up() -> None:
    """Every fifth reply's cache was not reported, so that it seems to prefill for nothing."""
    speeds = Speeds()
    for number in range(60):
        speeds.prefilled(100, 0.1 if number % 5 == 0 else 20.0)
    assert speeds.prefill_us_per_token == 200.0


def test_slow_readers_do_not_slow_decoding() -> None:
    speeds = Speeds()
    for took_ms in (200.0, 200.0, 9_000.0) * 20:
        speeds.decoded(20, took_ms)
    assert speeds.decode_ms_per_token == 10.0


def test_a_long_prompt_weighs_more_than_short_ones() -> None:
    speeds = Speeds()
    for _ in range(10):
        speeds.prefilled(20, 14.0)  # 10 ms of it have nothing to do with the tokens
    speeds.prefilled(2000, 410.0)
    assert speeds.prefill_us_per_token == 205.0


def test_an_engine_that_became_slower_is_known_to_be() -> None:
    speeds = Speeds()
    for took_ms in [10.0] * WINDOW_REPLIES + [30.0] * WINDOW_REPLIES:
        speeds.prefilled(100, took_ms)
        speeds.decoded(10, took_ms)
    assert speeds.prefill_us_per_token == 300.0
    assert speeds.decode_ms_per_token == 3.0


@given(
    st.lists(
        st.tuples(st.floats(0, 100, allow_nan=False), st.integers(1, 50)), min_size=1, max_size=40
    ),
    st.integers(1, 10),
)
def test_the_quantile_is_that_of_the_newest_values(
    values: list[tuple[float, int]], window: int
) -> None:
    quantile = WeightedQuantile(0.25, window)
    for value, weight in values:
        quantile.add(value, weight)
    newest = sorted(values[-window:])
    total = sum(weight for _, weight in newest)
    spread = [value for value, weight in newest for _ in range(weight)]
    assert quantile.value == spread[max(-(-total // 4) - 1, 0)]


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_no_value_has_no_quantile(quantile: float) -> None:
    assert WeightedQuantile(quantile, 4).value is None

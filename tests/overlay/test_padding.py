"""Sizes are rounded up to few steps, and what that costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import padding
from overlay.core.sida import MAX_CLOVES

FRAME_ON_THE_WIRE_BYTES = 2048
STEPS = sorted({factor << power for factor in (1, 3) for power in range(21)} | {1, 2})


def test_steps() -> None:
    assert [padding.step_at_least(count) for count in range(14)] == [
        *(1, 1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16)
    ]


@given(st.integers(1, 1 << 20))
def test_a_step_is_the_smallest_that_is_enough(count: int) -> None:
    assert padding.step_at_least(count) == next(step for step in STEPS if step >= count)
    assert 2 * padding.step_at_least(count) <= 3 * count or count == 1


@given(st.integers(0, 1 << 19), st.integers(1, MAX_CLOVES))
def test_a_request_fits_the_cells_it_is_given_and_no_smaller_step(size: int, k: int) -> None:
    cells = padding.request_cells(size, k)
    assert padding.request_bytes(cells, k) >= size
    smaller = [step for step in STEPS if step < cells]
    assert not smaller or padding.request_bytes(smaller[-1], k) < size


@pytest.mark.parametrize("k", range(1, MAX_CLOVES + 1))
def test_the_largest_request(k: int) -> None:
    largest = padding.request_bytes(padding.MAX_REQUEST_CELLS, k)
    assert padding.request_cells(largest, k) == padding.MAX_REQUEST_CELLS
    with pytest.raises(ValueError, match="too large"):
        padding.request_cells(largest + 1, k)


def test_a_megabyte_is_taken_whatever_k() -> None:
    assert all(padding.request_cells((1 << 20) + 8, k) for k in range(1, MAX_CLOVES + 1))


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 6, 8, 12])
def test_four_paths_cost_at_most_half_more_with_every_header(cells: int) -> None:
    """The link header, the layers and the payload header of every cell are counted."""
    assert 4 * cells * FRAME_ON_THE_WIRE_BYTES / padding.request_bytes(cells, 3) <= 1.5


def test_one_cell_a_path_holds_5477_bytes() -> None:
    assert padding.request_bytes(1, 3) == 5477
    assert padding.request_cells(5477, 3) == 1
    assert padding.request_cells(5478, 3) == 2


def test_answers_have_few_lengths() -> None:
    lengths = {padding.answer_frames(frames) for frames in range(1, 1000)}
    assert sorted(lengths)[:6] == [4, 6, 8, 12, 16, 24]
    assert len(lengths) == 17

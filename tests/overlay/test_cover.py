"""Cover traffic: how much, and to whom."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.cover import (
    TYPICAL,
    Cover,
    CoverSettings,
    Dummy,
    Loop,
    Shape,
    due,
    likely_targets,
)
from overlay.core.padding import request_cells
from overlay.core.request import HEADER_BYTES

PATHS = [(0, 0), (0, 1), (0, 2), (0, 3)]
SHAPES = (Shape(100, 20), Shape(2_000, 300))
TARGETS = [bytes([1]) * 20, bytes([2]) * 20]


def test_rates_are_those_that_were_set() -> None:
    draw = Random(3).randrange
    cover = Cover(CoverSettings(SHAPES))
    loops: Counter[tuple[int, int]] = Counter()
    dummies: Counter[Dummy] = Counter()
    for step in range(200_000):  # two thousand seconds
        cover, effects = due(cover, step / 100, PATHS, TARGETS, draw)
        for effect in effects:
            if isinstance(effect, Loop):
                loops[effect.path] += 1
            else:
                dummies[effect] += 1
    # Poisson: 1,000 loops a path and 16.7 questions; within five standard deviations.
    assert all(abs(loops[path] - 1_000) < 160 for path in PATHS)
    assert abs(dummies.total() - 16.7) < 20.4
    assert {dummy.target for dummy in dummies} == set(TARGETS)
    assert {dummy.shape for dummy in dummies} == set(SHAPES)


@given(st.integers(0, 2**32), st.floats(0, 1e6))
def test_a_pause_is_not_made_up_for(seed: int, pause_s: float) -> None:
    draw = Random(seed).randrange
    cover, effects = due(Cover(CoverSettings(SHAPES)), 0.0, PATHS, TARGETS, draw)
    assert effects == []
    cover, effects = due(cover, pause_s, PATHS, TARGETS, draw)
    assert len(effects) <= 5
    assert due(cover, pause_s, PATHS, TARGETS, draw)[1] == []


def test_dummies_are_of_each_step_of_questions_and_mostly_short() -> None:
    request = [request_cells(HEADER_BYTES + shape.payload_bytes, 3) for shape in TYPICAL]
    cells = Counter(request)
    assert list(cells) == [1, 2, 3, 4, 6, 8]
    assert cells[1] * 9 == cells.total() * 4
    assert len({shape.frames for shape in TYPICAL}) == 13


def test_dummies_go_where_questions_went() -> None:
    a, b, gone = (bytes([number]) * 20 for number in (1, 2, 3))
    assert likely_targets([], [a, b]) == [a, b]
    assert likely_targets([gone, b, a, b], [a, b]) == [b, a, b]
    assert likely_targets([gone], [a, b]) == [a, b]
    assert likely_targets([a] * 9 + [b] * 16, [a, b]) == [b] * 16


def test_paths_that_closed_are_forgotten() -> None:
    draw = Random(1).randrange
    cover, _ = due(Cover(CoverSettings()), 0.0, PATHS, TARGETS, draw)
    cover, effects = due(cover, 1e6, PATHS[:1], TARGETS, draw)
    assert effects == [Loop((0, 0))]
    assert list(cover.loops_s) == PATHS[:1]


def test_nothing_is_asked_of_nobody_or_without_a_shape() -> None:
    for targets, shapes in (([], SHAPES), (TARGETS, ())):
        draw = Random(1).randrange
        cover, _ = due(Cover(CoverSettings(shapes)), 0.0, [], targets, draw)
        cover, effects = due(cover, 1e6, [], targets, draw)
        assert effects == []
        assert cover.dummy_s is not None
        assert cover.dummy_s > 1e6


@pytest.mark.parametrize(("payload_bytes", "frames"), [(0, 1), (1, 0), (1, 513)])
def test_shapes_that_no_node_answers(payload_bytes: int, frames: int) -> None:
    with pytest.raises(ValueError, match="shape"):
        Shape(payload_bytes, frames)

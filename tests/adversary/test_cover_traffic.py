"""Telling dummy questions from real ones, at a last relay that carries them.

It sees how many cells the question has, when the frames of the answer come, and how many. Where
questions are as long as dummies are, a classifier does no better than a coin. What a user really
asks may be of another length, which nothing hides.
"""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from statistics import fmean, pstdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.cover import TYPICAL, Shape
from overlay.core.effects import Entropy
from overlay.core.lateness import Lateness
from overlay.core.pacing import BEAT_S
from overlay.core.reasons import Reason
from overlay.core.replay_filter import SECRET_BYTES, ReplayFilter
from overlay.core.request import DUMMY, QUESTION
from tests.adversary.classify import Examples, by_neighbours, by_regression
from tests.overlay.door import PERIOD, Door, cut

EACH = 200
SHORT = tuple(shape for shape in TYPICAL if shape.frames <= 32)
"""Long answers take the test's time and have the same beginning."""


def new_door() -> Door:
    return Door(replay=ReplayFilter(bytes(SECRET_BYTES), PERIOD, 1 << 18))


def rng_shape(number: int) -> Shape:
    return SHORT[number % len(SHORT)]


def seen(door: Door, shape: Shape, kind: int, rng: Random) -> list[float]:
    """Ask, let the engine answer if it is asked, and tell what one of the last relays sees."""
    request = door.request(rng.randbytes(shape.payload_bytes), kind, shape.frames)
    if kind == QUESTION:
        request = door.request(rng.randbytes(shape.payload_bytes))
    begun_s = door.now_s
    relays = rng.sample(range(50), 4)
    routes = [door.stream(r, data) for r, data in zip(relays, request.streams, strict=True)]
    if kind == QUESTION:
        door.write(b"accepted")
        door.advance(rng.gammavariate(4.0, 0.1))
        # The first frame, END and LAST are beside those that the words fill.
        ends_s = door.now_s + BEAT_S * (shape.frames - 3.5)
        while door.now_s < ends_s:
            door.write(rng.randbytes(rng.randrange(1, 12)))
            door.advance(rng.gammavariate(3.0, 0.012))
        door.finish()
    door.advance(begun_s + 5.0 - door.now_s)
    times = [at_s - begun_s for at_s, route in door.times if route == routes[0]]
    door.times.clear()
    gaps = [later - earlier for earlier, later in pairwise(times)]
    cells = float(len(cut(request.streams[0])))
    return [
        cells,
        times[0],
        gaps[0],
        float(len(times)),
        times[-1],
        fmean(gaps[1:]),
        pstdev(gaps[1:]),
    ]


def examples(door: Door, seed: int, each: int = EACH) -> Examples:
    """As many dummies as questions, in turn, of the same shapes."""
    rng = Random(seed)
    kinds = [number % 2 for number in range(2 * each)]
    rows = [seen(door, rng.choice(SHORT), (QUESTION, DUMMY)[kind], rng) for kind in kinds]
    return Examples(np.array(rows), [0] * len(rows), np.array(kinds))


def refused(door: Door) -> None:
    """Somebody asks what no engine answers, again and again."""
    for _ in range(64):
        route = door.stream(99, door.request(n=1, k=1).streams[0])
        door.write(b"accepted")
        door.write(b"failed")
        door.finish()
        door.advance(2.0)
        door.end(route)
    door.times.clear()


def best(trained: Examples, tested: Examples) -> float:
    return max(by_neighbours(trained, tested), by_regression(trained, tested))


def remembered(earlier: list[float], rows: Examples) -> Examples:
    """Of each trace, how near its time to the first token is to one that was seen before."""
    gaps = list(earlier)
    near: list[list[float]] = []
    for gap in rows.features[:, 2]:
        distance_s = min(abs(gap - before) for before in gaps) + 1e-6
        near.append([distance_s, math.log(distance_s), distance_s / gap, gap])
        gaps.append(gap)
    return Examples(np.array(near), rows.steps, rows.topics)


def by_memory(asked: list[float], trained: Examples, tested: Examples) -> float:
    """Of an adversary who has seen all that the node ever answered."""
    later = [*asked, *trained.features[:, 2]]
    return best(remembered(asked, trained), remembered(later, tested))


def questions(door: Door) -> list[float]:
    """The node has answered questions before; tells how late their first tokens were."""
    return [seen(door, rng_shape(number), QUESTION, Random(number))[2] for number in range(60)]


@pytest.mark.parametrize("attacked", [False, True])
def test_a_dummy_is_not_told_from_a_question(attacked: bool) -> None:
    """400 are tested: the standard error of a coin is .025, and the best of four classifiers may
    stray by three of them. One who remembers how late first tokens were does no better. Whoever
    asks much in vain changes nothing."""
    door = new_door()
    asked = questions(door)
    if attacked:
        refused(door)
    trained, tested = examples(door, 1), examples(door, 2)
    found, by_delay = best(trained, tested), by_memory(asked, trained, tested)
    print(f"dummies told from questions: {found:.3f}, by memory {by_delay:.3f}; coin 0.5")
    assert max(found, by_delay) < 0.575


def test_a_dummy_that_is_answered_at_once_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lateness, "draw_s", lambda lateness, entropy: 0.0)
    door = new_door()
    assert best(examples(door, 1, 60), examples(door, 2, 60)) > 0.95


def test_a_dummy_that_repeats_a_question_s_delay_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def repeated(lateness: Lateness, entropy: Entropy) -> float:
        return list(lateness._delays_s.values())[entropy(1)[0] % len(lateness._delays_s)]

    monkeypatch.setattr(Lateness, "draw_s", repeated)
    door = new_door()
    asked = questions(door)
    assert by_memory(asked, examples(door, 1, 60), examples(door, 2, 60)) > 0.75


ASKED = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 3)), min_size=10, max_size=40
)


@given(ASKED)
@settings(max_examples=25, deadline=None)
def test_whatever_runs_a_dummy_is_refused_where_a_question_is_and_nowhere_else(
    asked: list[tuple[int, bool, int]],
) -> None:
    """Relays bring questions and dummies, of which some lose their path; beside it the same with
    each dummy a question and each question a dummy."""
    ended: list[list[Reason | None]] = []
    for is_swapped in (False, True):
        door = Door()
        routes = []
        for relay, is_dummy, luck in asked:
            kind = DUMMY if is_dummy != is_swapped else QUESTION
            request = door.request(b"words", kind, 512, n=16, k=1)
            routes.append(door.stream(relay, request.streams[0]))
            if luck == 0 and routes[-1] not in door.ended:
                door.end(routes[-1], Reason.NEIGHBOUR_GONE)
            door.advance(0.01)
        ended.append([door.ended.get(route) for route in routes])
    assert ended[0] == ended[1]


def test_one_who_fills_a_node_with_dummies_learns_nothing_of_others() -> None:
    door = new_door()
    for _ in range(60):
        for data in door.request(b"", DUMMY, 512).streams[:3]:
            door.stream(50, data)
        door.advance(0.01)
    for kind in (DUMMY, QUESTION) * 4:
        routes = door.deliver(door.request(bytes(400), kind, 8), range(4))
        assert not any(route in door.ended for route in routes)
        door.advance(0.1)

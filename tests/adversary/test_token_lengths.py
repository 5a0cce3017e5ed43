"""What streamed answers tell the last relays that carry them: how many frames, and when.

A classifier is trained on this for topics whose answers differ in the length of their words, the
pace of their tokens and the number of them. It must do no better than one that is told only the
step to which the number of frames was rounded up. The same classifier, given the same answers as a
server sends them that writes each token when it comes, is nearly always right.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from random import Random
from statistics import fmean, pstdev

import numpy as np
import pytest

from overlay.core.frames import max_data_bytes
from overlay.core.pacing import Pacing
from overlay.core.padding import answer_frames
from tests.adversary.classify import Examples, by_neighbours, by_regression
from tests.overlay.door import Door, K

TRAINED, TESTED = 400, 800
"""Answers of each topic."""
ACCEPTED_S = 0.001


@dataclass(frozen=True)
class Topic:
    """Means: seconds between tokens, bytes of a token, seconds of the whole answer."""

    gap_s: float
    token_bytes: float
    whole_s: float


SAME_LENGTH = (Topic(0.012, 2.0, 4.0), Topic(0.060, 11.0, 4.0))
"""Their answers take equally long, so that the step says nothing."""
OTHER_LENGTHS = (
    Topic(0.015, 3.0, 0.8),
    Topic(0.030, 5.0, 2.5),
    Topic(0.030, 9.0, 8.0),
    Topic(0.060, 4.0, 8.0),
)

Token = tuple[float, bytes]
Trace = list[tuple[float, int]]
"""When something arrived at a last relay, and its size."""
Send = Callable[[Sequence[Token]], Trace]


def tokens(topic: Topic, rng: Random) -> list[Token]:
    """An answer as the engine gives it. The time to the first token is the same for all topics: it
    is not hidden."""
    now_s = rng.uniform(0.1, 0.6)
    ends_s = now_s + rng.gammavariate(4.0, topic.whole_s / 4.0)
    made: list[Token] = []
    while now_s < ends_s or not made:
        made.append((now_s, bytes(max(1, round(rng.gauss(topic.token_bytes, 1.0))))))
        now_s += rng.gammavariate(3.0, topic.gap_s / 3.0)
    return made


def paced(answer: Sequence[Token]) -> Trace:
    """The frames of an answer, all of one size."""
    core, trace = Pacing(0.0, max_data_bytes(K)), Trace()

    def send(until_s: float) -> None:
        while (due_s := core.due_s()) is not None and due_s <= until_s:
            assert core.take(due_s) is not None
            trace.append((due_s, 1970))

    core.write(b"accepted", ACCEPTED_S)
    for at_s, data in answer:
        send(at_s)
        core.write(data, at_s)
    core.finish(answer[-1][0])
    send(math.inf)
    return trace


def unpaced(answer: Sequence[Token]) -> Trace:
    """A server that sends each token when it comes, padded to nothing."""
    return [(ACCEPTED_S, 8), *((at_s, len(data)) for at_s, data in answer)]


def features(trace: Trace) -> list[float]:
    """What a relay can make of it: number, time from the first to the last, moments and extremes
    of gaps and sizes. The first gap, to the first token, is left out."""
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(trace[1:])]
    sizes = [float(size) for _, size in trace[1:]]
    return [
        float(len(trace)),
        trace[-1][0] - trace[1][0],
        *(fmean(gaps or [0.0]), pstdev(gaps or [0.0])),
        *(min(gaps, default=0.0), max(gaps, default=0.0)),
        *(fmean(sizes), pstdev(sizes), max(sizes)),
    ]


@lru_cache(maxsize=4)
def answers(topics: tuple[Topic, ...], count: int, seed: int) -> list[list[Token]]:
    """`count` answers of each topic."""
    rng = Random(seed)
    return [tokens(topic, rng) for topic in topics for _ in range(count)]


@lru_cache(maxsize=4)
def steps(topics: tuple[Topic, ...], count: int, seed: int) -> list[int]:
    """That of each answer, from its first token on."""
    return [len(paced(answer)) - 1 for answer in answers(topics, count, seed)]


def examples(topics: tuple[Topic, ...], send: Send, count: int, seed: int) -> Examples:
    rows = [features(send(answer)) for answer in answers(topics, count, seed)]
    labels = np.repeat(np.arange(len(topics)), count)
    return Examples(np.array(rows), steps(topics, count, seed), labels)


def by_step(trained: Examples, tested: Examples) -> float:
    """The same of who knows the step alone, and says the topic that most often has it."""
    seen: dict[int, Counter[int]] = defaultdict(Counter)
    for step, topic in zip(trained.steps, trained.topics, strict=True):
        seen[step][int(topic)] += 1
    guesses = [seen[step].most_common(1)[0][0] if step in seen else 0 for step in tested.steps]
    return float((np.array(guesses) == tested.topics).mean())


def accuracy(topics: tuple[Topic, ...], send: Send) -> tuple[float, float]:
    """The best of both classifiers, and what the step alone allows."""
    trained = examples(topics, send, TRAINED, 1)
    tested = examples(topics, send, TESTED, 2)
    best = max(by_neighbours(trained, tested), by_regression(trained, tested))
    return best, by_step(trained, tested)


def test_topics_of_equal_length_are_not_told_apart() -> None:
    """1,600 answers are tested: the standard error of a coin is 0.0125, and the better of two
    classifiers may stray by three of them."""
    best, by_steps = accuracy(SAME_LENGTH, paced)
    control, _ = accuracy(SAME_LENGTH, unpaced)
    print(f"paced {best:.3f}, by the step {by_steps:.3f}, coin 0.5; unpaced {control:.3f}")
    assert best < 0.54
    assert control > 0.99


def test_topics_of_other_lengths_are_told_apart_by_the_step_alone() -> None:
    """3,200 answers: the standard error is below 0.009."""
    best, by_steps = accuracy(OTHER_LENGTHS, paced)
    control, _ = accuracy(OTHER_LENGTHS, unpaced)
    print(f"paced {best:.3f}, by the step {by_steps:.3f}, coin 0.25; unpaced {control:.3f}")
    assert best < by_steps + 0.03
    counted = set(steps(OTHER_LENGTHS, TRAINED, 1))
    assert counted == {answer_frames(count) for count in counted}
    assert control > by_steps + 0.2


@pytest.mark.parametrize("topic", [*SAME_LENGTH, *OTHER_LENGTHS])
def test_a_model_node_sends_as_the_pacing_says(topic: Topic) -> None:
    """What was classified is what comes out of a model node, in times and sizes, on each path."""
    answer = tokens(topic, Random(7))
    door = Door()
    routes = door.deliver(door.request(), range(4))
    door.advance(ACCEPTED_S)
    door.write(b"accepted")
    for at_s, data in answer:
        door.advance(at_s - door.now_s)
        door.write(data)
    door.finish()
    door.advance(40.0)
    for route in routes:
        times = [at_s for at_s, sent in door.times if sent == route]
        assert times == pytest.approx([at_s for at_s, _ in paced(answer)])
        assert [len(chunk) for chunk in door.arrived[route]] == [1970] * len(times)


def test_frames_of_words_and_of_nothing_have_one_size() -> None:
    assert {size for _, size in paced(tokens(OTHER_LENGTHS[1], Random(3)))} == {1970}

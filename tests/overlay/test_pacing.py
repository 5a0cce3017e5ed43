"""When frames leave: by values, with a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.core import frames, pacing, padding
from overlay.core.pacing import Pacing
from tests.overlay.tables import Watch, edges

ROOM_BYTES = 100


def run(answer: Pacing, until_s: float = 1e6) -> list[tuple[float, int, bytes]]:
    """All frames that are due until then, each taken when it is due."""
    taken = []
    while (due_s := answer.due_s()) is not None and due_s <= until_s:
        frame = answer.take(due_s)
        assert frame is not None
        taken.append((round(due_s, 6), *frame))
    return taken


def begun(now_s: float = 10.0) -> Pacing:
    """An answer whose acceptance left at zero and whose first token was written at `now_s`."""
    answer = Pacing(0.0, ROOM_BYTES)
    answer.write(b"accepted", 0.0)
    run(answer, 0.0)
    answer.write(b"first", now_s)
    return answer


def test_before_the_first_token_a_frame_leaves_each_second() -> None:
    answer = Pacing(0.0, ROOM_BYTES)
    assert answer.take(0.9) is None
    assert run(answer, 2.0) == [(1.0, frames.NOTHING, b""), (2.0, frames.NOTHING, b"")]
    answer.write(b"accepted", 2.3)
    assert run(answer, 3.4) == [(2.3, frames.DATA, b"accepted"), (3.3, frames.NOTHING, b"")]
    answer.write(b"first", 3.5)
    assert run(answer, 3.7) == [
        (3.5, frames.DATA, b"first"),
        (3.6, frames.NOTHING, b""),
        (3.7, frames.NOTHING, b""),
    ]


def test_a_long_acceptance_leaves_at_once() -> None:
    answer = Pacing(0.0, ROOM_BYTES)
    answer.write(b"x" * 250, 0.0)
    assert [len(data) for _, _, data in run(answer, 0.5)] == [100, 100, 50]


def test_an_answer_ends_when_its_step_is_full() -> None:
    answer = begun()
    answer.write(b"second", 10.01)
    answer.finish(10.02)
    assert run(answer) == [
        (10.0, frames.END, b"firstsecond"),
        (10.1, frames.PADDING, b""),
        (10.2, frames.PADDING, b""),
        (10.3, frames.LAST, b""),
    ]
    assert answer.state == pacing.DONE
    assert answer.take(99.0) is None


def test_a_refusal_is_padded_like_an_answer() -> None:
    answer = Pacing(0.0, ROOM_BYTES)
    answer.write(b"no", 0.0)
    answer.finish(0.0)
    assert [kind for _, kind, _ in run(answer)] == [
        frames.END,
        frames.PADDING,
        frames.PADDING,
        frames.LAST,
    ]


def test_even_an_answer_without_a_word_ends() -> None:
    answer = Pacing(0.0, ROOM_BYTES)
    answer.finish(0.2)
    assert [kind for _, kind, _ in run(answer)][::3] == [frames.END, frames.LAST]


def test_missed_beats_are_not_made_up_for() -> None:
    answer = begun()
    assert answer.take(10.0) is not None
    assert answer.take(10.32) is not None
    due_s = answer.due_s()
    assert due_s == pytest.approx(10.4)
    assert answer.take(10.33) is None


def test_a_pause_holds_the_frames_and_keeps_the_beat() -> None:
    answer = begun()
    run(answer, 10.1)
    answer.pause()
    assert answer.due_s() is None
    assert answer.take(11.0) is None
    answer.resume()
    assert answer.take(11.02) is not None
    assert answer.due_s() == pytest.approx(11.1)


def test_the_engine_waits_while_too_much_is_unsent() -> None:
    answer = Pacing(0.0, ROOM_BYTES)
    answer.write(bytes(pacing.MAX_UNSENT_BYTES - 1), 0.0)
    assert answer.has_room
    answer.write(b"!", 0.0)
    assert not answer.has_room
    answer.take(0.0)
    assert answer.has_room


def test_nothing_is_written_after_the_end() -> None:
    answer = begun()
    answer.finish(10.0)
    with pytest.raises(ValueError, match="finished"):
        answer.write(b"more", 10.0)


@pytest.mark.parametrize(("wished", "frames_seen"), [(0, 4), (5, 6), (100, 128), (10**6, 512)])
def test_a_dummy_is_as_long_as_it_asks_within_bounds(wished: int, frames_seen: int) -> None:
    answer = Pacing(0.0, ROOM_BYTES, wished)
    answer.write(b"accepted", 0.0)
    run(answer, 0.0)
    answer.write(b"", 1.0)
    answer.finish(1.0)
    assert len(run(answer)) == frames_seen


STATES = [pacing.WAITING, pacing.ACCEPTED, pacing.PACED, pacing.ENDING, pacing.DONE]


def test_the_table_lists_the_transitions() -> None:
    named = {(before, after) for before, _, after in pacing.TRANSITIONS}
    assert edges(pacing.__doc__, STATES) == named


class PacingMachine(RuleBasedStateMachine):
    """An engine that writes when it likes, paths that come and go, and a clock that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.answer = Pacing(0.0, ROOM_BYTES)
        self.watch = Watch(lambda: self.answer.state, pacing.TRANSITIONS)
        self.written = self.taken = b""
        self.finished = False

    @precondition(lambda self: not self.finished)
    @rule(data=st.binary(max_size=300))
    def it_writes(self, data: bytes) -> None:
        self.watch.call(self.answer.write, data, self.now_s)
        self.written += data

    @rule()
    def it_finishes(self) -> None:
        self.watch.call(self.answer.finish, self.now_s)
        self.finished = True

    @rule(paused=st.booleans())
    def paths_come_and_go(self, paused: bool) -> None:
        self.watch.call(self.answer.pause if paused else self.answer.resume)

    @rule(seconds=st.floats(0.001, 3.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for _ in range(100):
            frame = self.watch.call(self.answer.take, self.now_s)
            if frame is None:
                break
            self.taken += frame.data
        due_s = self.answer.due_s()
        assert due_s is None or due_s > self.now_s

    @invariant()
    def what_left_was_written(self) -> None:
        assert self.written.startswith(self.taken)
        if self.answer.state in (pacing.ENDING, pacing.DONE):
            assert self.taken == self.written


TestPacingMachine = PacingMachine.TestCase
TestPacingMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


WRITES = st.lists(
    st.tuples(st.integers(0, 300_000), st.binary(max_size=150)), min_size=1, max_size=40
)


@given(WRITES, st.integers(0, 200_000))
def test_what_is_seen_depends_on_the_first_token_and_the_step_alone(
    writes: list[tuple[int, bytes]], idle_us: int
) -> None:
    """Words of any size at any time: all of them arrive, on the beat, in a number of frames that
    is a step."""
    answer = begun(0.0)
    now_us, seen, words = 0, [], b"first"
    for gap_us, data in writes:
        now_us += gap_us
        seen += run(answer, now_us / 1e6)
        answer.write(data, now_us / 1e6)
        words += data
    answer.finish((now_us + idle_us) / 1e6)
    seen += run(answer)
    assert b"".join(data for _, _, data in seen) == words
    assert [due_s for due_s, _, _ in seen] == pytest.approx(
        [beat * pacing.BEAT_S for beat in range(len(seen))], abs=1e-4
    )
    assert len(seen) == padding.answer_frames(len(seen))
    kinds = [kind for _, kind, _ in seen]
    assert kinds.count(frames.END) == 1
    after_end = kinds[kinds.index(frames.END) + 1 :]
    assert after_end == [frames.PADDING] * (len(after_end) - 1) + [frames.LAST]

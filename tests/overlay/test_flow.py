"""Credits and queues by values."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core.credit import CreditMeter, CreditWindow
from overlay.core.effects import Neighbour, Peer
from overlay.core.fair_queue import QueueBudget
from overlay.core.wire import CLOSE, CellError

ALICE, BOB = Peer(False, b"alice"), Peer(True, b"bob")
OF_ALICE, OF_BOB = Neighbour(False, b"alice"), Neighbour(True, b"bob")


def frame(path: int, number: int, kind: int = 1, size: int = 2048) -> bytes:
    return path.to_bytes(8, "big") + bytes((kind,)) + number.to_bytes(size - 9, "big")


def link_id(path: int) -> bytes:
    return path.to_bytes(8, "big")


@given(st.lists(st.integers(0, 9)), st.integers(1, 16))
def test_meter_and_window_agree(consumed: list[int], step: int) -> None:
    """The sender sends all it may, the receiver consumes some: both know the same credit."""
    meter, window = CreditMeter(16, step), CreditWindow(16, 16)
    for cells in consumed:
        while window.take():
            meter.arrived()
        with pytest.raises(CellError):
            meter.arrived()
        granted = meter.consumed(min(cells, meter.held))
        assert granted == 0 or granted >= step
        window.grant(granted)
        assert meter.held <= 16
        assert window.credits == granted


def test_credit_comes_back_in_steps() -> None:
    meter = CreditMeter(128, 32)
    for _ in range(64):
        meter.arrived()
    assert [meter.consumed() for _ in range(64)] == ([0] * 31 + [32]) * 2
    with pytest.raises(ValueError, match="than arrived"):
        meter.consumed()


def test_a_grant_beyond_the_window_is_an_error() -> None:
    window = CreditWindow(250, 256)
    window.grant(6)
    with pytest.raises(CellError):
        window.grant(1)
    assert window.credits == 256


@pytest.mark.parametrize("step", [0, 17])
def test_a_step_is_within_the_limit(step: int) -> None:
    with pytest.raises(ValueError, match="grants"):
        CreditMeter(16, step)


def test_paths_take_turns_and_keep_their_order() -> None:
    queue = QueueBudget(1 << 20).queue(ALICE, OF_ALICE)
    for path, number in ((1, 0), (1, 1), (1, 2), (2, 0), (3, 0), (3, 1)):
        assert queue.put(frame(path, number))
    taken = [queue.take() for _ in range(6)]
    assert taken == [
        frame(path, number) for path, number in ((1, 0), (2, 0), (3, 0), (1, 1), (3, 1), (1, 2))
    ]
    assert queue.take() is None


def test_a_path_that_overflows_loses_its_frames_and_no_other_does() -> None:
    budget = QueueBudget(1 << 20, max_frames_an_id=3)
    queue = budget.queue(ALICE, OF_ALICE)
    assert all(queue.put(frame(1, number)) for number in range(3))
    assert queue.put(frame(2, 0))
    assert not queue.put(frame(1, 3))
    assert (len(queue), budget.bytes) == (1, 2048)
    assert queue.take() == frame(2, 0)


def test_a_close_takes_the_place_of_what_waited() -> None:
    budget = QueueBudget(1 << 20, max_frames_an_id=3)
    queue = budget.queue(ALICE, OF_ALICE)
    for number in range(3):
        queue.put(frame(1, number))
    queue.put(frame(2, 0))
    assert queue.put(frame(1, 9, CLOSE))
    assert (len(queue), budget.bytes) == (2, 2 * 2048)
    assert [queue.take(), queue.take(), queue.take()] == [frame(1, 9, CLOSE), frame(2, 0), None]


def test_over_the_budget_the_largest_paths_are_shed() -> None:
    budget = QueueBudget(20 * 2048)
    queue = budget.queue(ALICE, OF_ALICE)
    for path, count in ((1, 3), (2, 9), (3, 8)):
        for number in range(count):
            queue.put(frame(path, number))
    assert budget.over() == []
    queue.put(frame(1, 3))
    assert budget.over() == [(ALICE, link_id(2))]
    assert budget.bytes == 12 * 2048
    assert budget.over() == []


def test_over_the_budget_whoever_does_not_read_loses_its_own() -> None:
    """Many small paths on several links of one neighbour, few large ones of another."""
    budget = QueueBudget(100 * 2048)
    for number in range(12):
        budget.queue(BOB, OF_BOB).put(frame(1 + number % 4, number))
    links = [Peer(False, b"%d" % number) for number in range(30)]
    shed = []
    for number in range(1000):
        budget.queue(links[number % 30], OF_ALICE).put(frame(9 + number, 0))
        shed += budget.over()
    assert len(shed) > 800
    assert not any(peer == BOB for peer, _ in shed)
    assert budget.bytes <= 100 * 2048


def test_over_the_budget_two_that_do_not_read_are_brought_level() -> None:
    budget = QueueBudget(100 * 2048)
    for number in range(30):
        budget.queue(ALICE, OF_ALICE).put(frame(number, 0))
    for number in range(71):
        budget.queue(BOB, OF_BOB).put(frame(number, 0))
    assert {peer for peer, _ in budget.over()} == {BOB}
    for number in range(100, 130):
        budget.queue(ALICE, OF_ALICE).put(frame(number, 0))
    budget.over()
    assert len(budget.queue(ALICE, OF_ALICE)) == len(budget.queue(BOB, OF_BOB)) == 45


def test_a_neighbour_that_is_gone_leaves_nothing() -> None:
    budget = QueueBudget(1 << 20)
    budget.queue(ALICE, OF_ALICE).put(frame(1, 0))
    budget.queue(BOB, OF_BOB).put(frame(1, 0))
    budget.drop(ALICE)
    budget.drop(ALICE)
    assert budget.bytes == 2048
    assert len(budget.queue(ALICE, OF_ALICE)) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(("put", "put", "close", "take", "purge")), st.integers(1, 4))
    )
)
def test_queue_agrees_with_a_plain_model(events: list[tuple[str, int]]) -> None:
    budget = QueueBudget(1 << 20, max_frames_an_id=4)
    queue = budget.queue(ALICE, OF_ALICE)
    model: dict[int, list[bytes]] = {}  # in the order of turns
    for number, (event, path) in enumerate(events):
        if event == "take":
            expected = None
            if model:
                turn, waiting = next(iter(model.items()))
                del model[turn]
                expected = waiting[0]
                if waiting[1:]:
                    model[turn] = waiting[1:]
            assert queue.take() == expected
        elif event == "purge":
            queue.purge(link_id(path))
            model.pop(path, None)
        elif event == "close":
            assert queue.put(frame(path, number, CLOSE))
            model[path] = [frame(path, number, CLOSE)]
        elif len(model.get(path, [])) == 4:
            assert not queue.put(frame(path, number))
            del model[path]
        else:
            assert queue.put(frame(path, number))
            model.setdefault(path, []).append(frame(path, number))
        assert len(queue) == sum(map(len, model.values()))
        assert budget.bytes == 2048 * len(queue)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_no_path_waits_longer_than_a_round(counts: list[int]) -> None:
    queue = QueueBudget(1 << 30).queue(ALICE, OF_ALICE)
    for path, count in enumerate(counts, start=1):
        for number in range(count):
            queue.put(frame(path, number))
    order = []
    while (taken := queue.take()) is not None:
        order.append(int.from_bytes(taken[:8], "big"))
    for path, count in enumerate(counts, start=1):
        places = [place for place, served in enumerate(order) if served == path]
        assert len(places) == count
        assert places[0] < len(counts)
        assert all(b - a <= len(counts) for a, b in pairwise(places))

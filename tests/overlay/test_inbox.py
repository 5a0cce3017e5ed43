"""A model node's inbox by values: requests taken once, answers on every stream, bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core import answering
from overlay.core.effects import Peer
from overlay.core.reasons import Reason
from overlay.core.replay_filter import ReplayFilter
from overlay.core.request import DUMMY
from tests.overlay.door import PERIOD, Door, N, assembler, cut, read, running, take_up
from tests.overlay.tables import edges


def test_the_table_lists_the_transitions() -> None:
    named = {(before, after) for before, _, after in answering.TRANSITIONS}
    states = [
        *(answering.WAITING, answering.RUNNING, answering.PAUSED),
        *(answering.LINGERING, answering.OVER),
    ]
    assert edges(answering.__doc__, states) == named


@given(st.binary(max_size=6000), st.permutations(range(N)), st.lists(st.binary(max_size=9000)))
@settings(max_examples=30, deadline=None)
def test_a_request_and_its_answer_survive_any_order(
    payload: bytes, order: list[int], pieces: list[bytes]
) -> None:
    door = Door()
    request = door.request(payload)
    routes = running(door, request, order)
    (ready,) = door.ready
    assert ready.payload == payload
    for piece in pieces:
        door.write(piece)
    door.finish()
    door.advance(5.0)
    back = assembler(request)
    assert read(back, door, routes) == b"".join(pieces)
    assert back.complete
    assert back.polluted == {}
    assert door.answered == [ready.request_id]


@pytest.mark.parametrize("lost", range(N))
def test_any_one_path_may_be_lost(lost: int) -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [index for index in range(N) if index != lost])
    door.write(b"hi")
    door.finish()
    door.advance(1.0)
    assert read(assembler(request), door, routes) == b"hi"


def test_two_cloves_do_not_open_a_request() -> None:
    door = Door()
    door.deliver(door.request(), [0, 1])
    assert door.ready == []
    door.advance(12.0)
    assert set(door.ended.values()) == {Reason.EXPIRED}
    assert door.counted["request_incomplete"] == 1


def test_a_late_path_gets_the_frames_that_it_missed() -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [0, 1, 2])
    door.write(b"early ")
    door.write(b"late")
    door.advance(0.6)
    routes |= running(door, request, [3])
    assert len(door.arrived[routes[3]]) == len(door.arrived[routes[0]]) > 5
    del routes[0]
    assert read(assembler(request), door, routes) == b"early late"


def test_a_path_that_is_late_for_a_whole_answer_still_gets_it() -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [0, 1, 2])
    door.write(b"all")
    door.finish()
    door.advance(1.0)
    routes |= running(door, request, [3])
    del routes[1]
    back = assembler(request)
    assert (read(back, door, routes), back.complete) == (b"all", True)
    door.advance(20.0)
    assert door.kept == []


def test_an_answer_is_forgotten_when_its_client_has_it() -> None:
    door = Door()
    routes = running(door, door.request(), [0, 1, 2, 3])
    door.finish()
    door.advance(1.0)
    for index in range(3):
        door.end(routes[index])
    assert door.ended == {routes[3]: Reason.NONE}
    assert door.inbox._requests == {}
    assert door.gone == []


@pytest.mark.parametrize("again", [[0, 1, 2], [3, 0, 1, 2]])
def test_a_replayed_request_is_not_opened_again(again: list[int]) -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    door.finish()
    door.advance(100.0)
    routes = door.deliver(request, again)
    assert len(door.ready) == 1
    assert {door.ended[route] for route in routes} == {Reason.REPLAYED}


def test_a_clove_that_is_repeated_while_its_request_runs_gets_nothing() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    (again,) = door.deliver(request, [0])
    door.write(b"hi")
    door.advance(2.0)
    assert (door.arrived[again], door.ended[again]) == ([], Reason.TARGET_REFUSED)


def test_a_request_that_was_written_down_is_not_taken_after_a_restart() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    (taken,) = door.remembered
    replay = ReplayFilter(b"another secret!!", PERIOD)
    replay.take(taken.period, taken.entry)
    restarted = Door(seed=6, replay=replay)
    routes = restarted.deliver(request, [0, 1, 2])
    assert restarted.ready == []
    assert restarted.ended[routes[0]] == Reason.REPLAYED


@pytest.mark.parametrize(("difference", "taken"), [(-2, 0), (-1, 1), (0, 1), (1, 1), (2, 0)])
def test_requests_of_another_time_are_refused(difference: int, taken: int) -> None:
    door, asker = Door(), Door(period=PERIOD + difference)
    routes = door.deliver(asker.request(), [0, 1, 2])
    assert len(door.ready) == taken
    if not taken:
        assert {door.ended[route] for route in routes} == {Reason.PERIOD}


def test_periods_pass() -> None:
    door = Door()
    door.period += 2
    door.advance(1.0)
    door.deliver(door.request(), [0, 1, 2])
    door.deliver(Door(seed=8).request(), [0, 1, 2])
    assert (len(door.ready), door.counted["clove_untimely"]) == (1, 3)


def test_a_request_whose_client_left_is_gone_at_once() -> None:
    door = Door()
    routes = running(door, door.request(), [0, 1, 2, 3])
    for index in (0, 1, 2):
        assert door.gone == []
        door.end(routes[index])
    assert door.gone == [door.ready[0].request_id]
    assert door.wakes == {}
    door.write(b"to nobody")
    door.finish()
    assert door.inbox.has_room(door.ready[0].request_id)


def test_an_answer_waits_for_paths_and_then_no_longer() -> None:
    door = Door()
    routes = running(door, door.request(), [0, 1, 2, 3])
    door.write(b"accepted")
    door.write(b"token")
    door.advance(0.4)
    door.end(routes[0], Reason.NEIGHBOUR_GONE)
    before = len(door.arrived[routes[3]])
    door.advance(0.4)
    assert len(door.arrived[routes[3]]) == before + 4
    door.end(routes[1], Reason.NEIGHBOUR_GONE)
    assert door.wakes == {}
    door.advance(14.0)
    assert len(door.arrived[routes[3]]) == before + 4
    assert door.gone == []
    door.advance(3.0)
    assert door.gone == [door.ready[0].request_id]
    assert door.ended[routes[2]] == door.ended[routes[3]] == Reason.EXPIRED


def test_a_polluted_clove_is_named_and_the_answer_is_whole() -> None:
    """Made by who knows the message id: any other clove does not even open."""
    door = Door()
    request, other = door.request(b"asked" * 999), Door(seed=5).request(b"other" * 999)
    polluted = door.stream(0, other.streams[0])  # the same seed: of the same message id
    routes = running(door, request, [1, 2, 3])
    door.advance(0.2)
    assert door.ready[0].payload == b"asked" * 999
    assert door.ended == {polluted: Reason.TARGET_REFUSED}
    assert door.counted["clove_polluted"] == 1
    door.write(b"fine")
    door.finish()
    door.advance(1.0)
    assert read(assembler(request), door, routes) == b"fine"
    assert door.stream(0, take_up(door, other, 0, 0, 0)) in door.ended


def test_a_polluted_clove_that_was_taken_up_elsewhere_is_named_and_the_answer_is_whole() -> None:
    door = Door()
    request, other = door.request(b"asked" * 999), Door(seed=5).request(b"other" * 999)
    first = door.stream(0, other.streams[0])
    moved = [door.stream(9, take_up(door, other, 0, number, 0)) for number in range(2)]
    routes = running(door, request, [1, 2, 3])
    door.advance(1.0)
    assert door.ready[0].payload == b"asked" * 999
    assert door.ended == dict.fromkeys((first, moved[0]), Reason.NONE) | {
        moved[1]: Reason.TARGET_REFUSED
    }
    refused = door.stream(9, take_up(door, other, 0, 2, 0))
    assert door.ended[refused] == Reason.TARGET_REFUSED
    door.write(b"fine")
    door.finish()
    door.advance(30.0)
    assert read(assembler(request), door, routes) == b"fine"
    assert door.kept == []


def test_an_opening_that_fails_leaves_nothing_for_the_next_asker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of our own, such as memory that is short, on either side of the books."""
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1])
    for place in ("overlay.core.inbox.try_to_open", "overlay.core.answering.Pacing"):
        with monkeypatch.context() as patch:
            patch.setattr(place, failing)
            with pytest.raises(MemoryError):
                door.deliver(request, [2])
        assert door.inbox._notes == []
        request = door.request()
        door.deliver(request, [0, 1])
    door.deliver(request, [2])
    assert [item.entry for item in door.remembered] == [door.ready[0].request_id]
    door.finish()
    door.advance(40.0)
    assert door.kept == []


def failing(*_: object) -> None:
    raise MemoryError


@given(st.integers(0, 3), st.integers(2, 1949), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_damaged_clove_is_refused_and_the_others_suffice(
    index: int, place: int, change: int
) -> None:
    door = Door()
    request = door.request()
    damaged = bytearray(request.streams[index])
    damaged[place] ^= change
    refused = door.stream(index, bytes(damaged))
    door.deliver(request, [other for other in range(N) if other != index])
    assert [ready.payload for ready in door.ready] == [b"question"]
    assert door.ended == {refused: Reason.TARGET_REFUSED}


def test_cloves_of_two_requests_under_one_id_open_nothing() -> None:
    door = Door()
    request, other = door.request(b"asked" * 999), Door(seed=5).request(b"other" * 999)
    for index, part in enumerate([request, other, request, other]):
        door.stream(index, part.streams[index])
    door.advance(0.2)
    assert door.ready == []
    assert door.counted["request_refused"] == 1
    assert len(door.ended) == 4


def test_a_request_with_other_thresholds_than_the_first_clove_is_refused() -> None:
    door = Door()
    door.deliver(door.request(), [0])
    (refused,) = Door(seed=5).request(n=5).streams[1:2]
    assert door.ended[door.stream(1, refused)] == Reason.TARGET_REFUSED


def test_a_dummy_is_answered_without_the_engine_as_late_as_a_question() -> None:
    door = Door()
    dummy = door.request(b"", DUMMY, 20)
    routes = running(door, dummy, [0, 1, 2])
    door.advance(3.0)
    back = assembler(dummy)
    assert (read(back, door, routes), back.complete, door.ready) == (b"", True, [])
    times = [at_s for at_s, route in door.times if route == routes[0]]
    assert len(times) == 1 + 24
    assert 0.07 < times[1] - times[0] < 0.9
    assert door.gone == door.answered == []
    door.deliver(door.request(), [0, 1, 2])
    door.write(b"accepted")
    door.advance(0.7)
    door.write(b"token")
    door.write(b"another")
    refuse(door)
    late = running(door, door.request(b"", DUMMY, 20), [0, 1, 2])
    began_s = door.now_s
    door.advance(2.5)
    times = [at_s - began_s for at_s, route in door.times if route == late[0]]
    assert times[0] == 0.0
    assert 0.2 < times[1] < 2.3
    assert abs(times[1] - 0.7) > 0.001


def refuse(door: Door) -> None:
    """A question that no engine answers says nothing of how long engines take."""
    door.deliver(door.request(n=1, k=1), [0])
    door.write(b"accepted")
    door.write(b"refused")
    door.finish()


def test_one_neighbour_has_one_say_in_how_late_dummies_are() -> None:
    door = Door()
    for relay, delay_s in ((1, 0.7), *((0, 0.01),) * 100):
        door.stream(relay, door.request(n=1, k=1).streams[0])
        door.write(b"accepted")
        door.advance(delay_s)
        door.write(b"token")
        door.write(b"another")
        door.finish()
        door.advance(1.0)
    assert sorted(door.inbox._lateness._delays_s.values()) == pytest.approx([0.01, 0.7])


def test_a_chunk_after_the_clove_ends_the_stream() -> None:
    door = Door()
    routes = door.deliver(door.request(), [0, 1, 2])
    door.feed(routes[0], b"more")
    assert door.ended == {routes[0]: Reason.PROTOCOL}


def test_a_link_that_is_lost_takes_its_streams_along() -> None:
    door = Door()
    request = door.request()
    streams = [door.stream(0, stream) for stream in request.streams]
    half = door.stream(0, b"\0\2")
    door.apply(door.inbox.peer_gone(streams[0].peer, door.now_s))
    assert door.kept == ["_requests", "_known", "_running"]
    door.end(half)
    door.advance(17.0)
    assert len(door.gone) == 1


def test_a_stream_that_was_shed_is_ended() -> None:
    door = Door()
    routes = door.deliver(door.request(), [0, 1, 2, 3])
    backward = next(b for b, route in door.inbox._by_backward.items() if route == routes[2])
    door.apply(door.inbox.stream_shed(backward.peer, backward.link_id, door.now_s))
    door.apply(door.inbox.stream_shed(backward.peer, backward.link_id, door.now_s))
    door.apply(door.inbox.stream_shed(Peer(False, b"x"), bytes(8), door.now_s))
    assert door.ended == {routes[2]: Reason.SHED}


def test_every_chunk_of_an_answer_has_one_size() -> None:
    door = Door()
    routes = running(door, door.request(), [0, 1, 2, 3])
    for data in (b"a", b"", b"b" * 9000):
        door.write(data)
        door.advance(1.2)
    door.finish()
    door.advance(2.0)
    chunks = [chunk for route in routes.values() for chunk in door.arrived[route]]
    assert {len(chunk) for chunk in chunks} == {1970}


def test_a_stream_is_cut_where_its_first_cell_names_the_target() -> None:
    assert [len(chunk) for chunk in cut(Door().request(bytes(9000)).streams[0])] == [1950, 1970]

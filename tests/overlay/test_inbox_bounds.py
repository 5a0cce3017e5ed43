"""What a model node keeps, and whom it answers when not all can be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core import frames, pacing
from overlay.core.effects import Count, Neighbour, Peer
from overlay.core.inbox import Inbox, InboxLimits
from overlay.core.load import NODE_STREAMS, STRANGER_STREAMS, Load, LoadLimits
from overlay.core.reasons import Reason
from overlay.core.request import DUMMY, QUESTION
from overlay.core.wire import CELL, CLOSE, FRAME_BYTES, SETUP, STREAM, STREAM_END, encode_frame
from tests.overlay.door import PERIOD, Door
from tests.overlay.test_inbox_attaches import number


def test_only_a_window_of_frames_is_kept() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    door.write(b"accepted")
    door.write(b"token")
    door.advance(20.0)
    (late,) = door.deliver(request, [3])
    numbers = [number(request.path_keys[3], chunk) for chunk in door.arrived[late]]
    assert numbers == list(range(numbers[-1] - frames.WINDOW_FRAMES + 1, numbers[-1] + 1))


def test_kept_frames_are_bounded_and_the_largest_answers_give_way() -> None:
    door = Door(InboxLimits(max_kept_bytes=40_000))
    requests = [door.request(), door.request()]
    for request in requests:
        door.deliver(request, [0, 1, 2])
    door.write(b"a", 0)
    door.write(bytes(100_000), 1)
    door.advance(1.0)
    door.write(b"b", 0)
    door.write(b"c", 1)
    door.advance(2.0)
    assert door.inbox._kept_bytes <= 40_000
    small, large = (door.deliver(request, [3])[0] for request in requests)
    assert number(requests[0].path_keys[3], door.arrived[small][0]) == 0
    assert number(requests[1].path_keys[3], door.arrived[large][0]) > 10


def test_so_many_requests_run_and_no_more() -> None:
    door = Door(InboxLimits(load=LoadLimits(max_cloves=8)))
    for kind in (DUMMY, QUESTION, DUMMY, QUESTION):
        door.deliver(door.request(b"", kind), [0, 1, 2])
    assert (len(door.ready), door.counted["dummy_opened"]) == (1, 1)
    assert door.counted["requests_full"] == 2
    door.finish()
    door.advance(2.0)
    door.deliver(door.request(), [0, 1, 2])
    assert len(door.ready) == 2


def test_who_sends_many_beginnings_crowds_out_only_beginnings() -> None:
    door = Door(InboxLimits(max_streams=3, max_requests=3))
    request = door.request()
    routes = door.deliver(request, [0, 1, 2])
    started = [door.stream(8, b"\0\2") for _ in range(5)]
    assert [route in door.ended for route in started] == [True, True, False, False, False]
    waiting = [door.deliver(door.request(), [0])[0] for _ in range(4)]
    assert [route in door.ended for route in waiting] == [True, True, False, False]
    assert not any(route in door.ended for route in routes)


def test_buffers_are_bounded() -> None:
    door = Door(InboxLimits(max_buffered_bytes=5000))
    waits = door.deliver(door.request(), [0])[0]
    door.advance(1.0)
    streams = [door.stream(1, b"\0\3" + bytes(1900)) for _ in range(3)]
    assert [route in door.ended for route in (waits, *streams)] == [True, True, False, False]
    assert door.inbox._buffered_bytes == 2 * 1902
    door.advance(12.0)
    assert door.inbox._buffered_bytes == 0
    assert door.inbox._streams == {}


def test_an_answer_that_is_not_sent_as_fast_as_it_is_made_has_no_room() -> None:
    door = Door()
    door.deliver(door.request(), [0, 1, 2])
    (ready,) = door.ready
    door.write(b"accepted")
    door.write(bytes(pacing.MAX_UNSENT_BYTES))
    assert not door.inbox.has_room(ready.request_id)
    door.advance(0.1)
    assert door.inbox.has_room(ready.request_id)


FRAMES = st.builds(
    encode_frame,
    st.sampled_from([bytes(8), b"\1" * 8]),
    st.sampled_from([SETUP, CELL, CLOSE, STREAM, STREAM, STREAM, STREAM_END]),
    st.one_of(
        st.binary(min_size=2039, max_size=2039),
        st.builds(
            lambda data: (len(data).to_bytes(2, "big") + data).ljust(2039, b"\0"),
            st.one_of(st.binary(max_size=40), st.just(b"\0\1" + bytes(1948)), st.just(bytes(38))),
        ),
    ),
)


@given(st.lists(st.one_of(st.binary(max_size=80), FRAMES), max_size=20))
@settings(max_examples=200, deadline=None)
def test_garbage_opens_nothing_and_leaves_nothing(arriving: list[bytes]) -> None:
    door = Door()
    for frame in arriving:
        effects = door.inbox.frame_arrived(Peer(False, b"anyone"), frame, 0.0)
        assert len(frame) == FRAME_BYTES or effects == [Count("frame_malformed")]
    door.inbox.tick(100.0, PERIOD)
    assert door.kept == []


def stranger(peer: Peer) -> Neighbour:
    return Neighbour(False, peer.name)


def test_questions_that_are_dropped_at_once_keep_nobody_out() -> None:
    """One relay asks with one clove a question, a thousand times, and breaks each stream."""
    door = Door()
    for count in range(1024):
        door.now_s += 0.1
        route = door.stream(9, door.request(n=1, k=1).streams[0])
        door.end(route, Reason.NEIGHBOUR_GONE)
        assert door.inbox.running <= LoadLimits().max_cloves_a_node, count
    before = len(door.ready)
    door.deliver(door.request(), [0, 1, 2])
    assert len(door.ready) == before + 1


def test_what_is_paused_gives_way_to_what_has_its_paths() -> None:
    door = Door(InboxLimits(load=LoadLimits(max_cloves=8)))
    paused = door.deliver(door.request(), [0, 1, 2])
    door.deliver(door.request(), [0, 1, 2])
    door.end(paused[0], Reason.NEIGHBOUR_GONE)
    door.deliver(door.request(), [0, 1, 2])
    assert len(door.ready) == 3
    assert door.gone == [door.ready[0].request_id]
    assert door.ended[paused[1]] == door.ended[paused[2]] == Reason.QUOTA


def test_the_neighbour_with_most_gives_way_and_only_to_who_has_half_as_much() -> None:
    door = Door(InboxLimits(load=LoadLimits(max_cloves=16)))
    for _ in range(4):
        door.deliver(door.request(), [0, 1, 2])
    door.deliver(door.request(), [1, 2, 3])
    door.deliver(door.request(), [1, 2, 3])
    door.deliver(door.request(), [1, 2, 3])
    assert door.gone == [door.ready[3].request_id]
    assert (len(door.ready), door.counted["requests_full"]) == (5, 2)


def test_a_stranger_has_a_small_share() -> None:
    door = Door(neighbour=stranger)
    share = LoadLimits().max_cloves_a_stranger // 4
    for _ in range(share + 1):
        door.advance(1.0)
        door.deliver(door.request(), [0, 1, 2])
    assert len(door.ready) == share
    door.deliver(door.request(), [1, 2, 3])
    assert len(door.ready) == share + 1


def test_streams_have_a_rate() -> None:
    for neighbour, rate in ((None, NODE_STREAMS), (stranger, STRANGER_STREAMS)):
        door = Door() if neighbour is None else Door(neighbour=neighbour)
        for _ in range(rate.burst):
            assert door.stream(0, b"\0\2") not in door.ended
        over, another = door.stream(0, b"\0\2"), door.stream(1, b"\0\2")
        assert door.ended == {over: Reason.QUOTA}
        door.advance(1.0)
        assert door.stream(0, b"\0\2") not in door.ended
        assert another not in door.ended


NEIGHBOURS = [Neighbour(True, b"a"), Neighbour(True, b"b"), Neighbour(False, b"c")]
STEPS = st.tuples(st.integers(0, 9), st.sampled_from(NEIGHBOURS), st.integers(1, 16))


@given(st.lists(STEPS, max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_load_is_within_its_limits_whoever_asks(
    steps: list[tuple[int, Neighbour, int]],
) -> None:
    limits = LoadLimits(24, 20, 6)
    load = Load(limits)
    cloves: dict[bytes, tuple[Neighbour, int]] = {}
    for count, (what, neighbour, n) in enumerate(steps):
        if what == 0 and cloves:
            gone = next(iter(cloves))
            del cloves[gone]
            load.end(gone)
        elif what == 1 and cloves:
            load.pause(next(reversed(cloves)), True)
        else:
            room = load.room(neighbour, n)
            for request_id in room or []:
                load.end(request_id)
                del cloves[request_id]
            if room is not None:
                request_id = bytes((count,))
                load.begin(request_id, neighbour, n)
                cloves[request_id] = neighbour, n
        assert sum(n for _, n in cloves.values()) <= 24
        for one in NEIGHBOURS:
            assert sum(n for owner, n in cloves.values() if owner == one) <= limits.share(one)
    assert len(load) == len(cloves)


def test_the_largest_answer_is_not_looked_for_at_each_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = 0
    forget = Inbox._forget_frames

    def counted(inbox: Inbox) -> None:
        nonlocal looked
        looked += 1
        forget(inbox)

    monkeypatch.setattr(Inbox, "_forget_frames", counted)
    door = Door(InboxLimits(max_kept_bytes=40_000))
    for _ in range(4):
        door.deliver(door.request(), [0, 1, 2])
    for request in range(4):
        door.write(b"a", request)
        door.write(b"b", request)
    door.advance(20.0)
    assert len(door.times) > 4 * 3 * 190
    assert 0 < looked < 190

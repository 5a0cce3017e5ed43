"""How much a model node does at a time to open what arrives, and for whom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core import opening, padding, sealed, sida
from overlay.core.answering import Route
from overlay.core.effects import Neighbour, Peer
from overlay.core.opening import AGAIN_S, AHEAD_S, MAX_AGAIN, SHARE_OF_A_CORE, Turns
from overlay.core.reasons import Reason
from overlay.core.request import HEADER_BYTES
from overlay.core.sida import Clove
from tests.overlay.door import PUBLIC, TARGET, Door, cut, id_of, sealed_stream

NEIGHBOURS = tuple(Neighbour(True, bytes((name,))) for name in range(3))


def polluted(door: Door, n: int, k: int, bad: Iterable[int], message: int = 1) -> list[bytes]:
    """The streams of a question, of which these bring nothing of it."""
    size = padding.request_bytes(1, k)
    plain = (bytes(3) + (5).to_bytes(4, "big") + b"hello").ljust(size, b"\0")
    assert len(plain) > HEADER_BYTES
    info = b"planetserve/request/v2\0" + TARGET
    request = sealed.seal(PUBLIC, info, plain, door.entropy(32)).data
    cloves = list(sida.split(request, n, k, door.entropy(sida.random_bytes_needed(k))))
    for index in bad:
        fragment = b"\xff" * len(cloves[index].fragment)
        cloves[index] = replace(cloves[index], fragment=fragment)
    return [sealed_stream(id_of(message), clove, door.entropy(32)) for clove in cloves]


def when_tried(door: Door, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    tried: list[float] = []
    opens = sida._open

    def noting(chosen: tuple[Clove, ...]) -> tuple[bytes, bytes, bytes]:
        tried.append(door.now_s)
        return opens(chosen)

    monkeypatch.setattr(sida, "_open", noting)
    return tried


@pytest.mark.parametrize(("n", "k"), [(4, 3), (8, 3), (16, 3), (16, 8), (16, 15)])
@pytest.mark.parametrize("place", [0, -1])
def test_a_polluted_clove_is_named_wherever_it_is(n: int, k: int, place: int) -> None:
    """Of those that are there when the request opens."""
    door = Door()
    bad = (k + place) % k
    routes = [door.stream(i % 4, data) for i, data in enumerate(polluted(door, n, k, [bad]))]
    door.advance(1.0)
    assert [ready.payload for ready in door.ready] == [b"hello"]
    assert door.ended == {routes[bad]: Reason.TARGET_REFUSED}
    assert door.counted["clove_polluted"] == 1


def test_a_request_with_too_many_polluted_cloves_is_refused_after_so_many_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One with the third clove, the others apart from each other, whatever arrives."""
    door = Door()
    tried = when_tried(door, monkeypatch)
    streams = polluted(door, 16, 3, range(16))
    routes = [door.stream(index % 4, data) for index, data in enumerate(streams)]
    assert tried == [0.0]
    door.advance(sida.MAX_SUBSETS * AGAIN_S + 0.01)
    assert len(tried) == sida.MAX_SUBSETS
    gaps = [later - earlier for earlier, later in pairwise(tried[1:])]
    assert min(gaps) >= AGAIN_S * 0.999
    assert door.ended == dict.fromkeys(routes, Reason.TARGET_REFUSED)
    assert door.kept == []
    door.advance(30.0)
    assert len(tried) == sida.MAX_SUBSETS


def test_many_such_requests_try_no_more_at_a_time_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Door()
    tried = when_tried(door, monkeypatch)
    for message in range(MAX_AGAIN + 40):
        for index, data in enumerate(polluted(door, 5, 3, range(5), message)):
            door.stream(index, data)
        door.advance(0.005)
    door.advance(0.1)
    assert len(door.inbox._turns) == MAX_AGAIN
    assert door.counted["request_refused"] > 1
    before = len(tried)
    door.advance(5.0)
    assert 90 <= len(tried) - before <= 5.0 / AGAIN_S + 1
    door.advance(40.0)
    assert door.kept == []


def test_a_burst_of_cloves_is_opened_in_turns_and_frames_leave_between() -> None:
    """Two hundred last chunks arrive at once: few are opened then, none by one who has brought
    many before one who brought few, and no frame is late by more than a piece of work."""
    door = Door()
    door.deliver(door.request(), [0, 1, 2])
    door.write(b"accepted")
    door.write(b"token")
    door.advance(1.0)
    many = [cut(door.request(n=1, k=1).streams[0]) for _ in range(200)]
    routes = [door.route(7) for _ in many]
    for route, chunks in zip(routes, many, strict=True):
        door.feed(route, chunks[0])
    asked = door.request(b"few")
    before = len(door.ready)
    assert 1 < before < 200
    few = door.deliver(asked, [0, 1, 2])
    assert len(door.ready) == before
    opened: list[int] = []
    while not any(ready.payload == b"few" for ready in door.ready):
        door.advance(0.001)
        opened.append(len(door.ready))
        assert len(opened) < 40
    assert max(later - earlier for earlier, later in pairwise(opened)) <= 3
    assert not any(route in door.ended for route in few)
    door.advance(1.0)
    assert len(door.ready) == 202
    assert not door.inbox._turns


def test_a_stream_that_waits_for_its_turn_may_end_or_say_too_much() -> None:
    door = Door()
    streams = [door.request(n=1, k=1).streams[0] for _ in range(60)]
    routes = [door.stream(7, data) for data in streams]
    assert len(door.inbox._turns) > 2
    door.end(routes[-1])
    door.feed(routes[-2], b"more")
    assert door.ended == {routes[-2]: Reason.PROTOCOL}
    door.apply(door.inbox.peer_gone(routes[-3].peer, door.now_s))
    assert len(door.inbox._turns) == 0
    door.advance(40.0)
    assert door.kept == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 9)), max_size=80))
@settings(deadline=None)
def test_no_more_than_half_a_core_is_booked_and_neighbours_take_turns(
    steps: list[tuple[int, int, int]],
) -> None:
    turns = Turns()
    now_s = work_s = 0.0
    waiting: dict[Route, Neighbour] = {}
    again: set[bytes] = set()
    served: list[Neighbour] = []
    for count, (what, who, size) in enumerate(steps):
        route = Route(Peer(False, bytes((who,))), count.to_bytes(8, "big"))
        if what == 0 and turns.at_once(now_s):
            assert not waiting
            turns.clove(size << 17, now_s)
            work_s += opening.CLOVE_S + (size << 17) * opening.CLOVE_S_A_BYTE
        elif what <= 1:
            turns.wait(NEIGHBOURS[who], route)
            waiting[route] = NEIGHBOURS[who]
        elif what == 2:
            assert turns.again(bytes((size,)))
            again.add(bytes((size,)))
        elif what == 3 and waiting:
            gone = next(iter(waiting))
            turns.forget_stream(gone)
            del waiting[gone]
        elif what == 4:
            now_s += size / 100
        else:
            item = turns.next(now_s)
            if isinstance(item, Route):
                served.append(waiting.pop(item))
                turns.clove(size << 17, now_s)
                work_s += opening.CLOVE_S + (size << 17) * opening.CLOVE_S_A_BYTE
            elif item is not None:
                assert not waiting
                again.remove(item)
                turns.attempt(size << 17, now_s)
                work_s += opening.TRY_S + (size << 17) * opening.TRY_S_A_BYTE
        assert len(turns) == len(waiting) + len(again)
        assert (turns.due_s() is None) == (len(turns) == 0)
        most = opening.TRY_S + (9 << 17) * opening.TRY_S_A_BYTE
        assert work_s <= (now_s + AHEAD_S) * SHARE_OF_A_CORE + most


def test_whoever_waits_is_served_in_turn() -> None:
    turns = Turns()
    for count in range(6):
        turns.wait(NEIGHBOURS[0], Route(Peer(False, b"0"), bytes((count,)) * 8))
    for who in (1, 2):
        turns.wait(NEIGHBOURS[who], Route(Peer(False, b"x"), bytes((who,)) * 8))
    served = [turns.next(0.0) for _ in range(4)]
    names = [item.link_id[:1] for item in served if isinstance(item, Route)]
    assert names == [b"\0", b"\1", b"\2", b"\1"]
    assert turns.again(b"later")
    assert [isinstance(turns.next(0.0), Route) for _ in range(4)] == [True] * 4
    assert turns.next(0.0) == b"later"
    assert turns.next(0.0) is None

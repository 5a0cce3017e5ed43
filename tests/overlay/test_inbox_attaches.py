"""Answers of a model node taken up over new paths: what an attach brings, and how often."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.core import frames
from overlay.core.attach import MAX_ATTACHES, Attach
from overlay.core.reasons import Reason
from tests.overlay.door import Door, assembler, read, running, take_up


def test_an_attach_takes_the_answer_up_from_the_frame_that_it_names() -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [0, 1, 2])
    door.write(b"accepted ")
    door.write(b"token ")
    door.advance(0.22)
    sent = len(door.arrived[routes[1]])
    door.end(routes[1], Reason.NEIGHBOUR_GONE)
    door.write(b"more")
    door.advance(5.0)
    taken = request.sealer.attach(Attach(1, 0, sent - 2), door.entropy)
    new = door.stream(7, taken.data)
    assert [number(taken.path_key, chunk) for chunk in door.arrived[new]] == [sent - 2, sent - 1]
    door.advance(0.2)
    back = assembler(request)
    whole = read(back, door, {0: routes[0], 2: routes[2], 1: routes[1]})
    back.rekey(1, taken.path_key)
    whole += read(back, door, {1: new})
    assert whole == b"accepted token more"
    assert back.polluted == {}


def number(path_key: bytes, chunk: bytes) -> int:
    """Of the frame, as only the asker can tell it."""
    cipher = ChaCha20Poly1305(frames.answer_key(path_key))
    return int.from_bytes(cipher.decrypt(chunk[:12], chunk[12:], None)[:4], "big")


def test_the_old_and_the_new_last_relay_of_a_clove_see_nothing_in_common() -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [0, 1, 2])
    door.write(b"accepted ")
    door.write(b"token ")
    door.advance(0.22)
    door.end(routes[1], Reason.NEIGHBOUR_GONE)
    taken = request.sealer.attach(Attach(1, 0, 0), door.entropy)
    new = door.stream(7, taken.data)
    before, after = door.arrived[routes[1]], door.arrived[new]
    assert [number(taken.path_key, chunk) for chunk in after] == list(range(len(before)))
    seen = {chunk[at : at + 8] for chunk in before for at in range(len(chunk) - 7)}
    assert not any(chunk[at : at + 8] in seen for chunk in after for at in range(len(chunk) - 7))


def test_an_attach_before_the_request_opens_is_kept() -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [0])
    door.end(routes[0], Reason.NEIGHBOUR_GONE)
    new = door.stream(5, take_up(door, request, 0, 0, 0))
    door.deliver(request, [1, 2])
    door.write(b"hi")
    door.advance(0.1)
    assert len(door.arrived[new]) == 1


def test_streams_that_were_lost_before_the_request_opened_pause_it() -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [0, 1])
    door.end(routes[0], Reason.NEIGHBOUR_GONE)
    door.deliver(request, [2])
    assert len(door.ready) == 1
    door.write(b"hi")
    door.advance(1.0)
    assert door.arrived[routes[1]] == []
    door.deliver(request, [3])
    door.advance(0.1)
    assert len(door.arrived[routes[1]]) == 1


def test_an_attach_replaces_the_stream_that_stands() -> None:
    door = Door()
    request = door.request()
    routes = running(door, request, [0, 1, 2])
    new = door.stream(6, take_up(door, request, 2, 0, 0))
    assert door.ended == {routes[2]: Reason.NONE}
    door.write(b"hi")
    door.advance(0.1)
    assert len(door.arrived[new]) == 1
    assert door.arrived[routes[2]] == []


def test_attaches_are_taken_once() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    attaches = [take_up(door, request, 2, number, 0) for number in range(2)]
    held = door.stream(6, attaches[1])
    for data in attaches:
        refused = door.stream(9, data)
        assert door.ended[refused] == Reason.TARGET_REFUSED
    assert held not in door.ended


def test_attaches_of_nobody_are_refused() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    early = door.stream(9, take_up(door, request, 3, 0, 0))
    other = door.stream(9, take_up(door, door.request(), 0, 0, 0))
    forged = bytearray(take_up(door, request, 0, 0, 0))
    forged[-1] ^= 1
    altered = door.stream(9, bytes(forged))
    assert door.ended[early] == door.ended[other] == Reason.TARGET_REFUSED
    assert door.ended[altered] == Reason.TARGET_REFUSED
    assert (door.counted["attach_unknown"], door.counted["attach_refused"]) == (1, 1)
    assert door.counted["clove_refused"] == 1


def test_a_clove_that_is_sealed_anew_is_taken_unless_it_came_before() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    assert door.ended[door.stream(1, request.sealer.clove(1, door.entropy).data)] == (
        Reason.TARGET_REFUSED
    )
    again = request.sealer.clove(3, door.entropy)
    late = door.stream(3, again.data)
    door.write(b"hi")
    door.advance(0.1)
    assert [number(again.path_key, chunk) for chunk in door.arrived[late]] == [0]


def test_an_answer_is_taken_up_so_often_and_no_more() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    attaches = [take_up(door, request, 0, number, 0) for number in range(MAX_ATTACHES)]
    taken = [door.stream(0, data) for data in attaches]
    assert door.counted["attached"] == MAX_ATTACHES
    assert taken[-1] not in door.ended
    assert all(door.ended[door.stream(0, data)] == Reason.TARGET_REFUSED for data in attaches)

"""Faults that `tests.fuzz` found, each as it would have been brought about."""

from __future__ import annotations

import pytest

from overlay.core import sida
from overlay.core.client_path import OPEN, StreamOver
from overlay.core.effects import Peer
from overlay.core.reasons import Reason, Report
from overlay.core.wire import ID_BYTES, STREAM_END, backward_id, encode_frame
from tests.overlay.door import Door, cloves_of_one_cell, id_of, sealed_stream
from tests.overlay.world import OWNER, Carried, World, node_id


@pytest.mark.parametrize(
    "report",
    [
        Report(Reason.PERIOD, bytes(4)),
        Report(Reason.UNKNOWN_NEXT, bytes(16)),
        Report(Reason.PUZZLE, bytes(17)),
    ],
)
def test_a_stream_that_ends_for_a_reason_with_a_detail_costs_no_path(report: Report) -> None:
    """As a model node ends it whose clock is not the asker's."""
    world = World()
    owned = world.build()
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    link_id = backward_id(asked.frame[:ID_BYTES])
    ended = encode_frame(link_id, STREAM_END, report.close_body())
    world.deliver(Carried(asked.receiver, asked.sender, ended, dialled=True))
    assert owned.receive() == [StreamOver(number, report.reason)]
    assert owned.path.phase == OPEN


def test_the_path_that_is_shed_is_the_one_whose_frames_are_lost() -> None:
    """Who builds paths draws their ids, and may draw one that follows from another's."""
    world = World(relays=1)
    world.wire = lambda carried: []
    bodies = [world.begin().setup[ID_BYTES:] for _ in range(2)]
    world.wire = lambda carried: [carried]
    drawn = bytes(ID_BYTES)
    following = backward_id(backward_id(drawn))
    for link_id, body in zip((drawn, following), bodies, strict=True):
        world.deliver(Carried(OWNER, node_id(1), link_id + body))
    (member,) = world.line
    assert member.core.paths == 2
    world.carry_out(member, member.core.shed(Peer(False, OWNER), backward_id(drawn)))
    (left,) = member.core._paths
    assert left.in_id == following


def test_requests_whose_seals_have_one_key_do_not_meet() -> None:
    """An asker seals as it likes; what two seals export is then the same."""
    door, secret = Door(), bytes(range(32))
    clove = cloves_of_one_cell()[0]
    first = door.stream(0, sealed_stream(id_of(1), clove, secret))
    second = door.stream(1, sealed_stream(id_of(2), clove, secret))
    assert door.ended == {}
    door.advance(20.0)
    assert door.ended == {first: Reason.EXPIRED, second: Reason.EXPIRED}
    assert door.kept == []


def test_nor_do_the_cloves_of_one_request() -> None:
    door, secret = Door(), bytes(range(32))
    cloves = cloves_of_one_cell()
    routes = [
        door.stream(number, sealed_stream(id_of(1), cloves[number], secret)) for number in range(2)
    ]
    assert door.ended == {}
    door.advance(20.0)
    assert door.ended == dict.fromkeys(routes, Reason.EXPIRED)
    assert door.kept == []


@pytest.mark.parametrize("k", [1, 2, 3])
def test_cloves_without_a_fragment_keep_no_message_back(k: int) -> None:
    """Where all that were tried first had none, the search took them for the end of its list."""
    cloves = sida.split(b"message", 4, k, bytes(range(sida.random_bytes_needed(k))))
    header_bytes = len(cloves[0].encode()) - len(cloves[0].fragment)
    with pytest.raises(sida.SidaError):
        sida.decode_clove(cloves[0].encode()[:header_bytes])
    for changed in (cloves[0].fragment[:-1], cloves[0].fragment + b"x"):
        with pytest.raises(sida.SidaError):
            sida.decode_clove(cloves[0].encode()[:header_bytes] + changed)

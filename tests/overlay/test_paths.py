"""Paths by values: owners, relays and a model node without sockets."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.client_path import BUILDING, CLOSED, OPEN, Broken, Chunk, Opened, StreamOver
from overlay.core.effects import Peer, Remember
from overlay.core.payload import DATA, Payload
from overlay.core.reasons import Reason, Report
from overlay.core.setup import ephemeral_of, period_of
from overlay.core.wire import (
    BODY_BYTES,
    CELL,
    CLOSE,
    FRAME_BYTES,
    HEADER_BYTES,
    ID_BYTES,
    KINDS,
    SETUP,
    STREAM,
    STREAM_END,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
)
from tests.overlay.world import OWNER, TARGET, Carried, World, node_id


def chunks_at(world: World) -> list[bytes]:
    frames = [decode_frame(carried.frame) for carried in world.at_target()]
    return [read_chunk(frame.body) for frame in frames if frame.kind == STREAM]


def broken(reason: Reason, origin: int | None) -> Broken:
    return Broken(Report(reason), origin)


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_a_path_opens_and_carries_both_ways(hops: int) -> None:
    world = World(relays=hops)
    owned = world.build()
    assert owned.events == [Opened()]
    assert owned.path.phase == OPEN
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    assert read_chunk(decode_frame(asked.frame).body) == b"question"
    world.answer(asked, b"answer")
    assert owned.receive() == [Chunk(number, b"answer")]


@given(st.binary(max_size=20_000))
@settings(max_examples=20, deadline=None)
def test_data_of_any_length_arrive_whole_and_in_order(data: bytes) -> None:
    world = World()
    world.build().ask(data)
    assert b"".join(chunks_at(world)) == data


def test_every_frame_has_one_size_and_every_link_its_own_ids() -> None:
    world = World()
    owned = world.build()
    for number in range(5):
        owned.ask(b"%d" % number)
    assert {len(carried.frame) for carried in world.carried} == {FRAME_BYTES}
    links = [(OWNER, node_id(1)), (node_id(1), node_id(2)), (node_id(2), node_id(3))]
    ids = [
        {c.frame[:ID_BYTES] for c in world.carried if (c.sender, c.receiver) in (link, link[::-1])}
        for link in links
    ]
    assert [len(seen) for seen in ids] == [2, 2, 2]  # one a direction
    assert not any(first & second for first, second in pairwise(ids))


def test_no_relay_but_the_last_sees_the_chunk() -> None:
    world = World()
    world.build().ask(b"a very particular question")
    seen = [c for c in world.carried if b"particular" in c.frame]
    assert [(c.sender, c.receiver) for c in seen] == [(node_id(3), TARGET)]


def flip(frame: bytes, bit: int) -> bytes:
    altered = bytearray(frame)
    altered[bit // 8] ^= 1 << bit % 8
    return bytes(altered)


@given(st.integers(0, FRAME_BYTES * 8 - 1), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_any_altered_bit_of_a_cell_closes_the_path_or_is_dropped(bit: int, hop: int) -> None:
    world = World()
    owned = world.build()
    world.wire = lambda c: (
        [replace(c, frame=flip(c.frame, bit))] if c.receiver == node_id(hop) else [c]
    )
    owned.ask(b"question")
    assert chunks_at(world) == []


@given(st.integers(HEADER_BYTES * 8, FRAME_BYTES * 8 - 1), st.sampled_from([0, 1, 2]))
@settings(max_examples=100, deadline=None)
def test_any_altered_bit_of_an_answer_closes_the_path(bit: int, hop: int) -> None:
    """`hop` is who gets the altered cell: the owner, the first or the middle relay."""
    world = World()
    owned = world.build()
    owned.ask(b"question")
    (asked,) = world.at_target()
    receiver = node_id(hop) if hop else OWNER
    world.wire = lambda c: (
        [replace(c, frame=flip(c.frame, bit))] if c.receiver == receiver and c.dialled else [c]
    )
    world.answer(asked, b"answer")
    owned.receive()
    assert owned.path.phase == CLOSED
    assert not any(isinstance(event, Chunk) for event in owned.events)


def test_a_tampered_cell_is_reported_by_who_finds_it_and_closes_the_path_everywhere() -> None:
    world = World()
    owned = world.build()
    world.wire = lambda c: (
        [replace(c, frame=flip(c.frame, 9999))] if c.receiver == node_id(2) else [c]
    )
    owned.ask(b"question")
    assert owned.events[-1] == broken(Reason.PROTOCOL, 1)
    assert world.open_paths() == [0, 0, 0]
    assert world.members[node_id(2)].counts["frame_refused"] == 1


def test_a_replayed_cell_closes_the_path() -> None:
    world = World()
    owned = world.build()
    world.wire = lambda c: [c, c] if c.receiver == node_id(2) and c.frame[ID_BYTES] == CELL else [c]
    owned.ask(b"question")
    assert chunks_at(world) == [b"question"]
    assert owned.path.phase == CLOSED
    assert world.open_paths() == [0, 0, 0]


def test_a_dropped_cell_closes_the_path_with_the_next() -> None:
    world = World()
    owned = world.build()
    world.wire = lambda c: [] if c.receiver == node_id(2) else [c]
    owned.ask(b"one")
    world.wire = lambda c: [c]
    owned.ask(b"two")
    assert chunks_at(world) == []
    assert owned.events[-1] == broken(Reason.PROTOCOL, 1)


def test_a_replayed_set_up_is_refused_and_touches_no_path() -> None:
    world = World()
    owned = world.build()
    again = encode_frame(b"another!", SETUP, owned.setup[HEADER_BYTES:])
    world.deliver(Carried(b"stranger", node_id(1), again))
    (refusal,) = world.arrived[b"stranger"]
    assert decode_frame(refusal.frame).body == Report(Reason.REPLAYED).close_body()
    assert world.open_paths() == [1, 1, 1]


def test_what_is_taken_is_written_down_before_anything_is_sent() -> None:
    world = World()
    owned = world.begin([node_id(1), node_id(2)])
    member = world.members[node_id(1)]
    entry = Remember(period_of(world.now_s), ephemeral_of(owned.setup[HEADER_BYTES:])[:16])
    assert member.remembered == [entry]
    setup = world.begin([node_id(1), node_id(2)]).setup
    fresh = World().members[node_id(1)]
    fresh.core._secrets = member.secrets
    effects = list(fresh.core.frame_arrived(Peer(False, OWNER), setup, world.now_s))
    assert isinstance(effects[0], Remember)


@given(st.binary(max_size=64) | st.binary(min_size=FRAME_BYTES, max_size=FRAME_BYTES))
def test_garbage_is_dropped_and_counted(frame: bytes) -> None:
    world = World()
    world.deliver(Carried(OWNER, node_id(1), frame))
    assert world.members[node_id(1)].counts.total() >= 1
    assert world.open_paths() == [0, 0, 0]


@given(
    st.sampled_from([*sorted(KINDS), 0, 77]),
    st.binary(min_size=BODY_BYTES, max_size=BODY_BYTES) | st.just(bytes(BODY_BYTES)),
    st.integers(1, 3),
    st.booleans(),
)
@settings(deadline=None)
def test_anything_from_a_neighbour_under_a_paths_id_at_most_closes_it(
    kind: int, body: bytes, hop: int, from_behind: bool
) -> None:
    world = World()
    owned = world.build()
    owned.ask(b"question")
    if from_behind:
        sent = [c for c in world.carried if c.receiver == node_id(hop) and c.dialled]
    else:
        sent = [c for c in world.carried if c.receiver == node_id(hop) and not c.dialled]
    for template in sent[-1:]:
        frame = encode_frame(template.frame[:ID_BYTES], kind, body)
        world.deliver(replace(template, frame=frame))
    owned.receive()
    assert set(world.open_paths()) <= {0, 1}


def test_a_relay_refuses_a_next_hop_that_the_ledger_does_not_list() -> None:
    world = World()
    world.known.discard(node_id(2))
    owned = world.build()
    detail = (77).to_bytes(8, "big") + bytes(range(8))
    assert owned.events == [Broken(Report(Reason.UNKNOWN_NEXT, detail), None)]
    assert world.open_paths() == [0, 0, 0]


def test_a_refusal_at_a_later_hop_is_reported_by_the_one_before() -> None:
    world = World()
    world.known.discard(node_id(3))
    owned = world.build()
    (event,) = owned.events
    assert isinstance(event, Broken)
    assert (event.report.reason, event.origin) == (Reason.UNKNOWN_NEXT, 0)
    assert world.open_paths() == [0, 0, 0]


def test_a_relay_with_another_key_than_the_ledger_says_is_reported() -> None:
    world = World()
    world.members[node_id(2)].core._secrets = World(seed=2).line[1].secrets
    assert world.build().events == [broken(Reason.NOT_OPENED, 0)]


@pytest.mark.parametrize("minutes", [-11, 11, 60])
def test_a_clock_of_another_period_hears_the_relays(minutes: int) -> None:
    world = World()
    owned = world.begin(fast_s=60.0 * minutes)
    owned.receive()
    report = Report(Reason.PERIOD, period_of(world.now_s).to_bytes(4, "big"))
    assert owned.events == [Broken(report, None)]


def test_a_target_that_the_ledger_does_not_list_ends_its_stream_only() -> None:
    world = World()
    owned = world.build()
    number = owned.ask(b"hi", b"X" * 20)
    assert owned.events[-1] == StreamOver(number, Reason.TARGET_UNREACHABLE)
    assert owned.path.phase == OPEN
    owned.ask(b"hi")
    assert chunks_at(world) == [b"hi"]


def test_closing_reaches_every_relay_and_the_model_node() -> None:
    world = World()
    owned = world.build()
    owned.ask(b"question")
    owned.send(owned.path.close())
    assert world.open_paths() == [0, 0, 0]
    assert [decode_frame(c.frame).kind for c in world.at_target()] == [STREAM, STREAM_END]
    assert not any(member.core._links for member in world.line)


@pytest.mark.parametrize(("killed", "origin"), [(2, 0), (3, 1)])
def test_a_relay_that_is_gone_is_reported_by_the_one_before(killed: int, origin: int) -> None:
    world = World()
    owned = world.build()
    world.kill(node_id(killed))
    owned.receive()
    assert owned.events[-1] == broken(Reason.NEIGHBOUR_GONE, origin)
    assert [p for n, p in enumerate(world.open_paths(), 1) if n != killed] == [0, 0]


def test_an_owner_that_is_gone_closes_its_path_everywhere() -> None:
    world = World()
    world.build()
    member = world.members[node_id(1)]
    world.carry_out(member, member.core.peer_gone(Peer(False, OWNER)))
    assert world.open_paths() == [0, 0, 0]


def test_a_model_node_that_is_gone_ends_its_stream_only() -> None:
    world = World()
    owned = world.build()
    number = owned.ask(b"question")
    world.kill(TARGET)
    assert owned.receive() == [StreamOver(number, Reason.TARGET_UNREACHABLE)]
    assert owned.path.phase == OPEN


def test_an_end_comes_after_the_data_before_it() -> None:
    world = World()
    owned = world.build()
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    for index in range(3):
        world.answer(asked, b"%d" % index)
    end = Report(Reason.TARGET_REFUSED).close_body()
    frame = encode_frame(backward_id(asked.frame[:ID_BYTES]), STREAM_END, end)
    world.deliver(Carried(TARGET, node_id(3), frame, dialled=True))
    answered = [Chunk(number, b"%d" % index) for index in range(3)]
    assert owned.receive() == [*answered, StreamOver(number, Reason.TARGET_REFUSED)]


def test_a_relay_that_ends_says_so() -> None:
    world = World()
    owned = world.build()
    member = world.members[node_id(2)]
    world.carry_out(member, member.core.shut_down())
    owned.receive()
    assert owned.events[-1] == broken(Reason.SHUTTING_DOWN, 1)
    assert world.open_paths() == [0, 0, 0]


def test_a_report_comes_after_what_waits_for_a_slow_neighbour() -> None:
    world = World()
    owned = world.build()
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    world.held.add((node_id(2), node_id(1)))
    world.answer(asked, b"answer")
    world.kill(node_id(3))
    assert owned.receive() == []
    assert world.let_go(node_id(2), node_id(1)) == 2
    assert owned.receive() == [Chunk(number, b"answer"), broken(Reason.NEIGHBOUR_GONE, 1)]


def test_a_close_from_a_stranger_changes_nothing() -> None:
    world = World()
    owned = world.build()
    close = encode_frame(owned.setup[:ID_BYTES], CLOSE, Report(Reason.NONE).close_body())
    world.deliver(Carried(b"stranger", node_id(1), close))
    assert world.open_paths() == [1, 1, 1]


def test_a_path_that_was_not_confirmed_takes_no_payload() -> None:
    owned = World().begin()
    assert owned.path.phase == BUILDING
    with pytest.raises(ValueError, match="not open"):
        owned.path.open_stream(TARGET, b"x")


def test_no_hop_but_the_last_may_speak_for_it() -> None:
    """A middle relay knows its own key only: what it originates is an error of its own or none."""
    world = World()
    owned = world.build()
    (path,) = world.members[node_id(2)].core._paths
    send = path.say(Payload(DATA, 1, b"forged"))
    world.deliver(Carried(node_id(2), node_id(1), send.frame, dialled=True))
    owned.receive()
    assert owned.events[-1] == broken(Reason.PROTOCOL, 1)


def test_a_path_to_the_relay_itself_is_refused() -> None:
    world = World(relays=1)
    owned = world.build([node_id(1), node_id(1)])
    (event,) = owned.events
    assert isinstance(event, Broken)
    assert event.report.reason == Reason.UNKNOWN_NEXT


def test_a_set_up_over_a_connection_that_the_relay_opened_is_ignored() -> None:
    world = World()
    setup = world.begin([node_id(2)]).setup
    world.deliver(Carried(node_id(2), node_id(1), setup, dialled=True))
    assert world.members[node_id(1)].counts == {"setup_from_dialled": 1}


@given(st.integers(0, BODY_BYTES * 8 - 1))
@settings(max_examples=60, deadline=None)
def test_a_marked_set_up_goes_no_further_than_the_next_hop(bit: int) -> None:
    world = World()
    world.wire = lambda c: (
        [replace(c, frame=flip(c.frame, HEADER_BYTES * 8 + bit))]
        if c.receiver == node_id(2) and c.frame[ID_BYTES] == SETUP
        else [c]
    )
    owned = world.build()
    assert owned.events == [broken(Reason.NOT_OPENED, 0)]
    assert world.members[node_id(3)].counts.total() == 0


@pytest.mark.parametrize("hops", [[1], [1, 2]])
def test_a_set_up_that_cannot_be_written_down_makes_no_path(hops: list[int]) -> None:
    world = World()
    core = world.line[0].core
    kept = world.build([node_id(1), node_id(3)])
    world.line[0].disk_is_full = True
    refused = world.begin([node_id(hop) for hop in hops])
    assert refused.receive() == []
    assert core.paths == 1
    assert core.remembered() == []
    kept.ask(b"question")
    assert chunks_at(world) == [b"question"]

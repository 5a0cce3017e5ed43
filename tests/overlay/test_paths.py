"""Paths by values: owners, relays and a model node without sockets."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core import client_path
from overlay.core.client_path import BUILDING, CLOSED, OPEN, Broken, Chunk, Opened, Pong, StreamOver
from overlay.core.credit import CreditWindow
from overlay.core.effects import Peer, Purge, Remember
from overlay.core.fair_queue import MAX_FRAMES_AN_ID
from overlay.core.payload import DATA, PAD, Payload
from overlay.core.puzzle import solve_puzzle
from overlay.core.reasons import Reason, Report
from overlay.core.relay import RelayLimits
from overlay.core.relay_exit import (
    BACKWARD_WINDOW,
    FORWARD_WINDOW,
    MAX_STREAMS,
    MAX_WAITING,
)
from overlay.core.setup import OnionSecrets, ephemeral_of, period_of
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
from tests.overlay.world import OWNER, TARGET, Carried, Owned, World, node_id


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


def test_old_paths_and_idle_ones_end() -> None:
    world = World(limits=RelayLimits(path_life_s=100.0, idle_s=30.0))
    old, idle = world.build(), world.build()
    for _ in range(9):
        old.send(old.path.pad())
        world.tick(11.0)
    idle.receive()
    assert idle.events[-1] == broken(Reason.EXPIRED, 0)
    assert old.path.phase == OPEN
    world.tick(11.0)
    old.receive()
    assert old.events[-1] == broken(Reason.EXPIRED, 0)
    assert world.open_paths() == [0, 0, 0]


def test_a_relay_that_ends_says_so() -> None:
    world = World()
    owned = world.build()
    member = world.members[node_id(2)]
    world.carry_out(member, member.core.shut_down())
    owned.receive()
    assert owned.events[-1] == broken(Reason.SHUTTING_DOWN, 1)
    assert world.open_paths() == [0, 0, 0]


def test_a_stranger_has_a_share_of_the_table() -> None:
    world = World(limits=RelayLimits(max_paths_a_stranger=2))
    events = [world.build().events for _ in range(3)]
    assert events == [[Opened()], [Opened()], [broken(Reason.QUOTA, None)]]


def test_in_a_full_table_the_one_with_most_gives_way() -> None:
    world = World(relays=1, limits=RelayLimits(max_paths=4))
    greedy = [world.build(owner=b"greedy") for _ in range(4)]
    modest = world.build(owner=b"modest")
    for owned in greedy:
        owned.receive()
    assert modest.path.phase == OPEN
    assert [owned.path.phase for owned in greedy] == [OPEN, OPEN, OPEN, CLOSED]
    assert greedy[3].events[-1] == broken(Reason.SHED, 0)


def test_a_stranger_that_sets_up_too_often_is_refused() -> None:
    world = World(relays=1)
    phases = []
    for _ in range(95):
        owned = world.build()
        phases.append(owned.path.phase)
        owned.send(owned.path.close())
    assert phases == [OPEN] * 90 + [CLOSED] * 5


def test_under_load_a_puzzle_is_asked_and_its_solution_taken() -> None:
    world = World(limits=RelayLimits(setups_per_s=1.0))
    member = world.members[node_id(2)]
    for _ in range(4):
        world.tick(1.0)
        for _ in range(2):
            world.build()
    world.tick(1.0)
    difficulty = member.core._puzzle.difficulty
    assert difficulty > 0
    nonces = [bytes(8) for _ in range(3)]
    specs = world.specs(list(world.members))
    path, sends = client_path.build(specs, period_of(world.now_s), nonces, world.entropy)
    owned = Owned(world, OWNER, path, sends[0].frame)
    # The first relay is under the same load; this test is about its own puzzle.
    owned.send(sends)
    (event,) = owned.receive()
    assert isinstance(event, Broken)
    assert event.report.reason == Reason.PUZZLE
    assert event.origin is None
    seed, hard = event.report.detail[:16], event.report.detail[16]
    solved = []
    for spec, relay in zip(specs, world.line, strict=True):
        ephemeral = OnionSecrets.from_bytes(spec.ephemeral_secret).public
        puzzle = relay.core._puzzle
        nonce = solve_puzzle(puzzle.seed, ephemeral, puzzle.difficulty, 0, 1 << 20)
        assert nonce is not None
        solved.append(nonce.to_bytes(8, "big"))
    assert (seed, hard) == (world.line[0].core._puzzle.seed, world.line[0].core._puzzle.difficulty)
    path, sends = client_path.build(specs, period_of(world.now_s), solved, world.entropy)
    owned = Owned(world, OWNER, path, sends[0].frame)
    owned.send(sends)
    assert owned.receive() == [Opened()]


def test_too_many_streams_are_refused_one_by_one() -> None:
    world = World()
    owned = world.build()
    numbers = [owned.ask(b"x") for _ in range(MAX_STREAMS + 1)]
    assert owned.events[-1] == StreamOver(numbers[-1], Reason.QUOTA)
    owned.send(owned.path.end_stream(numbers[0]))
    owned.ask(b"again")
    assert owned.path.phase == OPEN
    assert chunks_at(world)[-1] == b"again"


def test_no_more_than_a_window_goes_ahead_of_what_the_target_took() -> None:
    world = World()
    owned = world.build()
    owned.ask(bytes(1970 * 3 * FORWARD_WINDOW))
    waiting = deque(world.at_target())
    assert len(waiting) == FORWARD_WINDOW
    member, taken = world.members[node_id(3)], 0
    while waiting:
        carried = waiting.popleft()
        taken += 1
        world.carry_out(member, member.core.sent(Peer(True, TARGET), carried.frame[:ID_BYTES]))
        owned.receive()
        waiting += world.at_target()
        assert len(waiting) <= FORWARD_WINDOW
    assert taken == 3 * FORWARD_WINDOW + 1  # the first cell names the target besides
    assert owned.path.phase == OPEN


def test_an_owner_without_credit_cannot_speak_further() -> None:
    world = World()
    owned = world.build()
    owned.path._window = CreditWindow(1000, 1000)
    owned.ask(bytes(1970 * (FORWARD_WINDOW + 1)))
    assert owned.events[-1] == broken(Reason.PROTOCOL, 2)


def test_what_an_owner_does_not_take_waits_and_then_ends_the_path() -> None:
    world = World()
    owned = world.build()
    owned.ask(b"question")
    (asked,) = world.at_target()
    for _ in range(BACKWARD_WINDOW + MAX_WAITING):
        world.answer(asked, b"more")
    assert world.open_paths() == [1, 1, 1]
    assert len(world.arrived[OWNER]) == BACKWARD_WINDOW
    world.answer(asked, b"too much")
    assert world.open_paths()[2] == 0


@pytest.mark.parametrize("shed", [False, True])
def test_a_stream_that_ends_where_nothing_more_may_wait_leaves_nothing(shed: bool) -> None:
    world = World()
    owned = world.build()
    owned.ask(b"question")
    (asked,) = world.at_target()
    for _ in range(BACKWARD_WINDOW + MAX_WAITING):
        world.answer(asked, b"more")
    link_id, member = asked.frame[:ID_BYTES], world.members[node_id(3)]
    if shed:
        world.carry_out(member, member.core.shed(Peer(True, TARGET), link_id))
        assert [decode_frame(c.frame).kind for c in world.at_target()] == [STREAM_END]
    else:
        end = Report(Reason.NONE).close_body()
        frame = encode_frame(backward_id(link_id), STREAM_END, end)
        world.deliver(Carried(TARGET, node_id(3), frame, dialled=True))
    world.answer(asked, b"too late")
    assert not member.core._links
    owned.receive()
    assert owned.events[-1] == broken(Reason.PROTOCOL, 2)
    assert world.open_paths() == [0, 0, 0]


def test_what_waited_for_the_owners_credit_comes_when_it_is_granted() -> None:
    world = World()
    owned = world.build()
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    for index in range(BACKWARD_WINDOW + 100):
        world.answer(asked, b"%d" % index)
    assert owned.receive() == [
        Chunk(number, b"%d" % index) for index in range(BACKWARD_WINDOW + 100)
    ]


def test_an_ended_stream_leaves_no_entry_and_frees_its_credit() -> None:
    world = World()
    owned = world.build()
    for _ in range(3 * FORWARD_WINDOW):
        number = owned.ask(b"x")
        owned.send(owned.path.end_stream(number))
        owned.receive()
    assert owned.path.phase == OPEN
    assert Peer(True, TARGET) not in world.members[node_id(3)].core._links


def test_ending_a_stream_that_still_waits_for_credit_keeps_the_numbers_in_order() -> None:
    world = World()
    owned = world.build()
    big = owned.ask(bytes(1970 * 2 * FORWARD_WINDOW))
    small = owned.ask(b"small")
    owned.send(owned.path.end_stream(small))
    owned.send(owned.path.end_stream(big))
    member = world.members[node_id(3)]
    for carried in world.at_target():
        world.carry_out(member, member.core.sent(Peer(True, TARGET), carried.frame[:ID_BYTES]))
    owned.receive()
    owned.ask(b"last")
    assert owned.path.phase == OPEN
    assert chunks_at(world)[-1] == b"last"


def test_a_full_queue_sheds_the_path_that_fills_it() -> None:
    world = World()
    full, other = world.build(), world.build()
    member = world.members[node_id(2)]
    world.carry_out(member, member.core.shed(Peer(True, node_id(3)), link_to(world, full, 3)))
    full.receive()
    assert full.events[-1] == broken(Reason.SHED, 1)
    world.carry_out(member, member.core.shed(Peer(False, node_id(1)), link_back(world, other, 2)))
    other.receive()
    assert other.events[-1] == broken(Reason.SHED, 0)
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


def fill(world: World, cells: int) -> None:
    """So many cells for the owner wait at the second relay."""
    world.held.add((node_id(2), node_id(1)))
    (path,) = world.members[node_id(3)].core._paths
    for _ in range(cells):
        frame = path.say(Payload(PAD)).frame
        world.deliver(Carried(node_id(3), node_id(2), frame, dialled=True))


def test_a_neighbour_that_does_not_read_loses_the_path_and_the_hop_before_says_so() -> None:
    world = World()
    owned = world.build()
    fill(world, MAX_FRAMES_AN_ID + 1)
    assert world.open_paths() == [1, 0, 0]
    assert world.let_go(node_id(2), node_id(1)) == 1
    owned.receive()
    assert owned.events[-1] == broken(Reason.SHED, 0)
    assert world.open_paths() == [0, 0, 0]


def test_a_report_that_finds_no_room_becomes_a_close() -> None:
    world = World()
    owned = world.build()
    fill(world, MAX_FRAMES_AN_ID)
    assert world.open_paths() == [1, 1, 1]
    world.kill(node_id(3))
    assert world.let_go(node_id(2), node_id(1)) == 1
    owned.receive()
    assert owned.events[-1] == broken(Reason.SHED, 0)
    assert world.open_paths()[:2] == [0, 0]


def link_to(world: World, owned: Owned, hop: int) -> bytes:
    """The id of `owned` on the link to its relay number `hop`."""
    setups = [c for c in world.carried if c.receiver == node_id(hop) and c.frame[ID_BYTES] == SETUP]
    first = [c for c in world.carried if c.receiver == node_id(1) and c.frame[ID_BYTES] == SETUP]
    return setups[[c.frame for c in first].index(owned.setup)].frame[:ID_BYTES]


def link_back(world: World, owned: Owned, hop: int) -> bytes:
    return backward_id(link_to(world, owned, hop))


def test_a_full_queue_to_a_model_node_ends_the_stream() -> None:
    world = World()
    owned = world.build()
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    member = world.members[node_id(3)]
    world.carry_out(member, member.core.shed(Peer(True, TARGET), asked.frame[:ID_BYTES]))
    assert owned.receive() == [StreamOver(number, Reason.SHED)]
    assert [decode_frame(c.frame).kind for c in world.at_target()] == [STREAM_END]


def test_a_closed_path_leaves_nothing_in_the_queues() -> None:
    world = World()
    owned = world.build()
    ids = [link_to(world, owned, hop) for hop in (1, 2, 3)]
    owned.send(owned.path.close())
    purged = world.members[node_id(2)].purged
    assert Purge(Peer(False, node_id(1)), backward_id(ids[1])) in purged
    assert Purge(Peer(True, node_id(3)), ids[2]) in purged


def test_pings_come_back_up_to_a_rate() -> None:
    world = World()
    owned = world.build()
    owned.send(owned.path.ping(b"12345678"))
    assert owned.receive() == [Pong(b"12345678")]
    for _ in range(20):
        owned.send(owned.path.ping(b"12345678"))
    assert len(owned.receive()) == 3


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

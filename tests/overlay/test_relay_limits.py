"""What relays bear by values: shares, rates, puzzles, windows, queues."""

from __future__ import annotations

from collections import deque

import pytest

from overlay.core import client_path
from overlay.core.client_path import CLOSED, OPEN, Broken, Chunk, Opened, Pong, StreamOver
from overlay.core.credit import CreditWindow
from overlay.core.effects import Peer, Purge
from overlay.core.fair_queue import MAX_FRAMES_AN_ID
from overlay.core.payload import PAD, Payload
from overlay.core.puzzle import solve_puzzle
from overlay.core.reasons import Reason, Report
from overlay.core.relay import RelayLimits
from overlay.core.relay_exit import (
    BACKWARD_WINDOW,
    FORWARD_WINDOW,
    MAX_STREAMS,
    MAX_WAITING,
)
from overlay.core.setup import OnionSecrets, period_of
from overlay.core.wire import (
    ID_BYTES,
    SETUP,
    STREAM,
    STREAM_END,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
)
from tests.overlay.world import OWNER, TARGET, Carried, Owned, World, node_id, pad


def chunks_at(world: World) -> list[bytes]:
    frames = [decode_frame(carried.frame) for carried in world.at_target()]
    return [read_chunk(frame.body) for frame in frames if frame.kind == STREAM]


def broken(reason: Reason, origin: int | None) -> Broken:
    return Broken(Report(reason), origin)


def test_old_paths_and_idle_ones_end() -> None:
    world = World(limits=RelayLimits(path_life_s=100.0, idle_s=30.0))
    old, idle = world.build(), world.build()
    for _ in range(9):
        old.send(pad(old.path))
        world.tick(11.0)
    idle.receive()
    assert idle.events[-1] == broken(Reason.EXPIRED, 0)
    assert old.path.phase == OPEN
    world.tick(11.0)
    old.receive()
    assert old.events[-1] == broken(Reason.EXPIRED, 0)
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
    assert [owned.path.phase for owned in greedy] == [CLOSED, OPEN, OPEN, OPEN]
    assert greedy[0].events[-1] == broken(Reason.SHED, 0)


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


def link_to(world: World, owned: Owned, hop: int) -> bytes:
    """The id of `owned` on the link to its relay number `hop`."""
    setups = [c for c in world.carried if c.receiver == node_id(hop) and c.frame[ID_BYTES] == SETUP]
    first = [c for c in world.carried if c.receiver == node_id(1) and c.frame[ID_BYTES] == SETUP]
    return setups[[c.frame for c in first].index(owned.setup)].frame[:ID_BYTES]


def link_back(world: World, owned: Owned, hop: int) -> bytes:
    return backward_id(link_to(world, owned, hop))

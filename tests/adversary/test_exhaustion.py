"""Exhaustion and slow-loris: strangers fill a relay's tables and queues, or hold places in them and
do nothing, so that nobody else gets a path.

Tables are bounded and shared out: whoever has most gives way, so that a neighbour with few paths
keeps and gets them, whatever others build. A flood is asked for puzzles before anything is opened.
Who says nothing loses its path after two minutes, who says little after an hour; who does not read
loses the path that it does not read. The links' side of it is in `tests.overlay.test_links_hostile`
and `tests.overlay.test_connections`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from overlay.core import client_path
from overlay.core.client_path import CLOSED, OPEN, Broken, Chunk, Opened, Pong
from overlay.core.effects import Neighbour, Peer
from overlay.core.fair_queue import MAX_REFUSALS, QueueBudget
from overlay.core.puzzle import FULL_DIFFICULTY, solve_puzzle
from overlay.core.quotas import NODE_SETUPS, STRANGER_SETUPS
from overlay.core.reasons import Reason, Report
from overlay.core.relay import RelayLimits
from overlay.core.relay_exit import FORWARD_WINDOW, MAX_STREAMS
from overlay.core.setup import PUZZLE_NONCE_BYTES, OnionSecrets, period_of
from overlay.core.wire import BODY_BYTES, CLOSE, FRAME_BYTES, SETUP, encode_frame
from tests.adversary.watching import hops
from tests.overlay.checked import CheckedRelay
from tests.overlay.world import OWNER, TARGET, Carried, Owned, World, node_id, pad

SMALL = RelayLimits(max_paths=60, max_paths_a_node=60, max_paths_a_stranger=20, setups_per_s=40.0)
RELAY = node_id(1)
HONEST = b"honest"
LORIS = Neighbour(False, b"loris")
BODY = bytes(BODY_BYTES)


def solved_path(world: World, owner: bytes) -> Owned:
    """A path of one hop by an owner that solves the puzzle that it is asked for."""
    puzzle = world.members[RELAY].core._puzzle
    (spec,) = world.specs([RELAY])
    ephemeral = OnionSecrets.from_bytes(spec.ephemeral_secret).public
    nonce = solve_puzzle(puzzle.seed, ephemeral, puzzle.difficulty, 0, 1 << 20)
    assert nonce is not None
    nonces = [nonce.to_bytes(PUZZLE_NONCE_BYTES, "big")]
    path, sends = client_path.build([spec], period_of(world.now_s), nonces, world.entropy)
    owned = Owned(world, owner, path, sends[0].frame)
    owned.send(sends)
    owned.receive()
    return owned


def test_a_flood_that_holds_paths_fills_no_more_than_its_shares() -> None:
    """Twenty strangers build and keep all that they can; a neighbour wants a path a second."""
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    honest: list[Owned] = []
    for _ in range(15):
        world.tick(1.0)
        for number in range(100):
            world.begin(owner=b"stranger %d" % (number % 20))
        assert world.members[RELAY].core.paths <= SMALL.max_paths
        if len(honest) < SMALL.max_paths // 21:  # an equal share, rounded down
            honest.append(solved_path(world, HONEST))
    for owned in honest:
        owned.receive()
        assert owned.events == [Opened()]


def test_a_flood_that_comes_and_goes_is_asked_for_puzzles() -> None:
    """Twenty strangers build and close and solve nothing; a neighbour solves what it is asked."""
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    member, difficulties, opened = world.members[RELAY], [], []
    for _ in range(15):
        world.tick(1.0)
        before = member.counts["path_built"]
        for number in range(200):
            begun = world.begin(owner=b"stranger %d" % (number % 20))
            begun.send(begun.path.close())
        owned = solved_path(world, HONEST)
        assert owned.events == [Opened()]
        owned.send(owned.path.close())
        opened.append(member.counts["path_built"] - before)
        difficulties.append(member.core._puzzle.difficulty)
    assert opened[0] == 201
    assert max(opened[6:]) <= SMALL.setups_per_s
    assert max(difficulties) >= 3
    assert difficulties[-1] >= 2  # by then the strangers are short of set-ups, too
    assert world.open_paths() == [0]
    for _ in range(20):  # it is over: the puzzle becomes easy again
        world.tick(1.0)
    assert member.core._puzzle.difficulty == 0


def test_one_solution_lets_one_set_up_through_whatever_follows_it() -> None:
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    member = world.members[RELAY]
    puzzle, ephemeral = member.core._puzzle, b"e" * 32
    puzzle.difficulty = 8
    nonce = solve_puzzle(puzzle.seed, ephemeral, 8, 0, 1 << 16)
    assert nonce is not None
    head = ephemeral + nonce.to_bytes(PUZZLE_NONCE_BYTES, "big")
    for number in range(20):
        body = head + world.entropy(BODY_BYTES - len(head))
        frame = encode_frame(b"id %05d" % number, SETUP, body)
        world.deliver(Carried(b"stranger %d" % number, RELAY, frame))
    assert member.counts["setup_not_opened"] == 1
    assert member.counts["setup_over_quota"] == 19


def test_a_full_table_makes_room_for_whoever_has_least() -> None:
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    greedy = [world.build(owner=b"greedy %d" % (n % 3)) for n in range(SMALL.max_paths)]
    assert world.open_paths() == [SMALL.max_paths]
    modest = [world.build(owner=HONEST) for _ in range(10)]
    for owned in (*greedy, *modest):
        owned.receive()
    assert [owned.path.phase for owned in modest] == [OPEN] * 10
    lost = [owned for owned in greedy if owned.path.phase == CLOSED]
    assert len(lost) == 10
    assert {owned.events[-1] for owned in lost} == {Broken(Report(Reason.SHED), 0)}
    assert world.open_paths() == [SMALL.max_paths]


def test_who_gives_way_is_silent() -> None:
    """A stranger and others come by one first hop, and the stranger's paths say nothing."""
    world = World(relays=4, limits=RelayLimits(max_paths=16))
    full, first, other, last = (node_id(number) for number in (1, 2, 3, 4))
    silent = [world.build([first, full, last], owner=b"silent") for _ in range(12)]
    honest = [world.build([first, full, last], owner=HONEST) for _ in range(4)]
    for _ in range(2):
        world.now_s += 1.0
        for owned in honest:
            owned.send(pad(owned.path))
        modest = [world.build([other, full, last], owner=b"modest") for _ in range(2)]
        assert [owned.path.phase for owned in modest] == [OPEN] * 2
    for owned in (*silent, *honest):
        owned.receive()
    assert [owned.path.phase for owned in honest] == [OPEN] * 4
    assert [owned.path.phase for owned in silent].count(OPEN) == 8


def test_whoever_fills_a_table_is_set_puzzles() -> None:
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    puzzle = world.members[RELAY].core._puzzle
    for number in range(SMALL.max_paths):
        world.build(owner=b"greedy %d" % (number % 5))
    for _ in range(3):
        world.tick(1.0)
    assert puzzle.difficulty == FULL_DIFFICULTY
    refused = world.build(owner=HONEST)
    assert isinstance(refused.events[-1], Broken)
    assert refused.events[-1].report.reason == Reason.PUZZLE
    assert solved_path(world, HONEST).events == [Opened()]


def test_shares_and_rates_leave_room_for_a_hundred_strangers() -> None:
    """As they are by default: no stranger has more than a sixteenth, no node more than half."""
    limits = RelayLimits()
    assert 16 * limits.max_paths_a_stranger <= limits.max_paths
    assert 2 * limits.max_paths_a_node <= limits.max_paths
    # In the time that an idle path lives, a stranger cannot fill its share and hold it idle.
    assert STRANGER_SETUPS.per_s * limits.idle_s + STRANGER_SETUPS.burst < 512
    assert 4 * NODE_SETUPS.per_s <= limits.setups_per_s


def test_half_open_paths_end_by_themselves() -> None:
    """Set-ups whose next hop never hears of them, so that nobody ever says anything."""
    world = World(relays=3, limits=SMALL, relay=CheckedRelay)
    world.wire = lambda c: [c] if c.receiver == RELAY and c.sender == OWNER else []
    owned = [world.begin() for _ in range(SMALL.max_paths_a_stranger)]
    assert world.members[RELAY].core.paths == len(owned)
    world.tick(SMALL.idle_s + 11.0)
    assert world.members[RELAY].core.paths == 0
    assert not world.members[RELAY].core._links
    world.wire = lambda c: [c]
    assert world.build().path.phase == OPEN


def keep_alive(owned: Owned) -> None:
    if owned.path.phase == OPEN:
        owned.send(pad(owned.path))


@pytest.mark.parametrize(
    ("says", "lives_s"), [(lambda owned: None, 140.0), (keep_alive, 3700.0)], ids=["none", "little"]
)
def test_who_says_nothing_or_little_holds_no_place_for_long(
    says: Callable[[Owned], None], lives_s: float
) -> None:
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    held = [world.build() for _ in range(SMALL.max_paths_a_stranger)]
    waited_s = 0.0
    while world.open_paths() != [0]:
        assert waited_s < lives_s
        world.tick(20.0)
        waited_s += 20.0
        for owned in held:
            owned.receive()
            says(owned)
    assert {owned.events[-1] for owned in held} == {Broken(Report(Reason.EXPIRED), 0)}
    assert world.build().path.phase == OPEN


def test_who_does_not_read_loses_its_path_and_costs_a_bounded_queue() -> None:
    world = World(relay=CheckedRelay)
    loris, other = world.build(owner=b"loris"), world.build()
    loris.ask(b"question")
    (asked,) = world.at_target()
    member = world.members[RELAY]
    world.held.add((RELAY, b"loris"))
    for _ in range(2000):
        world.answer(asked, b"more")
        assert member.queues.bytes <= 300 * FRAME_BYTES
    assert world.open_paths() == [2, 2, 1]  # the last relay has given it up
    for _ in range(14):
        world.tick(10.0)
        keep_alive(other)
    assert world.open_paths() == [1, 1, 1]
    assert member.queues.bytes <= 300 * FRAME_BYTES
    number = other.ask(b"still there?")
    *_, asked = world.at_target()
    world.answer(asked, b"yes")
    assert other.receive() == [Chunk(number, b"yes")]


def test_who_reads_no_refusal_costs_a_few_frames_and_nobody_a_path() -> None:
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    other = world.build()
    member = world.members[RELAY]
    world.held.add((RELAY, b"loris"))
    for _ in range(3000):
        world.begin(owner=b"loris")
    most = MAX_REFUSALS + SMALL.max_paths_a_stranger
    assert len(member.queues.queue(Peer(False, b"loris"), LORIS)) <= most
    number = other.ask(b"still there?")
    *_, asked = world.at_target()
    world.answer(asked, b"yes")
    assert other.receive() == [Chunk(number, b"yes")]


def test_shedding_what_is_not_read_does_not_feed_itself() -> None:
    """One that reads nothing has built what it may and fills the budget with frames under ids of
    its own, honest paths have little waiting."""
    world = World(relays=1, limits=SMALL, relay=CheckedRelay)
    member = world.members[RELAY]
    member.queues = QueueBudget(200 * FRAME_BYTES)
    honest = [world.build(owner=b"honest") for _ in range(5)]
    world.held |= {(RELAY, b"honest"), (RELAY, b"loris")}
    for owned in honest:
        owned.send(owned.path.ping(bytes(8)))
    for _ in range(SMALL.max_paths_a_stranger):
        world.begin(owner=b"loris")
    loris = Peer(False, b"loris")
    shed = 0
    for number in range(1000):
        member.queues.queue(loris, LORIS).put(encode_frame(number.to_bytes(8, "big"), CLOSE, BODY))
        for peer, link_id in member.queues.over():
            shed += 1
            assert peer == loris
            world.carry_out(member, member.core.shed(peer, link_id))
    assert 800 < shed < 1200
    world.let_go(RELAY, b"honest")
    for owned in honest:
        owned.receive()
        assert owned.events[-1] == Pong(bytes(8))


def test_who_asks_a_model_node_that_does_not_read_holds_a_window() -> None:
    world = World(relays=1, relay=CheckedRelay)
    world.held.add((RELAY, TARGET))
    owned = world.build()
    for _ in range(MAX_STREAMS):
        owned.ask(bytes(50_000))
    assert world.members[RELAY].queues.bytes == FORWARD_WINDOW * FRAME_BYTES
    assert owned.path.phase == OPEN
    world.let_go(RELAY, TARGET)
    owned.receive()
    assert owned.path.phase == OPEN


def test_streams_are_opened_and_ended_in_bounded_room() -> None:
    world = World(relays=1, relay=CheckedRelay)
    owned = world.build()
    member = world.members[RELAY]
    for _ in range(500):
        number = owned.ask(b"x")
        owned.send(owned.path.end_stream(number))
        owned.receive()
    (path,) = member.core._paths
    assert path.exit is not None
    assert not path.exit.streams
    assert Peer(True, TARGET) not in member.core._links


def test_many_neighbours_cost_a_bounded_memory_of_their_rates() -> None:
    world = World(relays=1, limits=SMALL)
    core = world.members[RELAY].core
    setup = world.begin(hops(1)).setup
    for number in range(20_000):
        list(core.frame_arrived(Peer(False, b"%d" % number), setup, world.now_s))
    assert len(core._rates) <= 8192
    world.tick(60.0)
    assert len(core._rates) == 0

"""Replay: whoever has seen a cell or a set-up sends it again, to see where something happens twice.

A cell opens under the next counter of its path and direction and no other. A set-up works once at
its relay, also after a restart, and at no other: its keys hang on the relay's onion key and node
id, so that two relays that share their secrets are two relays still.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from overlay.core.client_path import CLOSED, OPEN, Broken, Chunk
from overlay.core.reasons import Reason, Report
from overlay.core.relay import Relay
from overlay.core.replay_filter import SECRET_BYTES, ReplayFilter
from overlay.core.setup import period_of
from overlay.core.wire import (
    CELL,
    CLOSE,
    HEADER_BYTES,
    ID_BYTES,
    SETUP,
    STREAM,
    decode_frame,
    encode_frame,
    read_chunk,
)
from overlay.replay_log import ReplayLog, mark_new
from tests.adversary.watching import came_to, hops
from tests.overlay.world import OWNER, TARGET, Carried, Member, Owned, World, node_id


def setup_to(world: World, node: bytes) -> Carried:
    return next(c for c in came_to(world, node) if c.frame[ID_BYTES] == SETUP)


def again(carried: Carried, sender: bytes, receiver: bytes) -> Carried:
    """The set-up under a fresh id, over the sender's own connection."""
    body = carried.frame[HEADER_BYTES:]
    return Carried(sender, receiver, encode_frame(b"freshid!", SETUP, body))


def answer_to(world: World, name: bytes) -> Report | None:
    """The refusal that came to `name`, None if something else did."""
    (carried,) = world.arrived.pop(name)
    frame = decode_frame(carried.frame)
    if frame.kind != CLOSE:
        return None
    return Report(Reason(frame.body[0]), frame.body[2 : 2 + frame.body[1]])


@pytest.mark.parametrize("hop", [1, 2, 3, 4])
def test_a_cell_that_comes_twice_ends_the_path(hop: int) -> None:
    world = World(relays=4)
    owned = world.build()
    world.wire = lambda c: (
        [c, c] if c.receiver == node_id(hop) and c.frame[ID_BYTES] == CELL else [c]
    )
    owned.ask(b"question")
    chunks = [decode_frame(c.frame) for c in world.at_target()]
    assert [read_chunk(f.body) for f in chunks if f.kind == STREAM] == [b"question"]
    assert owned.events[-1] == Broken(Report(Reason.PROTOCOL), hop - 1)
    assert world.open_paths() == [0] * 4


@pytest.mark.parametrize("hop", [0, 1, 2, 3])
def test_an_answer_that_comes_twice_is_read_once(hop: int) -> None:
    """`hop` is who gets it twice: the owner, or one of the relays before the last."""
    world = World(relays=4)
    owned = world.build()
    number = owned.ask(b"question")
    (asked,) = world.at_target()
    receiver = node_id(hop) if hop else OWNER
    world.wire = lambda c: [c, c] if c.receiver == receiver and c.dialled else [c]
    world.answer(asked, b"answer")
    owned.receive()
    assert owned.events[-2:] == [
        Chunk(number, b"answer"),
        Broken(Report(Reason.PROTOCOL), None),
    ]


def test_a_cell_of_one_path_is_none_of_another() -> None:
    world = World()
    first, second = world.build(), world.build()
    sends = first.path.ping(b"12345678")
    body = sends[0].frame[HEADER_BYTES:]
    world.deliver(Carried(OWNER, node_id(1), encode_frame(second.path.forward_id, CELL, body)))
    second.receive()
    assert (first.path.phase, second.path.phase) == (OPEN, CLOSED)


def test_a_cell_of_a_path_that_is_gone_is_dropped() -> None:
    world = World()
    owned = world.build()
    owned.ask(b"question")
    owned.send(owned.path.close())
    since = len(world.carried)
    for carried in list(world.carried):
        if carried.frame[ID_BYTES] == CELL and carried.receiver in hops(3):
            world.deliver(carried)
    assert world.open_paths() == [0, 0, 0]
    assert all(c.frame[ID_BYTES] == CELL for c in world.carried[since:])
    assert not came_to(world, TARGET, since)


@pytest.mark.parametrize("hop", [1, 2, 3])
def test_a_set_up_works_once(hop: int) -> None:
    world = World()
    owned = world.build()
    seen = len(world.carried)
    world.deliver(again(setup_to(world, node_id(hop)), b"stranger", node_id(hop)))
    assert answer_to(world, b"stranger") == Report(Reason.REPLAYED)
    assert len(world.carried) == seen + 2  # it came, and the refusal went
    assert owned.path.phase == OPEN


def restarted(world: World, member: Member, replay: ReplayFilter) -> None:
    member.core = Relay(member.node, member.secrets, member, replay, world.entropy, world.limits)


def took(world: World, member: Member, folder: Path) -> Owned:
    """A path through `member`, which keeps what it took in `folder` and then dies."""
    mark_new(folder)
    log = ReplayLog(folder, period_of(world.now_s))
    restarted(world, member, log.filter)
    owned = world.build()
    for taken in member.remembered:
        log.remember(taken)
    return owned


@pytest.mark.parametrize("minutes", [0, 4, 6])
def test_a_restart_does_not_open_the_door_again(tmp_path: Path, minutes: int) -> None:
    world = World()
    member = world.members[node_id(2)]
    took(world, member, tmp_path / "kept")
    world.now_s += 60 * minutes
    restarted(world, member, ReplayLog(tmp_path / "kept", period_of(world.now_s)).filter)
    world.deliver(again(setup_to(world, node_id(2)), b"stranger", node_id(2)))
    assert answer_to(world, b"stranger") == Report(Reason.REPLAYED)


def test_without_its_folder_a_relay_would_use_the_keys_again() -> None:
    """Why there is one; the same attack succeeds against a relay that remembers nothing."""
    world = World()
    world.build()
    member = world.members[node_id(3)]
    (before,) = member.core._paths
    fresh = ReplayFilter(bytes(SECRET_BYTES), period_of(world.now_s))
    restarted(world, member, fresh)
    world.deliver(again(setup_to(world, node_id(3)), b"stranger", node_id(3)))
    (after,) = member.core._paths
    assert after.keys == before.keys


def test_a_set_up_of_an_earlier_hour_is_refused_by_its_period() -> None:
    world = World()
    world.build()
    world.tick(3600)
    world.deliver(again(setup_to(world, node_id(2)), b"stranger", node_id(2)))
    report = answer_to(world, b"stranger")
    assert report is not None
    assert report.reason == Reason.PERIOD


def test_a_set_up_is_for_one_relay_even_among_relays_that_share_their_secrets() -> None:
    world = World(relays=3)
    world.build(hops(2))
    twin = world.members[node_id(3)]
    twin.secrets = world.members[node_id(2)].secrets
    restarted(world, twin, ReplayFilter(Random(1).randbytes(16), period_of(world.now_s)))
    world.deliver(again(setup_to(world, node_id(2)), b"stranger", node_id(3)))
    assert answer_to(world, b"stranger") == Report(Reason.NOT_OPENED)


def test_a_set_up_comes_over_no_connection_that_the_relay_opened() -> None:
    """So a following relay cannot send a relay's own set-ups back to it."""
    world = World()
    world.build()
    setup = setup_to(world, node_id(3))
    back = replace(again(setup, node_id(3), node_id(2)), dialled=True)
    world.deliver(back)
    assert world.members[node_id(2)].counts["setup_from_dialled"] == 1

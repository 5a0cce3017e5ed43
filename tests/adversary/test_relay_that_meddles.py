"""A relay that drops, delays, reorders, repeats, cuts or swaps what it should pass on.

The path dies, or nothing happens: neither end ever reads a byte in the wrong place. A cell that was
held back and sent in its turn does no harm; any other meddling is found with the next cell at the
latest. Outwards the relay behind says that it found it, so that the path's owner knows between
which two relays it happened; on the way back the owner finds it and knows nothing of where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from overlay.core.client_path import CLOSED, OPEN, Broken, Chunk
from overlay.core.payload import established
from overlay.core.reasons import Reason, Report
from overlay.core.wire import CELL, ID_BYTES, STREAM, decode_frame, read_chunk
from tests.adversary.watching import flipped, hops
from tests.overlay.checked import CheckedRelay
from tests.overlay.world import OWNER, Carried, Owned, World, node_id, pad

ASKED = bytes(range(250)) * 40
"""Six cells."""
ANSWERS = [b"%d" % number for number in range(6)]
LINE = [OWNER, *hops(3)]

Act = Callable[[int, Carried], list[Carried]]
"""What a relay sends in place of a cell, which is told its number."""


class Meddler:
    """Acts on the cells from `sender` to `receiver`."""

    def __init__(self, sender: bytes, receiver: bytes, act: Act) -> None:
        self.link = sender, receiver
        self.act = act
        self.count = 0

    def __call__(self, carried: Carried) -> list[Carried]:
        if (carried.sender, carried.receiver) != self.link or carried.frame[ID_BYTES] != CELL:
            return [carried]
        self.count += 1
        return self.act(self.count, carried)


def drops(count: int, carried: Carried) -> list[Carried]:
    return [] if count == 3 else [carried]


def repeats(count: int, carried: Carried) -> list[Carried]:
    return [carried, carried] if count == 3 else [carried]


def cuts(count: int, carried: Carried) -> list[Carried]:
    return [replace(carried, frame=carried.frame[:-1])] if count == 3 else [carried]


def lengthens(count: int, carried: Carried) -> list[Carried]:
    return [replace(carried, frame=carried.frame + b"\0")] if count == 3 else [carried]


def alters(count: int, carried: Carried) -> list[Carried]:
    return [flipped(carried, 5000)] if count == 3 else [carried]


def makes_up(count: int, carried: Carried) -> list[Carried]:
    return [flipped(carried, 5000), carried] if count == 3 else [carried]


class Swaps:
    def __init__(self) -> None:
        self.kept: list[Carried] = []

    def __call__(self, count: int, carried: Carried) -> list[Carried]:
        if count == 3:
            self.kept = [carried]
            return []
        kept, self.kept = self.kept, []
        return [carried, *kept]


class Delays:
    """Keeps each cell until the next comes; the last for good."""

    def __init__(self) -> None:
        self.kept: list[Carried] = []

    def __call__(self, count: int, carried: Carried) -> list[Carried]:
        gone, self.kept = self.kept, [carried]
        return gone


MEDDLINGS: dict[str, Callable[[], Act]] = {
    "drops": lambda: drops,
    "repeats": lambda: repeats,
    "cuts": lambda: cuts,
    "lengthens": lambda: lengthens,
    "alters": lambda: alters,
    "makes up": lambda: makes_up,
    "swaps": Swaps,
}


def asked_so_far(world: World) -> bytes:
    frames = [decode_frame(carried.frame) for carried in world.at_target()]
    return b"".join(read_chunk(frame.body) for frame in frames if frame.kind == STREAM)


def answers_of(owned: Owned) -> list[bytes]:
    return [event.data for event in owned.events if isinstance(event, Chunk)]


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize("name", sorted(MEDDLINGS))
def test_outwards_the_path_dies_and_who_found_it_is_known(name: str, place: int) -> None:
    """The relay at `place` meddles with what it sends to the next."""
    world = World(relay=CheckedRelay)
    owned = world.build()
    world.wire = Meddler(LINE[place], LINE[place + 1], MEDDLINGS[name]())
    owned.ask(ASKED)
    arrived = asked_so_far(world)
    assert ASKED.startswith(arrived)
    assert 2 * 1950 <= len(arrived) < len(ASKED)
    assert owned.events[-1] == Broken(Report(Reason.PROTOCOL), place)
    assert world.open_paths() == [0, 0, 0]
    assert world.members[LINE[place + 1]].counts["frame_refused"] == 1


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(MEDDLINGS))
def test_on_the_way_back_the_path_dies_and_nothing_wrong_was_read(name: str, place: int) -> None:
    world = World(relay=CheckedRelay)
    owned = world.build()
    owned.ask(b"question")
    (asked,) = world.at_target()
    world.wire = Meddler(LINE[place], LINE[place - 1], MEDDLINGS[name]())
    for answer in ANSWERS:
        world.answer(asked, answer)
    owned.receive()
    read = answers_of(owned)
    assert read == ANSWERS[: len(read)]
    assert 2 <= len(read) < len(ANSWERS)
    assert owned.path.phase == CLOSED
    assert owned.events[-1] == Broken(Report(Reason.PROTOCOL), None)
    assert world.open_paths() == [0, 0, 0]


@pytest.mark.parametrize("place", [1, 2])
def test_what_is_only_late_does_no_harm(place: int) -> None:
    world = World(relay=CheckedRelay)
    owned = world.build()
    world.wire = Meddler(LINE[place], LINE[place + 1], Delays())
    owned.ask(ASKED)
    assert asked_so_far(world) == ASKED[: 1950 + 4 * 1970]
    owned.send(pad(owned.path))
    assert asked_so_far(world) == ASKED[1950 + 4 * 1970 :]
    assert owned.path.phase == OPEN


def test_a_relay_that_swallows_everything_is_found_by_silence_only() -> None:
    """Nothing arrives and nothing is reported: the owner's pings find it (`overlay.core.path_set`),
    and its exchanges blame the silent path."""
    world = World(relay=CheckedRelay)
    owned = world.build()
    world.wire = lambda c: [] if c.sender == node_id(2) else [c]
    owned.ask(b"question")
    owned.send(owned.path.ping(b"12345678"))
    assert owned.receive() == []
    assert owned.path.phase == OPEN
    assert asked_so_far(world) == b""


def test_a_relay_that_swaps_two_paths_kills_both() -> None:
    """It puts the cells of one of its paths on another of them, both to the same next relay."""
    world = World(relay=CheckedRelay)
    first, second = world.build(), world.build()
    ids = {
        path.out_id: other.out_id
        for path, other in (
            (a, b)
            for a in world.members[node_id(2)].core._paths
            for b in world.members[node_id(2)].core._paths
            if a is not b
        )
    }
    world.wire = lambda c: (
        [replace(c, frame=ids[c.frame[:ID_BYTES]] + c.frame[ID_BYTES:])]
        if c.receiver == node_id(3) and c.frame[ID_BYTES] == CELL and c.frame[:ID_BYTES] in ids
        else [c]
    )
    first.ask(b"question of the first")
    second.receive()
    assert second.events[-1] == Broken(Report(Reason.PROTOCOL), 2)
    assert asked_so_far(world) == b""
    first.ask(b"more")
    assert asked_so_far(world) == b""


def test_a_relay_that_answers_for_the_last_is_not_believed() -> None:
    """The first relay says ESTABLISHED in place of the last, under its own key: it has no other."""
    world = World(relay=CheckedRelay)
    world.wire = lambda c: [] if c.sender == node_id(2) else [c]
    owned = world.begin()
    (path,) = world.members[node_id(1)].core._paths
    forged = path.say(established(128, 256))
    world.deliver(Carried(node_id(1), OWNER, forged.frame, dialled=True))
    owned.receive()
    assert owned.events == [Broken(Report(Reason.PROTOCOL), 0)]

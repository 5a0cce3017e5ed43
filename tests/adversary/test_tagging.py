"""Tagging: a relay marks a cell or a set-up, so that a friend further on can tell that the path it
sees there is the same one.

The mark never gets there. Outwards the next honest relay finds it, the path dies and the friend
sees a CLOSE like any other. Backwards the owner finds it; what the friend sees before is as random
as without a mark. That a path dies when they wish it to, its relays can always arrange: it is the
one bit that they know anyway, and it costs them the path. Two relays side by side need no mark.
"""

from __future__ import annotations

from random import Random

import pytest

from overlay.core.client_path import CLOSED, Broken, Chunk
from overlay.core.layer import TAG_BYTES, seal_back
from overlay.core.reasons import Reason, Report
from overlay.core.setup import GROWN_BYTES, HEAD_BYTES
from overlay.core.wire import (
    BODY_BYTES,
    CELL,
    CLOSE,
    FRAME_BYTES,
    HEADER_BYTES,
    ID_BYTES,
    SETUP,
    decode_frame,
)
from tests.adversary.watching import CHI_SQUARE_255, came_to, chi_square, flipped, hops, kinds
from tests.overlay.world import OWNER, TARGET, World, node_id

HOPS = 4
BITS = [
    8 * HEADER_BYTES + bit
    for bit in (
        0,
        8 * 31,  # the bit of an X25519 key that the curve does not use
        8 * HEAD_BYTES - 1,
        8 * (HEAD_BYTES + TAG_BYTES),
        8 * 1000 + 3,
        8 * (BODY_BYTES - GROWN_BYTES),
        8 * BODY_BYTES - 1,
    )
]
ANYWHERE = [*BITS, *(Random(1).randrange(8 * HEADER_BYTES, 8 * FRAME_BYTES) for _ in range(5))]
FOUND = {SETUP: "setup_not_opened", CELL: "frame_refused"}


def evidence(world: World, event: str) -> dict[bytes, int]:
    """Who counted `event`, and how often."""
    return {m.node: m.counts[event] for m in world.line if m.counts[event]}


@pytest.mark.parametrize("marker", [0, 1, 2])
@pytest.mark.parametrize("bit", ANYWHERE)
@pytest.mark.parametrize("kind", [SETUP, CELL])
def test_a_mark_outwards_is_found_by_the_next_relay_and_goes_no_further(
    marker: int, bit: int, kind: int
) -> None:
    """The relay at position `marker` flips the bit of the first frame of this kind that it sends
    on; the relays behind the one that finds it are its friends."""
    world, line = World(relays=HOPS), hops(HOPS)
    finder, friends = line[marker + 1], line[marker + 2 :]
    if kind == CELL:
        owned = world.build()
    world.wire = lambda c: (
        [flipped(c, bit)]
        if (c.sender, c.receiver, c.frame[ID_BYTES]) == (line[marker], finder, kind)
        else [c]
    )
    since = len(world.carried)
    if kind == CELL:
        owned.ask(b"question")
    else:
        owned = world.build()
    assert evidence(world, FOUND[kind]) == {finder: 1}
    assert owned.path.phase == CLOSED
    reason = Reason.PROTOCOL if kind == CELL else Reason.NOT_OPENED
    assert owned.events[-1] == Broken(Report(reason), marker + (kind == CELL))
    assert world.open_paths() == [0] * HOPS
    for friend in friends:
        seen = came_to(world, friend, since)
        assert kinds(seen) == ([CLOSE] if kind == CELL else [])
        # The CLOSE is what an owner that goes away causes, to the byte.
        assert all(decode_frame(c.frame).body == Report(Reason.NONE).close_body() for c in seen)
    assert not came_to(world, TARGET, since)


@pytest.mark.parametrize("marker", [1, 2, 3])
@pytest.mark.parametrize("bit", ANYWHERE)
def test_a_mark_on_the_way_back_is_found_by_the_owner(marker: int, bit: int) -> None:
    world, line = World(relays=HOPS), hops(HOPS)
    owned = world.build()
    owned.ask(b"question")
    (asked,) = world.at_target()
    world.wire = lambda c: (
        [flipped(c, bit)] if (c.sender, c.receiver) == (line[marker], line[marker - 1]) else [c]
    )
    world.answer(asked, b"answer")
    owned.receive()
    assert owned.events[-1] == Broken(Report(Reason.PROTOCOL), None)
    assert not any(isinstance(event, Chunk) for event in owned.events)
    assert world.open_paths() == [0] * HOPS
    assert evidence(world, "frame_refused") == {}  # no relay can see it, so no friend can either


@pytest.mark.parametrize("honest", [1, 2])
def test_behind_an_honest_relay_a_mark_backwards_looks_like_no_mark(honest: int) -> None:
    """A relay overwrites 64 bytes with one pattern; 1 or 2 honest relays seal it; its friend looks
    at the place, which moves by a tag a layer."""
    rng = Random(2)
    keys = [rng.randbytes(32) for _ in range(honest)]
    place, pattern = 700, b"\xaa" * 64
    seen = {False: bytearray(), True: bytearray()}
    for counter in range(2000):
        for marked in seen:
            body = rng.randbytes(BODY_BYTES)
            if marked:
                body = body[:place] + pattern + body[place + len(pattern) :]
            for key in keys:
                body = seal_back(key, counter, body)
            moved = place + honest * TAG_BYTES
            seen[marked] += body[moved : moved + len(pattern)]
    assert chi_square(bytes(seen[False])) < CHI_SQUARE_255
    assert chi_square(bytes(seen[True])) < CHI_SQUARE_255


def test_a_friend_that_takes_the_mark_off_again_saves_nothing() -> None:
    """Even who guesses path and place right: the honest relay between has sealed the mark in."""
    world, line = World(relays=HOPS), hops(HOPS)
    owned = world.build()
    owned.ask(b"question")
    (asked,) = world.at_target()
    bit = 8 * 1000
    moved = bit + 8 * TAG_BYTES
    world.wire = lambda c: (
        [flipped(c, bit)]
        if (c.sender, c.receiver) == (line[2], line[1])
        else [flipped(c, moved)]
        if (c.sender, c.receiver) == (line[0], OWNER)
        else [c]
    )
    world.answer(asked, b"answer")
    owned.receive()
    assert owned.events[-1] == Broken(Report(Reason.PROTOCOL), None)


def test_what_a_friend_sees_of_a_mark_it_sees_of_an_owner_that_goes_away() -> None:
    """Same path, same secrets: once a mark kills it, once its owner closes it."""
    views, line = [], hops(HOPS)
    for marks in (True, False):
        world = World(relays=HOPS)
        owned = world.build()
        since = len(world.carried)
        if marks:
            world.wire = lambda c: (
                [flipped(c, 9999)] if (c.sender, c.receiver) == (line[0], line[1]) else [c]
            )
            owned.ask(b"question")
        else:
            owned.send(owned.path.close())
        views.append([c.frame for c in came_to(world, node_id(HOPS), since)])
    assert views[0] == views[1]
    assert len(views[0]) == 1

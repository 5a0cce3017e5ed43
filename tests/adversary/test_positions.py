"""Size and position: a relay measures what it sees, to tell whether it is the first, how many come
after it, how long the path is, how long the question.

It sees frames of one size, in an order that is the same at each middle place of any path, filled
with bytes that are uniform to their ends. What it does know is who its neighbours are, and the last
relay that it is the last.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from functools import lru_cache

import pytest

from overlay.core.setup import open_setup
from overlay.core.wire import CELL, FRAME_BYTES, HEADER_BYTES, ID_BYTES, SETUP
from tests.adversary.watching import CHI_SQUARE_255, chi_square, hops
from tests.overlay.world import World, node_id

PATHS = 60
Place = tuple[int, int]
"""A path's length, and a position on it from 0 on."""
PLACES = [(length, place) for length in range(1, 5) for place in range(length)]


@lru_cache(maxsize=1)
def bodies() -> dict[tuple[Place, str], list[bytes]]:
    """What came to and left each place, as `kind in` and `kind out`, over many paths."""
    seen: dict[tuple[Place, str], list[bytes]] = defaultdict(list)
    for length in range(1, 5):
        world = World(relays=length)
        for _ in range(PATHS):
            owned = world.build()
            owned.send(owned.path.ping(b"12345678"))
            owned.receive()
            owned.send(owned.path.close())
            world.now_s += 10
        for carried in world.carried:
            kind = {SETUP: "setup", CELL: "cell"}.get(carried.frame[ID_BYTES])
            if kind is None:
                continue
            for node, way in ((carried.receiver, "in"), (carried.sender, "out")):
                if node in world.members:
                    place = (length, hops(length).index(node))
                    seen[place, f"{kind} {way}"].append(carried.frame[HEADER_BYTES:])
    return seen


def view(length: int, place: int, asked: int = 100) -> list[tuple[str, int, int]]:
    """What happens at a place: from or to which side, which kind, how many bytes."""
    world = World(relays=length)
    owned = world.build()
    owned.ask(bytes(asked))
    (asked_at, *_) = world.at_target()
    world.answer(asked_at, b"answer")
    owned.receive()
    owned.send(owned.path.close())
    node = node_id(place + 1)
    return [
        ("in" if c.receiver == node else "out", c.frame[ID_BYTES], len(c.frame))
        for c in world.carried
        if node in (c.sender, c.receiver)
    ]


def test_every_middle_place_of_every_path_sees_the_same_order_and_sizes() -> None:
    middle = [view(length, place) for length, place in PLACES if place < length - 1]
    assert len(middle) == 6
    assert all(each == middle[0] for each in middle)
    last = [view(length, length - 1) for length in range(1, 5)]
    assert all(each == last[0] for each in last)
    assert {size for each in (*middle, *last) for _, _, size in each} == {FRAME_BYTES}


def test_a_question_shows_its_cells_and_nothing_below() -> None:
    assert view(3, 1, 1) == view(3, 1, 1950)
    assert view(3, 1, 1951) != view(3, 1, 1950)


@pytest.mark.parametrize("kind", ["setup in", "cell in", "cell out"])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_bytes_are_uniform_at_every_place(place: Place, kind: str) -> None:
    """All of them, and the last 352 by themselves, where zeros and filler of hops before stand."""
    found = bodies()[place, kind]
    assert len(found) >= PATHS
    assert chi_square(b"".join(found)) < CHI_SQUARE_255
    assert chi_square(b"".join(body[-352:] for body in found)) < CHI_SQUARE_255
    assert chi_square(b"".join(body[:56] for body in found)) < CHI_SQUARE_255
    whole = b"".join(found)
    assert len(zlib.compress(whole, 9)) > len(whole)


@pytest.mark.parametrize("kind", ["setup in", "cell in", "cell out"])
def test_places_cannot_be_told_apart_by_their_bytes(kind: str) -> None:
    """Chi-square of the counts of each value between every two places."""
    counts = {place: b"".join(bodies()[place, kind]) for place in PLACES}
    tallies = {p: [data.count(value) for value in range(256)] for p, data in counts.items()}
    for index, one in enumerate(PLACES):
        for other in PLACES[index + 1 :]:
            a, b = tallies[one], tallies[other]
            share = sum(a) / (sum(a) + sum(b))
            score = sum(
                (x - (x + y) * share) ** 2 / ((x + y) * share * (1 - share))
                for x, y in zip(a, b, strict=True)
            )
            assert score < CHI_SQUARE_255, (one, other)


@pytest.mark.parametrize(("length", "place"), PLACES)
def test_a_set_up_tells_a_relay_its_next_hop_and_no_more(length: int, place: int) -> None:
    world = World(relays=length)
    world.begin()
    node = node_id(place + 1)
    setup = next(c for c in world.carried if c.receiver == node)
    opened = open_setup(setup.frame[HEADER_BYTES:], world.members[node].secrets, node)
    following = node_id(place + 2) if place + 1 < length else None
    assert (opened.next_node, opened.period) == (following, 6_000_000)
    assert len(opened.body) == FRAME_BYTES - HEADER_BYTES

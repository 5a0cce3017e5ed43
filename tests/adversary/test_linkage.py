"""Linking: relays that collude lay what they saw on either side of an honest relay side by side, to
find which of its paths in is which of its paths out.

Everything that both sides see is compared: ids, kinds, every byte of every frame. No value leads
across an honest relay. What is not hidden is when frames come and how many a path carries; see
docs/threat-model.md.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import sqrt
from random import Random

from overlay.core.wire import (
    BODY_BYTES,
    CELL,
    CLOSE,
    HEADER_BYTES,
    ID_BYTES,
    SETUP,
    STREAM,
    STREAM_END,
)
from tests.overlay.world import TARGET, Carried, World

RELAYS, PATHS = 6, 40
WINDOW_BYTES = 6
"""Of so many bytes two frames of 2 KiB have some in common by chance once in 10^8 pairs."""
Link = frozenset[bytes]


@lru_cache(maxsize=1)
def world() -> World:
    """Paths of three relays and several owners, each with two questions, answers and its end."""
    rng, made = Random(5), World(relays=RELAYS)
    nodes = list(made.members)
    for number in range(PATHS):
        owned = made.build(rng.sample(nodes, 3), owner=b"owner %d" % number)
        for question in (b"one", b"two"):
            owned.ask(question)
            (asked,) = made.at_target()
            made.answer(asked, b"answer")
            owned.receive()
        owned.send(owned.path.close())
        made.at_target()
    return made


def link(carried: Carried) -> Link:
    return frozenset((carried.sender, carried.receiver))


def windows(frames: list[bytes]) -> set[bytes]:
    return {
        frame[start : start + WINDOW_BYTES]
        for frame in frames
        for start in range(len(frame) - WINDOW_BYTES + 1)
    }


def test_no_id_is_on_two_links() -> None:
    seen: dict[bytes, set[Link]] = {}
    for carried in world().carried:
        seen.setdefault(carried.frame[:ID_BYTES], set()).add(link(carried))
    assert all(len(links) == 1 for links in seen.values())
    # One a direction on each of a path's links, and two of each stream.
    assert len(seen) == PATHS * (2 * 3 + 2 * 2)


def test_ids_look_like_any_eight_bytes() -> None:
    """Each bit is set in half of them, within five standard errors, also where one is made from
    another: who knows only the one cannot tell the other from chance."""
    ids = {carried.frame[:ID_BYTES] for carried in world().carried}
    for bit in range(8 * ID_BYTES):
        ones = sum(int.from_bytes(each, "big") >> bit & 1 for each in ids)
        assert abs(ones - len(ids) / 2) < 5 * sqrt(len(ids)) / 2


def test_no_bytes_of_a_link_are_on_another() -> None:
    """CLOSE and the frames of model nodes are left out: they have zeros in the clear, which say
    the same on all links."""
    by_link: dict[Link, list[bytes]] = {}
    for carried in world().carried:
        if carried.frame[ID_BYTES] in (SETUP, CELL):
            frame = carried.frame[:ID_BYTES] + carried.frame[HEADER_BYTES:]
            by_link.setdefault(link(carried), []).append(frame)
    # Of each link one path in four, else this takes a minute.
    shown = {place: windows(frames[::4]) for place, frames in by_link.items()}
    shared = [one & other for one, other in combinations(shown.values(), 2)]
    assert len(shared) > 100
    assert sum(map(len, shared)) <= 2, "more than chance"


def test_a_cell_in_and_the_same_cell_out_differ_like_any_two() -> None:
    """In the number of bits that differ, matched pairs have the mean and the spread of unmatched
    ones."""
    pairs: list[tuple[bytes, bytes]] = []
    before: Carried | None = None
    for carried in world().carried:
        is_cell = carried.frame[ID_BYTES] in (SETUP, CELL)
        if is_cell and before is not None and before.receiver == carried.sender:
            pairs.append((before.frame[HEADER_BYTES:], carried.frame[HEADER_BYTES:]))
        before = carried if is_cell else None
    assert len(pairs) > 500
    bits = 8 * BODY_BYTES
    for shift in (0, 1):  # matched, then each with the next one's
        others = [pairs[(index + shift) % len(pairs)][1] for index in range(len(pairs))]
        counts = [
            (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()
            for (one, _), other in zip(pairs, others, strict=True)
        ]
        mean = sum(counts) / len(counts)
        variance = sum((count - mean) ** 2 for count in counts) / len(counts)
        assert abs(mean - bits / 2) < 5 * sqrt(bits / 4 / len(pairs))
        assert abs(variance / (bits / 4) - 1) < 5 * sqrt(2 / len(pairs))


def test_what_is_in_the_clear_says_the_same_on_all_links() -> None:
    closes = {c.frame[HEADER_BYTES:] for c in world().carried if c.frame[ID_BYTES] == CLOSE}
    assert len(closes) == 1
    streams = [c for c in world().carried if c.frame[ID_BYTES] in (STREAM, STREAM_END)]
    assert all(TARGET in (c.sender, c.receiver) for c in streams)

"""What a node says of itself arrives, whatever is lost, doubled or made up on the way."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelnode.core import telling
from modelnode.core.chunks import Path
from modelnode.core.telling import MAX_CHUNKS, PAGE_ITEMS, WINDOW_ITEMS, Item, Log, Page, Reader
from planetserve.errors import RemoteProtocolError


def conversation(rng: random.Random, systems: int = 4) -> list[Path]:
    """Paths that grow turn by turn from one of a few beginnings."""
    path = random.Random(rng.randrange(systems)).randbytes(40)
    paths = []
    for _ in range(rng.randint(1, 5)):
        path += rng.randbytes(2 * rng.randint(1, 20))
        paths.append(path)
    return paths


def tell(log: Log, reader: Reader, told: int | None) -> list[Path]:
    paths: list[Path] = []
    for page in log.pages(told):
        heard = reader.hear(page)
        assert not heard.ask
        paths += heard.paths
    return paths


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_all_is_read_as_it_was_told(seed: int, conversations: int) -> None:
    rng, log, reader = random.Random(seed), Log(1), Reader()
    told: int | None = None
    for _ in range(conversations):
        paths = conversation(rng)
        for path in paths:
            log.hold(path)
        assert tell(log, reader, told)[-len(paths) :] == paths
        told = log.next
    assert not reader.hear(log.digest()).ask


def test_a_new_reader_gets_the_newest_and_then_what_is_new() -> None:
    rng, log = random.Random(1), Log(1)
    paths = [path for _ in range(400) for path in conversation(rng)]
    for path in paths:
        log.hold(path)
    assert len(paths) > WINDOW_ITEMS
    reader = Reader()
    pages = log.pages(None)
    assert [page.snapshot for page in pages] == [True] + [False] * (len(pages) - 1)
    assert all(len(page.items) <= PAGE_ITEMS for page in pages)
    assert tell(log, reader, None) == paths[-WINDOW_ITEMS:]
    log.hold(b"\1\2" * 30)
    assert tell(log, reader, log.next - 1) == [b"\1\2" * 30]
    assert not reader.hear(log.digest()).ask


def test_an_empty_log_is_in_step_too() -> None:
    log, reader = Log(1), Reader()
    assert tell(log, reader, None) == []
    assert not reader.hear(log.digest()).ask


@given(st.integers(0, 10_000), st.lists(st.sampled_from(["tell", "lose", "double", "swap"])))
@settings(max_examples=60, deadline=None)
def test_a_gap_is_asked_for_once_and_filled(seed: int, wires: list[str]) -> None:
    rng, log, reader = random.Random(seed), Log(1), Reader()
    told: int | None = None
    for wire in [*wires, "tell", "tell"]:
        for path in conversation(rng):
            log.hold(path)
        pages = log.pages(told)
        told = log.next
        if wire == "lose":
            continue
        if wire == "double":
            pages = [page for page in pages for _ in range(2)]
        if wire == "swap":
            pages.reverse()
        if any([reader.hear(page).ask for page in pages]):
            told = None
    if told is None:
        tell(log, reader, None)
    assert not reader.hear(log.digest()).ask


def test_a_new_life_holds_nothing_of_the_old_one() -> None:
    old, new, reader = Log(1), Log(2), Reader()
    old.hold(b"ab" * 10)
    tell(old, reader, None)
    new.hold(b"cd" * 10)
    (page,) = new.pages(None)
    heard = reader.hear(page)
    assert (heard.forget, heard.paths) == (True, [b"cd" * 10])


def test_what_differs_in_silence_is_found_by_the_digest() -> None:
    one, other, reader = Log(1), Log(1), Reader()
    one.hold(b"ab" * 10)
    other.hold(b"ac" * 10)
    tell(one, reader, None)
    assert reader.hear(other.digest()).ask
    assert tell(other, reader, None) == [b"ac" * 10]
    assert not reader.hear(other.digest()).ask


ITEMS = st.builds(Item, st.integers(0, 600), st.integers(0, MAX_CHUNKS + 1), st.binary(max_size=60))
PAGES = st.builds(
    Page,
    st.integers(0, 3),
    st.integers(0, 5),
    st.booleans(),
    st.lists(ITEMS, max_size=5).map(tuple),
    st.sampled_from([b"", bytes(8)]),
)


@given(st.lists(PAGES, max_size=12))
@settings(deadline=None)
def test_nothing_a_peer_says_does_more_than_cost_it_its_place(pages: list[Page]) -> None:
    reader = Reader()
    for page in pages:
        try:
            heard = reader.hear(page)
        except RemoteProtocolError:
            continue
        assert all(0 < len(path) <= 2 * MAX_CHUNKS and len(path) % 2 == 0 for path in heard.paths)
    assert len(reader._paths) <= WINDOW_ITEMS
    log = Log(9)
    log.hold(b"ab" * 10)
    assert tell(log, reader, None) == [b"ab" * 10]


@pytest.mark.parametrize(
    "item",
    [Item(1, 1, b"ab"), Item(0, 0, b""), Item(0, 0, b"abc"), Item(0, 0, b"ab" * (MAX_CHUNKS + 1))],
)
def test_items_that_no_honest_teller_sends(item: Item) -> None:
    with pytest.raises(RemoteProtocolError):
        Reader().hear(Page(1, 0, True, (item,)))


def test_a_long_prompt_is_told_as_far_as_may_be() -> None:
    log, reader = Log(1), Reader()
    for _ in range(40):
        log.hold(random.Random(1).randbytes(4 * MAX_CHUNKS) + b"xx")
        log.hold(random.Random(log.next).randbytes(4 * MAX_CHUNKS))
    pages = log.pages(None)
    assert all(
        sum(len(item.fresh) + telling.ITEM_BYTES for item in page.items) <= telling.MAX_PAGE_BYTES
        for page in pages
    )
    assert {len(path) for path in tell(log, reader, None)} == {2 * MAX_CHUNKS}

"""A last relay that alters cloves, on their way to the model node or back."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.exchange import DRAINING
from overlay.core.request import prepare
from overlay.core.wire import MAX_CHUNK_BYTES
from tests.adversary.asking import Asking, Relay
from tests.overlay.door import PERIOD, PUBLIC, TARGET, Door, K, N

WORDS = [b"an answer ", b"of a few ", b"words"]


def answered(asking: Asking) -> None:
    """What the model node does with a request that reached it."""
    for word in WORDS:
        asking.door.write(word)
        asking.run(0.2)
    asking.door.finish()
    asking.run(0.5)


def flipping(rng: Random, start: int) -> Relay:
    def flip(data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[rng.randrange(start, len(damaged))] ^= rng.randrange(1, 256)
        return bytes(damaged)

    return flip


def of_its_own(rng: Random, start: int) -> Relay:
    """A clove as good as any, but of a request that the relay made: it knows no message id."""
    return lambda data: prepare(b"mine", TARGET, PUBLIC, N, K, PERIOD, rng.randbytes).streams[0]


def noise(rng: Random, start: int) -> Relay:
    return lambda data: data[:start] + rng.randbytes(len(data) - start)


@pytest.mark.parametrize("slot", range(N))
@pytest.mark.parametrize("change", [flipping, of_its_own, noise])
def test_a_clove_that_is_altered_on_its_way_out(
    slot: int, change: Callable[[Random, int], Relay]
) -> None:
    """Its stream is ended and no other, which tells the client the path; the answer is whole."""
    asking = Asking(Door(), outwards={slot: change(Random(slot), 2)})
    answered(asking)
    assert asking.read == b"".join(WORDS)
    assert asking.done
    assert asking.polluted == set()
    # A request of the relay's own is waited for a while; its stream brings nothing.
    assert asking.ended == (set() if change is of_its_own else {slot})
    assert slot not in asking.routes or asking.given[asking.routes[slot]] == 0


@pytest.mark.parametrize("slot", range(N))
@pytest.mark.parametrize("change", [flipping, noise])
def test_a_clove_that_is_altered_on_its_way_back(
    slot: int, change: Callable[[Random, int], Relay]
) -> None:
    asking = Asking(Door(), back={slot: change(Random(slot), 0 if change is not noise else 20)})
    answered(asking)
    assert asking.read == b"".join(WORDS)
    assert asking.done
    assert asking.polluted == {slot}


@given(st.integers(0, N - 1), st.integers(0, MAX_CHUNK_BYTES - 1), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_whatever_byte_is_altered(slot: int, place: int, change: int) -> None:
    def alter(data: bytes) -> bytes:
        return data[:place] + bytes((data[place] ^ change,)) + data[place + 1 :]

    asking = Asking(Door(), back={slot: alter})
    answered(asking)
    assert (asking.read, asking.polluted) == (b"".join(WORDS), {slot})


def test_one_who_brings_the_same_clove_again_and_again_is_told_by_its_delay() -> None:
    """It authenticates, so that the relay altered nothing; it brings nothing either."""
    first: list[bytes] = []

    def repeat(data: bytes) -> bytes:
        first.append(data)
        return first[0]

    asking = Asking(Door(), back={1: repeat})
    asking.door.write(b"accepted")
    asking.door.write(b"token")
    asking.run(12.0)
    assert (asking.polluted, asking.silent) == (set(), set())
    asking.run(2.0)
    assert (asking.polluted, asking.silent) == (set(), {1})
    assert asking.failed is None


def test_two_who_alter_spoil_the_answer_and_are_both_named() -> None:
    asking = Asking(Door(), back={0: flipping(Random(0), 0), 3: flipping(Random(3), 0)})
    answered(asking)
    assert (asking.read, asking.polluted) == (b"", {0, 3})
    asking.run(20.0)
    assert asking.failed is not None


def test_one_who_alters_only_the_padding_after_the_answer_is_named_too() -> None:
    """Else it could mark when an answer is over."""
    asking = Asking(Door())
    asking.door.write(b"all")
    asking.door.finish()
    asking.run(0.05)
    assert asking.asker.state == DRAINING
    asking.back[2] = flipping(Random(2), 0)
    asking.run(0.5)
    assert asking.polluted == {2}

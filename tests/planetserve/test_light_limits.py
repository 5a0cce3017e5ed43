"""Answers that are made to fill a reader's memory, and forms that only look like an answer."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from planetserve.encoding import encode
from planetserve.errors import PlanetServeError, RemoteProtocolError, WrongProof
from planetserve.light.proven import MAX_STATE_BYTES, check_state
from planetserve.light.reading import read_header
from planetserve.merkle import map_root
from tests.planetserve.ledger_servers import FOUR, State
from tests.planetserve.light_chain import header_at, recorded

STATE = State({b"accounts/a": b"\x01", b"routes/a": b"\x80"})
HEADER = replace(header_at(6, FOUR, FOUR), app_hash=map_root(STATE.roots))
KEYS, STORES = [b"accounts/a", b"accounts/b"], ["routes"]
HONEST = encode(STATE.answer(KEYS, STORES))
MIB = 1 << 20


def filled(part: str, content: bytes) -> bytes:
    """An honest answer in which one part is other bytes."""
    answer = STATE.answer(KEYS, STORES)
    packed = b"\x83"
    for name in ("records", "roots", "stores"):
        packed += msgpack.packb(name) + (content if name == part else encode(answer[name]))
    return packed


def many(item: bytes, count: int = MIB) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


HOSTILE = {
    "lists for records": filled("records", many(b"\x90")),
    "maps for roots": filled("roots", many(b"\x80")),
    "many roots": filled(
        "roots",
        b"\xde\xff\xff" + b"".join(msgpack.packb(f"{n:05}") + b"\xc0" for n in range(65_535)),
    ),
    "lists for stores": filled("stores", many(b"\x90")),
    "empty lists in a store": filled("stores", b"\x81\xa6routes" + many(b"\x90")),
    "short pairs in a store": filled("stores", b"\x81\xa6routes" + many(b"\x92\xc4\0\xc4\0")),
    "maps in a pair": filled("stores", b"\x81\xa6routes\x91\x92" + many(b"\x80") * 2),
    "a long list announced": filled("stores", b"\x81\xa6routes\xdd\xff\xff\xff\xff"),
    "deep": filled("records", b"\xdd\0\x0f\xff\xff" * 2_000),
    "nothing but lists": b"\xdd\0\x0f\xff\xff" * 2_000,
    "a list": many(b"\x80"),
    "siblings without end": filled(
        "records",
        b"\x92\x84\xa3key" + msgpack.packb(KEYS[0]) + b"\xa4leaf\xc0\xa8siblings" + many(b"\xc4\0"),
    ),
    "something behind": HONEST + b"\xc0",
    "another field": HONEST.replace(b"\xa6stores", b"\xa6storey"),
    "too large": HONEST + bytes(MAX_STATE_BYTES),
}


def test_the_honest_answer_is_read() -> None:
    proven = check_state(HONEST, 5, HEADER, KEYS, STORES)
    assert proven.records == {b"accounts/a": 1, b"accounts/b": None}
    assert proven.stores == {"routes": {b"routes/a": {}}}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_takes_little_memory(name: str) -> None:
    value = HOSTILE[name]
    tracemalloc.start()
    with pytest.raises((RemoteProtocolError, WrongProof)):
        check_state(value, 5, HEADER, KEYS, STORES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The reader keeps a copy of what it was fed.
    assert peak < 4 * len(value) + MIB


def test_what_follows_wrong_roots_is_not_read() -> None:
    other = replace(HEADER, app_hash=bytes(32))
    for name in ("lists for records", "lists for stores", "deep"):
        with pytest.raises(PlanetServeError) as caught:
            check_state(HOSTILE[name], 5, other, KEYS, STORES)
        assert isinstance(caught.value, WrongProof | RemoteProtocolError)
    with pytest.raises(WrongProof, match="state shown for height 5"):
        check_state(HOSTILE["lists for stores"], 5, other, KEYS, STORES)


@pytest.mark.parametrize(
    "change", [{"height": "\u0661"}, {"time": "2024-01-0\u0661T00:00:00Z"}, {"height": "1_0"}]
)
def test_only_ascii_digits_are_numbers(change: dict[str, Any]) -> None:
    shown = recorded()["blocks"][1]["signed_header"]["header"]
    read_header(shown)
    with pytest.raises(RemoteProtocolError):
        read_header({**shown, **change})

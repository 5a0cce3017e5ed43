"""The last relay's short way for chunks, beside the one for everything."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core.payload import CHUNK_BYTES, DATA, END, OPEN, PAD, Payload, encode_payload
from overlay.core.relay_exit import Exit
from tests.overlay.world import TARGET


@given(st.binary(max_size=CHUNK_BYTES))
@settings(max_examples=30, deadline=None)
def test_the_short_way_of_a_chunk_is_the_long_one(data: bytes) -> None:
    short, long = Exit(), Exit()
    frames = []
    for way in (short, long):
        opened = Payload(OPEN, 1, TARGET + b"first")
        way.from_owner(opened, True, Random(1).randbytes, 0.0)
    payload = Payload(DATA, 1, data)
    frames.append(short.passed_on(encode_payload(payload)))
    frames += long.from_owner(payload, True, Random(1).randbytes, 0.0).sends
    assert frames[0] == frames[1]
    assert short == long


def test_what_is_no_chunk_of_an_open_stream_goes_the_long_way() -> None:
    way = Exit()
    way.from_owner(Payload(OPEN, 1, TARGET), True, Random(1).randbytes, 0.0)
    for payload in (Payload(DATA, 2, b"x"), Payload(END, 1, b"\0"), Payload(PAD)):
        assert way.passed_on(encode_payload(payload)) is None
    padded = encode_payload(Payload(DATA, 1, b"x"))
    assert way.passed_on(padded[:-1] + b"\1") is None
    assert way.passed_on(padded[:3] + b"\xff\xff" + padded[5:]) is None

"""The ABCI framing with bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.wire import FrameDecoder, FramingError, encode_frame


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 50), min_size=1))
def test_messages_survive_any_cutting(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(message) for message in messages)
    decoder = FrameDecoder()
    received: list[bytes] = []
    position = index = 0
    while position < len(stream):
        size = cuts[index % len(cuts)]
        received += decoder.feed(stream[position : position + size])
        position += size
        index += 1
    assert received == messages
    assert decoder.pending_bytes == 0


def test_lengths_are_unsigned_leb128() -> None:
    assert encode_frame(b"x" * 300)[:2] == b"\xac\x02"
    request = abci.Request(flush=abci.RequestFlush()).SerializeToString()
    assert encode_frame(request) == b"\x02\x12\x00"


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    decoder = FrameDecoder(max_message_bytes=100)
    with pytest.raises(FramingError):
        decoder.feed(b"\x65")


def test_a_length_without_end_is_refused() -> None:
    with pytest.raises(FramingError):
        FrameDecoder().feed(b"\xff" * 5)


@given(st.binary(max_size=64))
def test_garbage_gives_messages_or_a_framing_error(data: bytes) -> None:
    decoder = FrameDecoder(max_message_bytes=32)
    try:
        messages = decoder.feed(data)
    except FramingError:
        return
    assert sum(map(len, messages)) + decoder.pending_bytes <= len(data)

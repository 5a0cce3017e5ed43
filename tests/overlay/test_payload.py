from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.core import payload as p
from overlay.core.layer import PAYLOAD_BYTES
from overlay.core.payload import Payload, decode_payload, encode_payload
from overlay.core.wire import CellError

streams = st.integers(1, p.MAX_STREAM)
eight = st.binary(min_size=8, max_size=8)
payloads = st.one_of(
    st.builds(Payload, st.just(p.OPEN), streams, st.binary(min_size=20, max_size=p.CHUNK_BYTES)),
    st.builds(Payload, st.just(p.DATA), streams, st.binary(max_size=p.CHUNK_BYTES)),
    st.builds(Payload, st.just(p.END), streams, st.binary(min_size=1, max_size=1)),
    st.builds(p.credit, st.integers(0, 0xFFFF)),
    st.builds(Payload, st.sampled_from((p.PING, p.PONG)), st.just(0), eight),
    st.just(Payload(p.PAD)),
    st.builds(p.established, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    st.builds(Payload, st.just(p.ERROR), st.just(0), st.binary(min_size=1, max_size=65)),
)


def test_sizes_are_those_of_the_wire_format() -> None:
    assert (PAYLOAD_BYTES, p.CHUNK_BYTES, p.OPEN_CHUNK_BYTES) == (1975, 1970, 1950)
    assert encode_payload(Payload(p.DATA, 0x0102, b"ab")) == bytes.fromhex(
        "0201020002" + b"ab".hex()
    ) + bytes(1968)


@given(payloads)
def test_a_payload_comes_back(payload: Payload) -> None:
    encoded = encode_payload(payload)
    assert len(encoded) == PAYLOAD_BYTES
    assert decode_payload(encoded) == payload


@given(payloads, st.integers(0, PAYLOAD_BYTES - 1))
def test_every_truncation_is_refused(payload: Payload, size: int) -> None:
    encoded = encode_payload(payload)
    with pytest.raises(CellError):
        decode_payload(encoded[:size])
    with pytest.raises(CellError):
        decode_payload(encoded + b"\0")


def test_each_truncation_of_a_full_payload_is_refused() -> None:
    encoded = encode_payload(Payload(p.DATA, 1, b"\xff" * p.CHUNK_BYTES))
    for size in range(PAYLOAD_BYTES):
        with pytest.raises(CellError):
            decode_payload(encoded[:size])


@given(payloads, st.integers(0, 8 * PAYLOAD_BYTES - 1))
def test_a_changed_bit_is_refused_or_means_what_it_says(payload: Payload, bit: int) -> None:
    """Bits are authenticated by the layers around; here there is one form for each meaning."""
    changed = bytearray(encode_payload(payload))
    changed[bit // 8] ^= 1 << bit % 8
    try:
        read = decode_payload(bytes(changed))
    except CellError:
        return
    assert read != payload
    assert encode_payload(read) == changed


def test_every_changed_bit_of_the_padding_is_refused() -> None:
    encoded = encode_payload(Payload(p.PING, 0, b"12345678"))
    for bit in range(8 * (p.HEADER_BYTES + 8), 8 * PAYLOAD_BYTES):
        changed = bytearray(encoded)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CellError):
            decode_payload(bytes(changed))


@given(st.binary(max_size=60).map(lambda head: head.ljust(PAYLOAD_BYTES, b"\0")))
def test_any_bytes_are_one_payload_or_an_error(data: bytes) -> None:
    try:
        read = decode_payload(data)
    except CellError:
        return
    assert encode_payload(read) == data


@pytest.mark.parametrize(
    "payload",
    [
        Payload(0),
        Payload(8),
        Payload(p.DATA, 0, b"no stream"),
        Payload(p.DATA, 1, bytes(p.CHUNK_BYTES + 1)),
        Payload(p.DATA, p.MAX_STREAM + 1, b""),
        Payload(p.OPEN, 1, bytes(19)),
        Payload(p.END, 1),
        Payload(p.CREDIT, 0, b"1"),
        Payload(p.PING, 1, b"12345678"),
        Payload(p.PAD, 0, b"x"),
        Payload(p.ERROR),
    ],
)
def test_what_would_be_refused_is_not_sent(payload: Payload) -> None:
    with pytest.raises(ValueError, match=r"payload|stream"):
        encode_payload(payload)


def test_established_names_version_and_windows() -> None:
    answer = p.established(128, 256)
    assert p.read_established(answer) == (128, 256)
    with pytest.raises(CellError):
        p.read_established(Payload(p.ESTABLISHED, 0, b"\1" + answer.data[1:]))


def test_directions_cover_the_commands() -> None:
    assert {p.PONG, p.ESTABLISHED, p.ERROR} == p.BACKWARD - p.OUTWARD
    assert {p.OPEN, p.PING} == p.OUTWARD - p.BACKWARD
    assert p.CREDITED <= p.OUTWARD

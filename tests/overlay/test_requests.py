"""Requests by values: sealed, padded, dispersed, and taken once by their model node."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult_base

from overlay.core import padding, request, sealed, sida
from overlay.core.request import (
    DUMMY,
    QUESTION,
    OutgoingRequest,
    RequestError,
    StreamReader,
    open_request,
    prepare,
)
from tests.overlay.door import PERIOD, PUBLIC, SECRET, TARGET, Door, cut, open_clove

THRESHOLDS = st.integers(1, 16).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def fixed(size: int) -> bytes:
    return bytes(index % 251 + 1 for index in range(size))


def cloves_of(outgoing: OutgoingRequest) -> list[sida.Clove]:
    return [open_clove(TARGET, SECRET, stream).clove for stream in outgoing.streams]


@given(THRESHOLDS, st.binary(max_size=9000), st.sampled_from([QUESTION, DUMMY]), st.data())
@settings(max_examples=60, deadline=None)
def test_any_k_cloves_open_a_request(
    threshold: tuple[int, int], payload: bytes, kind: int, data: st.DataObject
) -> None:
    n, k = threshold
    wish = data.draw(st.integers(0, 0xFFFF))
    outgoing = prepare(payload, TARGET, PUBLIC, n, k, PERIOD, fixed, kind, wish)
    chosen = data.draw(st.permutations(range(n)))[:k]
    received = [open_clove(TARGET, SECRET, outgoing.streams[index]) for index in chosen]
    opened = open_request(TARGET, SECRET, [item.clove for item in received])
    assert (opened.kind, opened.least_frames, opened.payload) == (kind, wish, payload)
    assert opened.reply_key == outgoing.reply_key
    assert [item.path_key for item in received] == [outgoing.path_keys[i] for i in chosen]
    assert {request.period_of_message(item.message_id) for item in received} == {PERIOD}


@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("size", [0, 5470, 5471, 20_000, 1 << 20])
def test_a_stream_fills_its_cells(k: int, size: int) -> None:
    outgoing = prepare(bytes(size), TARGET, PUBLIC, 16, k, PERIOD, fixed)
    cells = padding.request_cells(size + 7, k)
    assert {len(stream) for stream in outgoing.streams} == {1970 * cells - 20}
    assert {len(cut(stream)) for stream in outgoing.streams} == {cells}
    assert sum(map(len, cut(outgoing.streams[0]))) + 20 == 1970 * cells


def test_a_payload_beyond_a_megabyte_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        prepare(bytes((1 << 20) + 1), TARGET, PUBLIC, 4, 3, PERIOD, fixed)


def test_two_streams_of_a_request_have_only_their_length_in_common() -> None:
    door = Door()
    first, second, *_ = door.request(bytes(4000)).streams
    assert first[:2] == second[:2] == b"\0\1"
    assert not any(first[i : i + 6] == second[i : i + 6] for i in range(2, len(first) - 6))


@given(st.sampled_from([1, 2, 3]), st.lists(st.integers(1, 1970), min_size=1, max_size=30))
def test_a_stream_is_read_however_it_is_cut(cells: int, sizes: list[int]) -> None:
    whole = (cells.to_bytes(2, "big") + bytes(8000))[: request.stream_bytes(cells)]
    reader, rest = StreamReader(), whole
    for size in sizes:
        chunk, rest = rest[:size], rest[size:]
        if chunk:
            assert reader.feed(chunk) == (None if rest else whole)


@pytest.mark.parametrize("cells", [0, 5, 7, 9, 769, 1024, 0xFFFF])
def test_a_number_of_cells_that_is_no_step_is_refused(cells: int) -> None:
    with pytest.raises(RequestError, match="length"):
        StreamReader().feed(cells.to_bytes(2, "big"))


def test_a_stream_that_is_longer_than_it_says_is_refused() -> None:
    with pytest.raises(RequestError, match="longer"):
        StreamReader().feed(b"\0\1" + bytes(1949))


@pytest.mark.parametrize("chunk", [b"", bytes(1971)])
def test_chunks_of_impossible_size_are_refused(chunk: bytes) -> None:
    with pytest.raises(RequestError, match="size"):
        StreamReader().feed(chunk)


@pytest.mark.parametrize("bit", [*range(16, 24), *range(300, 1950 * 8, 999)])
def test_every_flipped_bit_of_a_sealed_clove_is_found(bit: int) -> None:
    stream = bytearray(Door().request().streams[0])
    stream[bit // 8] ^= 1 << bit % 8
    with pytest.raises(sealed.SealedError):
        open_clove(TARGET, SECRET, bytes(stream))


def test_a_clove_for_another_node_does_not_open() -> None:
    outgoing = prepare(b"q", b"U" * 20, PUBLIC, 4, 3, PERIOD, fixed)
    with pytest.raises(sealed.SealedError):
        open_clove(TARGET, SECRET, outgoing.streams[0])


def test_polluted_cloves_are_named() -> None:
    cloves = cloves_of(Door().request())
    cloves[2] = replace(cloves[2], fragment=bytes(len(cloves[2].fragment)))
    opened = open_request(TARGET, SECRET, cloves)
    assert (opened.payload, opened.polluted) == (b"question", frozenset({2}))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0" * 6,
        b"\2" + bytes(6),
        b"\0\0\0" + (1).to_bytes(4, "big"),
        b"\0\0\0" + ((1 << 20) + 1).to_bytes(4, "big") + bytes((1 << 20) + 1),
        bytes(7) + b"not zeros",
    ],
    ids=["empty", "short", "kind", "length", "too long", "padding"],
)
def test_messages_of_another_form_are_refused(message: bytes) -> None:
    made = sealed.seal(PUBLIC, b"planetserve/request/v2\0" + TARGET, message, fixed(32))
    with pytest.raises(RequestError):
        open_request(TARGET, SECRET, sida.split(made.data, 4, 3, fixed(96)))


@given(st.binary(max_size=200))
def test_sealed_messages_open_for_their_key_and_purpose_only(data: bytes) -> None:
    made = sealed.seal(crypto_scalarmult_base(SECRET), b"purpose", data, bytes(range(1, 33)))
    opened = sealed.open_sealed(SECRET, b"purpose", made.data)
    assert (opened.plaintext, opened.reply_key) == (data, made.reply_key)
    for secret, info, sent in (
        (bytes(range(2, 34)), b"purpose", made.data),
        (SECRET, b"another", made.data),
        (SECRET, b"purpose", made.data[:-1]),
        (SECRET, b"purpose", b""),
    ):
        with pytest.raises(sealed.SealedError):
            sealed.open_sealed(secret, info, sent)

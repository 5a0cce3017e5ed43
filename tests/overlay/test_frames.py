"""Frames of an answer: one size, any k of n paths, damage found and laid at the right door."""

from __future__ import annotations

from random import Random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.core import frames, sida
from overlay.core.frames import AnswerAssembler, FrameError
from overlay.core.payload import CHUNK_BYTES

N, K = 4, 3
REPLY_KEY = b"r" * 32
PATH_KEYS = tuple(bytes((65 + index,)) * 32 for index in range(N))
NONCES = tuple(bytes((97 + index,)) * 12 for index in range(N))


def chunks(kind: int, data: bytes, number: int, reply_key: bytes = REPLY_KEY) -> list[bytes]:
    cloves = frames.disperse(kind, data, number, reply_key, N, K, Random(number).randbytes)
    keys = [frames.answer_key(PATH_KEYS[index]) for index in range(N)]
    return [frames.seal_clove(keys[i], NONCES[i], number, cloves[i]) for i in range(N)]


def assembler() -> AnswerAssembler:
    return AnswerAssembler(REPLY_KEY, PATH_KEYS, N, K)


def feed_all(back: AnswerAssembler, frame: list[bytes]) -> list[bytes]:
    return [data for index, chunk in enumerate(frame) for data in back.feed(index, chunk)]


@pytest.mark.parametrize("size", [0, 1, frames.max_data_bytes(K)])
def test_every_chunk_has_one_size_and_fits_a_cell(size: int) -> None:
    (length,) = {len(chunk) for chunk in chunks(frames.DATA, bytes(size), 0)}
    assert length == CHUNK_BYTES


@pytest.mark.parametrize("k", range(1, 17))
def test_frames_of_every_threshold_fill_their_fragments(k: int) -> None:
    largest = bytes(frames.max_data_bytes(k))
    cloves = frames.disperse(frames.DATA, largest, 0, REPLY_KEY, 16, k, Random(1).randbytes)
    assert {len(clove) for clove in cloves} == {1901 + 37}
    with pytest.raises(ValueError, match="fit"):
        frames.disperse(frames.DATA, largest + b"!", 0, REPLY_KEY, 16, k, Random(1).randbytes)


def test_four_paths_cost_at_most_half_more_with_every_header() -> None:
    assert N * 2048 / frames.frame_bytes(K) < 1.46


def test_nothing_is_equal_on_two_paths() -> None:
    first, second, *_ = chunks(frames.DATA, b"hello", 7)
    assert [i for i in range(len(first) - 7) if first[i : i + 8] == second[i : i + 8]] == []


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=6),
    st.lists(st.integers(0, N), min_size=9, max_size=9),
    st.randoms(use_true_random=False),
)
@settings(max_examples=50, deadline=None)
def test_an_answer_survives_any_order_and_one_lost_clove_a_frame(
    pieces: list[bytes], lost: list[int], rng: Random
) -> None:
    kinds = [*[frames.DATA if piece else frames.NOTHING for piece in pieces], frames.END]
    sent = [
        chunks(kind, data, i)
        for i, (kind, data) in enumerate(zip(kinds, [*pieces, b"end"], strict=True))
    ]
    sent += [chunks(frames.PADDING, b"", len(sent)), chunks(frames.LAST, b"", len(sent) + 1)]
    flying = [
        (i, c)
        for gone, frame in zip(lost, sent, strict=False)
        for i, c in enumerate(frame)
        if i != gone
    ]
    rng.shuffle(flying)
    back = assembler()
    received = b"".join(data for index, chunk in flying for data in back.feed(index, chunk))
    assert received == b"".join(pieces) + b"end"
    assert back.ended
    assert back.complete
    assert back.polluted == {}


@given(st.integers(0, 8 * 1970 - 1))
@settings(max_examples=300)
def test_every_flipped_bit_is_laid_at_its_path_and_costs_nothing(bit: int) -> None:
    frame, back = chunks(frames.DATA, b"hello", 0), assembler()
    back.feed(0, frame[0])
    damaged = bytearray(frame[1])
    damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
    assert back.feed(1, bytes(damaged)) == []
    assert back.polluted == {1: 1}
    assert feed_all(back, frame) == [b"hello"]


@pytest.mark.parametrize("length", [*range(0, 60), 500, 1900])
def test_every_truncation_is_refused(length: int) -> None:
    frame, back = chunks(frames.DATA, b"hello", 0), assembler()
    assert back.feed(1, frame[1][:length]) == []
    assert back.polluted == {1: 1}


def test_a_chunk_of_another_path_is_pollution() -> None:
    frame, back = chunks(frames.DATA, b"hello", 0), assembler()
    back.feed(1, frame[2])
    assert back.polluted == {1: 1}


def test_a_chunk_that_authenticates_and_holds_no_clove_is_pollution() -> None:
    back = assembler()
    back.feed(0, frames.seal_clove(frames.answer_key(PATH_KEYS[0]), bytes(12), 0, b"no clove"))
    assert back.polluted == {0: 1}


def test_repetitions_and_needless_cloves_change_nothing() -> None:
    back, frame = assembler(), chunks(frames.DATA, b"hello", 0)
    assert feed_all(back, [*frame[:2], frame[2]]) == [b"hello"]
    assert feed_all(back, frame) == []
    assert (back.polluted, back.heard) == ({}, {0: 0, 1: 0, 2: 0, 3: 0})


def test_a_frame_far_ahead_is_not_kept() -> None:
    back = assembler()
    assert feed_all(back, chunks(frames.DATA, b"far", frames.WINDOW_FRAMES + 1)) == []
    for number in range(frames.WINDOW_FRAMES + 1):
        assert feed_all(back, chunks(frames.DATA, b"x", number)) == [b"x"]
    assert back.polluted == {}
    assert feed_all(back, chunks(frames.DATA, b"far", frames.WINDOW_FRAMES + 1)) == [b"far"]


def test_a_frame_under_another_reply_key_fails_the_answer() -> None:
    with pytest.raises(FrameError, match="authenticate"):
        feed_all(assembler(), chunks(frames.DATA, b"hello", 0, b"x" * 32))


@pytest.mark.parametrize(
    "kinds",
    [
        [frames.PADDING],
        [frames.LAST],
        [5],
        [frames.NOTHING, frames.PADDING],
    ],
)
def test_kinds_out_of_their_place_fail_the_answer(kinds: list[int]) -> None:
    back = assembler()
    for number, kind in enumerate(kinds[:-1]):
        feed_all(back, chunks(kind, b"", number))
    with pytest.raises(FrameError, match="place"):
        feed_all(back, chunks(kinds[-1], b"", back.next_number))


def test_frames_that_carry_nothing_hold_no_data() -> None:
    with pytest.raises(FrameError, match="place"):
        feed_all(assembler(), chunks(frames.NOTHING, b"data", 0))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        *((kind, b"") for kind in (frames.DATA, frames.END, frames.NOTHING, 5)),
        *((kind, b"data") for kind in (frames.PADDING, frames.LAST)),
    ],
)
def test_what_may_not_follow_the_end_ends_an_answer_that_is_whole(kind: int, data: bytes) -> None:
    back = assembler()
    assert feed_all(back, chunks(frames.END, b"all", 0)) == [b"all"]
    assert feed_all(back, chunks(kind, data, 1)) == []
    assert back.complete
    assert feed_all(back, chunks(frames.PADDING, b"", 1)) == []


@pytest.mark.parametrize("size", [0, 5, 11, 12, 27, 40])
def test_a_frame_that_is_too_short_fails_the_answer(size: int) -> None:
    """Cloves of a message that the node made otherwise than the rules say."""
    inner = bytes(size)
    if size == 40:
        inner = bytes(12) + ChaCha20Poly1305(REPLY_KEY).encrypt(bytes(12), b"short", bytes(4))
    cloves = sida.split(inner, N, K, bytes(96))
    keys = [frames.answer_key(PATH_KEYS[index]) for index in range(N)]
    frame = [frames.seal_clove(keys[i], NONCES[i], 0, cloves[i].encode()) for i in range(N)]
    with pytest.raises(FrameError):
        feed_all(assembler(), frame)

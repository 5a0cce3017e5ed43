"""Requests and answers by values: cloves in and out of a model node's inbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import crypto_scalarmult_base

from overlay.core import reply, sealed
from overlay.core.effects import Count, Peer, Send
from overlay.core.inbox import Inbox, InboxEffect, InboxLimits, RequestGone, RequestReady
from overlay.core.reasons import Reason, Report
from overlay.core.reply import ReplyAssembler, ReplyError
from overlay.core.request import CloveStream, OutgoingRequest, RequestError, chunks, prepare
from overlay.core.wire import (
    FRAME_BYTES,
    MAX_CHUNK_BYTES,
    STREAM_END,
    backward_id,
    decode_frame,
    encode_frame,
    read_chunk,
    stream_frame,
)

TARGET = b"T" * 20
SECRET = bytes(range(32))
N, K = 4, 3


@dataclass
class Door:
    """An inbox with four relays before it."""

    limits: InboxLimits = field(default_factory=InboxLimits)

    def __post_init__(self) -> None:
        self.entropy = Random(5).randbytes
        self.inbox = Inbox(TARGET, SECRET, self.entropy, self.limits)
        self.routes = [(Peer(False, b"relay%d" % i), b"%d" % i * 8) for i in range(N)]
        self.effects: list[InboxEffect] = []

    def request(self, payload: bytes = b"question") -> OutgoingRequest:
        return prepare(payload, TARGET, crypto_scalarmult_base(SECRET), N, K, self.entropy)

    def feed(self, index: int, chunk: bytes) -> None:
        peer, link_id = self.routes[index]
        self.effects += self.inbox.frame_arrived(peer, stream_frame(link_id, chunk), 0.0)

    def end(self, index: int) -> None:
        peer, link_id = self.routes[index]
        frame = encode_frame(link_id, STREAM_END, Report(Reason.NONE).close_body())
        self.effects += self.inbox.frame_arrived(peer, frame, 0.0)

    def deliver(self, request: OutgoingRequest, indices: list[int]) -> None:
        for index in indices:
            for chunk in chunks(request.streams[index], MAX_CHUNK_BYTES):
                self.feed(index, chunk)

    def ready(self) -> list[RequestReady]:
        return [effect for effect in self.effects if isinstance(effect, RequestReady)]

    def counted(self) -> list[str]:
        return [effect.event for effect in self.effects if isinstance(effect, Count)]

    def answer(self, request_id: bytes, kind: int, data: bytes) -> list[tuple[int, bytes]]:
        """Chunks of one frame with the number of the path that they left on."""
        sent = [e for e in self.inbox.send_frame(request_id, kind, data) if isinstance(e, Send)]
        return [self.arrived(send) for send in sent]

    def arrived(self, send: Send) -> tuple[int, bytes]:
        frame = decode_frame(send.frame)
        back = [(peer, backward_id(link_id)) for peer, link_id in self.routes]
        return back.index((send.peer, frame.link_id)), read_chunk(frame.body)


def assembler(request: OutgoingRequest) -> ReplyAssembler:
    return ReplyAssembler(request.reply_key, request.path_keys, request.k)


@given(
    st.binary(max_size=6000),
    st.permutations(range(N)),
    st.lists(st.binary(max_size=reply.MAX_DATA_BYTES), max_size=4),
)
@settings(max_examples=50, deadline=None)
def test_a_request_and_its_answer_survive_any_order(
    payload: bytes, order: list[int], pieces: list[bytes]
) -> None:
    door = Door()
    request = door.request(payload)
    door.deliver(request, order)
    (ready,) = door.ready()
    assert ready.payload == payload
    back = assembler(request)
    frames = [
        door.answer(ready.request_id, reply.END if last else reply.DATA, piece)
        for last, piece in zip([False] * len(pieces) + [True], [*pieces, b""], strict=True)
    ]
    received = b""
    for frame in reversed(frames):
        for index, chunk in frame:
            received += b"".join(back.feed(index, chunk))
    assert received == b"".join(pieces)
    assert back.ended


@pytest.mark.parametrize("lost", range(N))
def test_any_one_path_may_be_lost(lost: int) -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [i for i in range(N) if i != lost])
    (ready,) = door.ready()
    back = assembler(request)
    data = [back.feed(i, c) for i, c in door.answer(ready.request_id, reply.END, b"hi")]
    assert [b"hi"] in data


def test_two_cloves_do_not_open_a_request() -> None:
    door = Door()
    door.deliver(door.request(), [0, 1])
    assert door.ready() == []


def test_a_late_path_gets_the_frames_that_it_missed() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    (ready,) = door.ready()
    early = door.answer(ready.request_id, reply.DATA, b"early")
    before = len(door.effects)
    door.deliver(request, [3])
    late = [door.arrived(e) for e in door.effects[before:] if isinstance(e, Send)]
    back = assembler(request)
    assert [back.feed(i, c) for i, c in [*early[:2], *late]][-1] == [b"early"]


def test_a_path_that_is_late_for_a_whole_answer_still_gets_it() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    (ready,) = door.ready()
    early = [
        *door.answer(ready.request_id, reply.DATA, b"one "),
        *door.answer(ready.request_id, reply.END, b"two"),
    ]
    assert door.answer(ready.request_id, reply.DATA, b"no more") == []
    before = len(door.effects)
    door.deliver(request, [3])
    late = [door.arrived(e) for e in door.effects[before:] if isinstance(e, Send)]
    back = assembler(request)
    received = [piece for i, c in [*early, *late] if i != 0 for piece in back.feed(i, c)]
    assert (received, back.ended) == ([b"one ", b"two"], True)
    assert not door.inbox._requests


def test_an_ended_request_does_not_wait_for_ever() -> None:
    door = Door()
    door.deliver(door.request(), [0, 1, 2])
    (ready,) = door.ready()
    door.answer(ready.request_id, reply.END, b"")
    door.end(0)
    door.end(1)
    assert not any(isinstance(effect, RequestGone) for effect in door.effects)
    door.inbox.tick(100.0)
    assert not door.inbox._requests
    assert not door.inbox._by_route


def test_a_replayed_request_is_not_opened_again() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    (ready,) = door.ready()
    door.answer(ready.request_id, reply.END, b"")
    door.inbox.tick(100.0)
    door.deliver(request, [0, 1, 2, 3])
    assert len(door.ready()) == 1
    assert "clove_late" in door.counted()


def test_fewer_than_k_paths_end_a_running_request() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2, 3])
    (ready,) = door.ready()
    door.end(0)
    assert not any(isinstance(effect, RequestGone) for effect in door.effects)
    door.end(1)
    assert RequestGone(ready.request_id) in door.effects
    assert door.answer(ready.request_id, reply.DATA, b"x") == []


def test_a_late_clove_saves_a_request_that_lost_a_path() -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2])
    (ready,) = door.ready()
    door.end(0)
    assert not any(isinstance(effect, RequestGone) for effect in door.effects)
    door.deliver(request, [3])
    assert len(door.answer(ready.request_id, reply.END, b"x")) == 3


def test_a_request_that_lost_a_path_waits_for_the_late_one_only_so_long() -> None:
    door = Door()
    door.deliver(door.request(), [0, 1, 2])
    (ready,) = door.ready()
    door.end(0)
    assert RequestGone(ready.request_id) in door.inbox.tick(100.0)
    assert not door.inbox._requests


def test_what_stays_incomplete_is_dropped() -> None:
    door = Door()
    request = door.request(b"x" * 9000)
    door.deliver(request, [0, 1])
    door.feed(2, chunks(request.streams[2], MAX_CHUNK_BYTES)[0])
    effects = door.inbox.tick(100.0)
    ends = [e for e in effects if isinstance(e, Send)]
    assert {decode_frame(send.frame).kind for send in ends} == {STREAM_END}
    assert len(ends) == 3
    assert not door.inbox._streams
    assert not door.inbox._requests
    assert door.inbox._buffered_bytes == 0


@given(st.binary(max_size=80) | st.binary(min_size=FRAME_BYTES, max_size=FRAME_BYTES))
def test_garbage_opens_nothing(frame: bytes) -> None:
    door = Door()
    effects = door.inbox.frame_arrived(Peer(False, b"anyone"), frame, 0.0)
    assert not any(isinstance(effect, RequestReady) for effect in effects)


@given(st.integers(0, 3), st.integers(0, 4000))
@settings(max_examples=60, deadline=None)
def test_a_damaged_clove_is_refused_and_the_others_suffice(index: int, at: int) -> None:
    door = Door()
    request = door.request()
    streams = list(request.streams)
    damaged = bytearray(streams[index])
    damaged[4 + at % (len(damaged) - 4)] ^= 1
    streams[index] = bytes(damaged)
    broken = OutgoingRequest(tuple(streams), request.reply_key, request.path_keys, N, K)
    door.deliver(broken, [index, *(i for i in range(N) if i != index)])
    assert [ready.payload for ready in door.ready()] == [b"question"]
    assert "clove_refused" in door.counted()


def test_buffers_are_bounded() -> None:
    door = Door(InboxLimits(max_buffered_bytes=3000, max_streams=2))
    stream = (1 << 20).to_bytes(4, "big")
    door.feed(0, stream + bytes(1500))
    door.feed(1, stream + bytes(1400))
    door.feed(0, bytes(1500))
    assert "buffers_full" in door.counted()
    door.feed(0, stream)
    door.feed(2, stream)
    assert "streams_full" in door.counted()


def test_a_stream_that_claims_too_much_is_refused() -> None:
    with pytest.raises(RequestError):
        CloveStream().feed(b"\xff\xff\xff\xff")


def test_a_clove_for_another_node_does_not_open() -> None:
    door = Door()
    request = prepare(b"q", b"U" * 20, crypto_scalarmult_base(SECRET), N, K, door.entropy)
    door.deliver(request, [0, 1, 2, 3])
    assert door.ready() == []


@given(st.integers(0, 411 * 8))
@settings(max_examples=80, deadline=None)
def test_a_polluting_path_is_found_and_does_no_harm(bit: int) -> None:
    door = Door()
    request = door.request()
    door.deliver(request, [0, 1, 2, 3])
    (ready,) = door.ready()
    frame = dict(door.answer(ready.request_id, reply.END, b"fine"))
    damaged = bytearray(frame[1])
    damaged[4 + (bit // 8) % (len(damaged) - 4)] ^= 1 << bit % 8
    back = assembler(request)
    out = [back.feed(i, bytes(damaged) if i == 1 else frame[i]) for i in (1, 0, 2, 3)]
    assert out == [[], [], [], [b"fine"]]
    assert back.polluted == {1: 1}


def test_a_model_node_that_lies_about_a_frame_is_an_error() -> None:
    door = Door()
    request = door.request()
    cloves = reply.disperse(reply.DATA, b"x", 0, bytes(32), N, K, door.entropy)
    back = assembler(request)
    salt = bytes(reply.SALT_BYTES)
    keys = [reply.answer_key(key, salt) for key in request.path_keys]
    chunks_sent = [reply.seal_clove(keys[i], salt, 0, cloves[i]) for i in range(3)]
    back.feed(0, chunks_sent[0])
    back.feed(1, chunks_sent[1])
    with pytest.raises(ReplyError):
        back.feed(2, chunks_sent[2])


def test_a_request_opened_twice_is_never_answered_under_the_same_keys() -> None:
    door, later = Door(), Door()
    later.entropy = later.inbox.entropy = Random(6).randbytes
    request = door.request()
    chunks_sent = []
    for node in (door, later):  # the second has forgotten, as after a restart
        node.deliver(request, [0, 1, 2])
        (ready,) = node.ready()
        chunks_sent.append(dict(node.answer(ready.request_id, reply.DATA, b"x")))
    first, second = chunks_sent
    assert first[0][: reply.SALT_BYTES] != second[0][: reply.SALT_BYTES]
    back = assembler(request)
    assert [back.feed(i, first[i]) for i in range(3)][-1] == [b"x"]
    back.feed(0, second[0])
    assert back.polluted == {0: 1}


def test_every_frame_of_an_answer_has_one_size() -> None:
    door = Door()
    door.deliver(door.request(), [0, 1, 2, 3])
    (ready,) = door.ready()
    sizes = {
        len(chunk)
        for kind, data in ((reply.DATA, b"a"), (reply.KEEP_ALIVE, b""), (reply.END, b"b" * 900))
        for _, chunk in door.answer(ready.request_id, kind, data)
    }
    assert len(sizes) == 1


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

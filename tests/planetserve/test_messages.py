"""The forms that clients and model nodes exchange, with values only."""

import contextlib
import hashlib
import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.chat import MAX_BODY_BYTES, BadRequest, ChatRequest, Message, parse_body
from planetserve.encoding import decode, encode
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId, identity_from
from planetserve.messages import (
    ERROR_CODES,
    MAX_LINE_BYTES,
    MAX_REPLY_BYTES,
    Accepted,
    Delta,
    End,
    Failed,
    ReplyParser,
    ReplyStatement,
    RequestPayload,
    Usage,
    decode_payload,
    decode_statement,
    encode_event,
    sign_reply,
    state_reply,
    verify_reply,
)

NODE = NodeId(bytes(range(20)))
texts = st.text(st.characters(codec="utf-8"), max_size=200)
counts = st.integers(0, 1 << 20)
ends = st.builds(
    End,
    st.just(NODE),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.sampled_from(["stop", "length"]),
    st.builds(Usage, counts, counts, counts),
    st.binary(min_size=64, max_size=64),
)
failures = st.builds(Failed, st.sampled_from(ERROR_CODES), texts, st.none() | st.integers(0, 3600))
deltas = st.builds(Delta, texts.filter(bool))


@given(st.booleans(), st.lists(deltas, max_size=8), ends | failures, st.lists(counts, max_size=9))
def test_reply_parses_however_it_is_cut(
    accepted: bool, middle: list[Delta], last: End | Failed, cuts: list[int]
) -> None:
    events = [*([Accepted(NODE)] if accepted else []), *middle, last]
    stream = b"".join(encode_event(event) for event in events)
    parser = ReplyParser()
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    found = []
    for start, end in itertools.pairwise(edges):
        found += parser.feed(stream[start:end])
    assert found == events
    assert parser.finished


@given(st.text(st.characters(codec="utf-8"), min_size=1).map(lambda t: t * 9000))
def test_long_delta_becomes_lines_within_the_limit(text: str) -> None:
    stream = encode_event(Delta(text[:200_000]))
    assert max(map(len, stream.split(b"\n"))) <= MAX_LINE_BYTES
    events = ReplyParser().feed(stream)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == text[:200_000]


@pytest.mark.parametrize(
    "stream",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b"\xff\n",
        b'{"delta":1}\n',
        b'{"delta":"\\ud800"}\n',
        b'{"delta":"a","error":{}}\n',
        b'{"accepted":{"entry":"00"}}\n',
        b'{"surprise":{}}\n',
        b'{"error":{"code":"new","message":""}}\n',
        b'{"error":{"code":"overloaded","message":"","retry_after_s":-1}}\n',
        b'{"error":{"code":"overloaded","message":"","retry_after_s":99999}}\n',
        b'{"end":{}}\n',
        encode_event(Delta("a")) + encode_event(Accepted(NODE)),
        encode_event(Failed("node_lost", "")) + encode_event(Delta("a")),
        encode_event(Failed("node_lost", "")) + b"x",
        b"x" * (MAX_LINE_BYTES + 1),
        b"[" * 60_000 + b"\n",
    ],
)
def test_reply_that_breaks_the_format_is_refused(stream: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ReplyParser().feed(stream)


def test_reply_without_end_is_refused_at_its_limit() -> None:
    parser = ReplyParser()
    line = encode_event(Delta("a" * 4000))
    for _ in range(MAX_REPLY_BYTES // len(line)):
        parser.feed(line)
    with pytest.raises(RemoteProtocolError):
        parser.feed(line)


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    for read in (ReplyParser().feed, decode_payload, parse_body):
        try:
            read(data)
        except RemoteProtocolError:
            continue


@given(st.binary(max_size=500), st.none() | st.binary(min_size=20, max_size=20).map(NodeId))
def test_payload_round_trip(body: bytes, prefer: NodeId | None) -> None:
    assert decode_payload(RequestPayload(body, prefer).encode()) == RequestPayload(body, prefer)


requests = st.builds(
    ChatRequest,
    model=st.just("m"),
    messages=st.lists(
        st.builds(Message, st.sampled_from(["system", "user", "assistant"]), texts),
        min_size=1,
        max_size=5,
    ).map(tuple),
    max_tokens=st.integers(1, 4096),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1),
    seed=st.none() | st.integers(0, 1 << 31),
    stop=st.lists(texts.filter(bool), max_size=4).map(tuple),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
)


@given(requests)
def test_request_round_trip(request: ChatRequest) -> None:
    assert parse_body(request.to_body()) == request


GOOD = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{}] * 257}, "messages"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
        ),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 5000}, "max_completion_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"n": 2}, "n"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_bad_request_names_its_parameter(change: dict[str, object], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(json.dumps(GOOD | change).encode())
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"\xff", b'{"model": NaN}', b"[" * 100_000, b" " * (MAX_BODY_BYTES + 1)],
)
def test_body_that_is_no_object_is_refused_whole(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_body(body)
    assert caught.value.param is None


def test_forms_that_openai_allows() -> None:
    body = GOOD | {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ],
        "max_completion_tokens": 9,
        "stop": "\n",
        "stream": True,
        "user": "somebody",
        "n": 1,
        "response_format": {"type": "text"},
        "temperature": None,
    }
    request = parse_body(json.dumps(body).encode())
    assert request.messages == (Message("system", "be brief"), Message("user", "ab"))
    assert (request.max_tokens, request.stop, request.temperature) == (9, ("\n",), 1.0)


def test_signature_binds_chain_request_and_reply() -> None:
    identity = identity_from(bytes(96))
    statement = state_reply("chain", b"question", "answer", "stop", "m", Usage(2, 1))
    end = End(identity.id, "m", "stop", Usage(2, 1), sign_reply(identity, statement))
    key = identity.public_key
    assert verify_reply(key, "chain", b"question", "answer", end)
    assert not verify_reply(key, "other", b"question", "answer", end)
    assert not verify_reply(key, "chain", b"question!", "answer", end)
    assert not verify_reply(key, "chain", b"question", "answer!", end)
    assert not verify_reply(bytes(32), "chain", b"question", "answer", end)
    others: list[dict[str, Any]] = [
        {"model": "n"},
        {"finish_reason": "length"},
        {"usage": Usage(1, 1)},
        {"usage": Usage(2, 2)},
        {"usage": Usage(2, 1, 1)},
    ]
    for other in others:
        assert not verify_reply(key, "chain", b"question", "answer", replace(end, **other))


short_texts = st.text(st.characters(codec="utf-8"), max_size=32)
statements = st.builds(
    ReplyStatement,
    short_texts,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    short_texts,
    st.text(st.characters(codec="utf-8"), max_size=128),
    st.builds(Usage, counts, counts, counts),
)


@given(statements)
def test_statement_reads_back_as_it_was_signed(statement: ReplyStatement) -> None:
    assert decode_statement(statement.encode()) == statement


def test_statement_has_one_form() -> None:
    statement = state_reply("chain", b"question", "answer", "stop", "m", Usage(3, 2, 1))
    assert statement.encode() == encode(
        {
            "chain_id": "chain",
            "finish_reason": "stop",
            "model": "m",
            "request": hashlib.sha256(b"question").digest(),
            "text": hashlib.sha256(b"answer").digest(),
            "usage": {"cached_tokens": 1, "completion_tokens": 2, "prompt_tokens": 3},
        }
    )


@given(st.binary(max_size=200))
def test_statement_of_any_bytes_reads_or_is_refused(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert decode_statement(data).encode() == data


@pytest.mark.parametrize(
    "other",
    [
        {"request": bytes(31)},
        {"text": "x" * 32},
        {"chain_id": "c" * 51},
        {"chain_id": 1},
        {"finish_reason": "f" * 33},
        {"finish_reason": None},
        {"model": "m" * 129},
        {"usage": 3},
        {"usage": {"cached_tokens": 0, "completion_tokens": 0}},
        {"usage": {"cached_tokens": 0, "completion_tokens": 0, "prompt_tokens": -1}},
        {"usage": {"cached_tokens": 0, "completion_tokens": 0, "prompt_tokens": True}},
        {"usage": {"cached_tokens": 0, "completion_tokens": 0, "prompt_tokens": 1 << 31}},
        {"more": 1},
    ],
)
def test_statement_of_another_form_is_refused(other: dict[str, Any]) -> None:
    statement = state_reply("chain", b"question", "answer", "stop", "m", Usage(3, 2, 1))
    with pytest.raises(RemoteProtocolError):
        decode_statement(encode({**decode(statement.encode()), **other}))

"""What counts as evidence, and what an honest node can never be framed with."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.chat import BadRequest, parse_body
from planetserve.evidence import (
    CONFLICT,
    CONTEXT_EXCEEDED,
    FORBIDDEN,
    MAX_NESTING,
    MAX_REQUEST_BYTES,
    OTHER_MODEL,
    TOO_MANY_TOKENS,
    TWO_ANSWERS,
    UNKNOWN_FINISH,
    Asked,
    Judgement,
    NotEvidence,
    SignedStatement,
    Terms,
    breach_of,
    judge,
    read_request,
)
from planetserve.keys import Identity, identity_from
from planetserve.messages import ReplyStatement, Usage, sign_reply, state_reply

NODE = identity_from(bytes(range(96)))
OTHER = identity_from(bytes(range(1, 97)))
TERMS = {"m": Terms(1000, True), "chancy": Terms(1000, False)}
GREEDY: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "temperature": 0,
    "max_tokens": 8,
}


def body(**fields: Any) -> bytes:
    kept = {name: value for name, value in {**GREEDY, **fields}.items() if value is not None}
    return json.dumps(kept).encode()


def stated(body_sent: bytes, answer: str = "a", /, **other: Any) -> ReplyStatement:
    return replace(state_reply("chain", body_sent, answer, "stop", "m", Usage(5, 2)), **other)


def signed(statement: ReplyStatement, identity: Identity = NODE) -> SignedStatement:
    return SignedStatement(statement.encode(), sign_reply(identity, statement))


def judged(kind: str, request: bytes, *statements: SignedStatement) -> Judgement:
    return judge("chain", NODE.public_key, kind, request, statements, TERMS.get)


def test_two_texts_of_a_deterministic_model_are_a_conflict() -> None:
    request = body()
    judgement = judged(CONFLICT, request, signed(stated(request)), signed(stated(request, "b")))
    assert judgement == Judgement(stated(request).request, "m", TWO_ANSWERS)


def test_two_finish_reasons_are_a_conflict() -> None:
    request = body()
    other = stated(request, finish_reason="length")
    assert judged(CONFLICT, request, signed(stated(request)), signed(other)).breach == TWO_ANSWERS


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({}, {}),
        ({}, {"usage": Usage(5, 2, 4)}),
        ({"temperature": 0.1}, {"text": bytes(32)}),
        ({"temperature": 1}, {"text": bytes(32)}),
        ({"temperature": None}, {"text": bytes(32)}),
        ({"temperature": False}, {"text": bytes(32)}),
        ({"temperature": "0"}, {"text": bytes(32)}),
        ({"model": "chancy"}, {"text": bytes(32), "model": "chancy"}),
        ({"model": "alias"}, {"text": bytes(32), "model": "alias"}),
        ({}, {"text": bytes(32), "model": "chancy"}),
        ({}, {"text": bytes(32), "chain_id": "another"}),
        ({}, {"text": bytes(32), "request": bytes(32)}),
    ],
)
def test_no_conflict(fields: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    request = body(**fields)
    first = stated(request, model=other.get("model", "m"))
    with pytest.raises(NotEvidence):
        judged(CONFLICT, request, signed(stated(request)), signed(stated(request, **other)))
    with pytest.raises(NotEvidence):
        judged(CONFLICT, request, signed(first), signed(replace(first, **other)))


def test_statements_of_two_keys_are_no_conflict() -> None:
    request = body()
    with pytest.raises(NotEvidence):
        judged(CONFLICT, request, signed(stated(request)), signed(stated(request, "b"), OTHER))


@pytest.mark.parametrize("zero", ["0", "0.0", "0.000", "-0"])
def test_every_plain_zero_is_temperature_zero(zero: str) -> None:
    request = body(temperature=77).replace(b"77", zero.encode())
    judged(CONFLICT, request, signed(stated(request)), signed(stated(request, "b")))


@pytest.mark.parametrize("number", ["1e-400", "0e0", "0.1", "-0.0", "0.00000000000000000001"])
def test_an_unusual_zero_is_not_held_against_a_node(number: str) -> None:
    request = body(temperature=77).replace(b"77", number.encode())
    with pytest.raises(NotEvidence):
        judged(CONFLICT, request, signed(stated(request)), signed(stated(request, "b")))


@pytest.mark.parametrize(
    ("fields", "other", "breach"),
    [
        ({}, {"model": "chancy"}, OTHER_MODEL),
        ({}, {"model": "unheard-of"}, OTHER_MODEL),
        ({}, {"usage": Usage(5, 9)}, TOO_MANY_TOKENS),
        ({"max_tokens": None, "max_completion_tokens": 3}, {"usage": Usage(5, 4)}, TOO_MANY_TOKENS),
        ({"max_completion_tokens": 3}, {"usage": Usage(5, 9)}, TOO_MANY_TOKENS),
        ({}, {"finish_reason": "bored"}, UNKNOWN_FINISH),
        ({}, {"finish_reason": ""}, UNKNOWN_FINISH),
        ({}, {"usage": Usage(1000, 2)}, CONTEXT_EXCEEDED),
        ({"max_tokens": None}, {"usage": Usage(1, 1001)}, CONTEXT_EXCEEDED),
    ],
)
def test_forbidden(fields: Mapping[str, Any], other: Mapping[str, Any], breach: str) -> None:
    request = body(**fields)
    assert judged(FORBIDDEN, request, signed(stated(request, **other))).breach == breach


@pytest.mark.parametrize(
    ("fields", "other"),
    [
        ({}, {}),
        ({}, {"usage": Usage(5, 8)}),
        ({}, {"finish_reason": "length"}),
        ({}, {"usage": Usage(1000, 1)}),
        ({"max_tokens": None}, {"usage": Usage(5, 900)}),
        ({"max_tokens": 3, "max_completion_tokens": 8}, {"usage": Usage(5, 8)}),
        ({"max_tokens": 0}, {"usage": Usage(5, 9)}),
        ({"max_tokens": 1.5}, {"usage": Usage(5, 9)}),
        ({"max_tokens": True}, {"usage": Usage(5, 9)}),
        ({"model": "alias"}, {"model": "m"}),
        ({"model": "alias"}, {"model": "alias", "usage": Usage(5000, 2)}),
        ({"model": 5}, {}),
        ({"model": None}, {}),
    ],
)
def test_nothing_forbidden(fields: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    request = body(**fields)
    with pytest.raises(NotEvidence):
        judged(FORBIDDEN, request, signed(stated(request, **other)))


def test_kinds_need_their_number_of_statements() -> None:
    request = body()
    one, two = signed(stated(request, finish_reason="bored")), signed(stated(request, "b"))
    for kind, statements in [
        (CONFLICT, [one]),
        (CONFLICT, []),
        (FORBIDDEN, [one, two]),
        (FORBIDDEN, []),
        ("", [one]),
        ("other", [one, two]),
    ]:
        with pytest.raises(NotEvidence):
            judged(kind, request, *statements)


def test_a_statement_counts_as_its_signer_wrote_it() -> None:
    request = body()
    good = signed(stated(request, finish_reason="bored"))
    judged(FORBIDDEN, request, good)
    for bad in [
        replace(good, signature=bytes(64)),
        replace(good, signature=b""),
        replace(good, statement=good.statement + b"\0"),
        SignedStatement(b"\xc0", NODE.sign("planetserve/reply/v1", b"\xc0")),
        SignedStatement(good.statement, NODE.sign("planetserve/tx/v1", good.statement)),
        signed(stated(request, finish_reason="bored"), OTHER),
    ]:
        with pytest.raises(NotEvidence):
            judged(FORBIDDEN, request, bad)


def test_requests_that_are_too_large_are_not_judged() -> None:
    filler = MAX_REQUEST_BYTES - len(body(user=""))
    for extra, judgeable in [(0, True), (1, False)]:
        request = body(user="x" * (filler + extra))
        statement = signed(stated(request, finish_reason="bored"))
        if judgeable:
            judged(FORBIDDEN, request, statement)
        else:
            with pytest.raises(NotEvidence):
                judged(FORBIDDEN, request, statement)


@pytest.mark.parametrize(
    "request_body",
    [
        b'{"model":"m","model":"m"}',
        b'{"model":"m","metadata":{"a":1,"a":2}}',
        b'{"model":"m","temperature":NaN}',
        b'{"model":"m"',
        b'{"model":"m\xff"}',
        b'{"model":"\\ud800"}',
        b"[]",
        b"7",
        b"",
        b'{"model":"m","metadata":' + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}",
        b"[" * MAX_REQUEST_BYTES,
        b'{"model":"m","max_tokens":' + b"9" * 5000 + b"}",
    ],
)
def test_ambiguous_requests_are_not_judged(request_body: bytes) -> None:
    with pytest.raises(NotEvidence):
        read_request(request_body)


def test_brackets_in_strings_do_not_nest() -> None:
    text = '[{"' * 100 + "\\"
    assert read_request(body(user=text, note=text + '"')) == Asked("m", 8, True)


def deepest(data: bytes) -> int:
    """How deep brackets nest outside of quoted texts, byte by byte."""
    depth = most = 0
    quoted = escaped = False
    for byte in data:
        if escaped:
            escaped = False
        elif quoted:
            escaped = byte == ord("\\")
            quoted = byte != ord('"')
        elif byte == ord('"'):
            quoted = True
        elif byte in b"[{":
            depth += 1
            most = max(most, depth)
        elif byte in b"]}":
            depth -= 1
    return most


@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"a\n", b"[" * 31])))
def test_nesting_is_what_a_reader_of_bytes_counts(parts: list[bytes]) -> None:
    data = b"".join(parts)
    with pytest.raises(NotEvidence) as refused:
        read_request(data)
    assert ("nests too deep" in str(refused.value)) == (deepest(data) > MAX_NESTING)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(NotEvidence):
        read_request(data)


temperatures = st.none() | st.sampled_from([0, 0.0, 1]) | st.floats(0, 2)
limits = st.none() | st.integers(0, 5000) | st.floats(0, 5)


@given(temperatures, limits, limits)
def test_what_is_held_against_a_reply_is_what_a_server_understands(
    temperature: float | None, max_tokens: float | None, max_completion_tokens: float | None
) -> None:
    """An honest server reads a request with `parse_body` and keeps to that; then no reading of
    the same bytes here may ask for more."""
    request = body(
        temperature=temperature,
        max_tokens=max_tokens,
        max_completion_tokens=max_completion_tokens,
    )
    try:
        served, asked = parse_body(request), read_request(request)
    except (BadRequest, NotEvidence):
        return
    assert asked.model == served.model
    assert not asked.greedy or served.temperature == 0
    assert asked.max_tokens is None or served.max_tokens <= asked.max_tokens
    longest = Usage(1000 - min(1000, served.max_tokens), served.max_tokens)
    statement = stated(request, usage=longest)
    terms = Terms(max(1000, served.max_tokens), True)
    assert breach_of(asked, statement, terms) is None


words = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), words, st.sampled_from(["m", "chancy"]))),
    st.data(),
)
def test_an_honest_node_is_never_convicted(
    asked: list[tuple[int, str, str]], data: st.DataObject
) -> None:
    """It answers what it is asked, the same whenever chance has no part in it; whoever collects
    its statements can put any two of them, or one, beside any request."""
    held = []
    for temperature, word, model in asked:
        request = body(temperature=temperature, user=word, model=model)
        same = temperature == 0 and model == "m"
        text = word if same else data.draw(words)
        usage = Usage(data.draw(st.integers(0, 900)), data.draw(st.integers(0, 8)))
        reason = "stop" if same else data.draw(st.sampled_from(["stop", "length"]))
        statement = state_reply("chain", request, text, reason, model, usage)
        held.append((request, signed(statement)))
    for request, first in held:
        for _, second in held:
            with pytest.raises(NotEvidence):
                judged(CONFLICT, request, first, second)
            with pytest.raises(NotEvidence):
                judged(FORBIDDEN, request, second)

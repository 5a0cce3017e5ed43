"""The events of one reply, the signature on it, and how failures are named."""

import json

import pytest

from modelnode.cheats import check_allowed, with_cheat
from modelnode.engines.protocol import Engine, Overloaded
from modelnode.serving import Server
from planetserve.errors import EngineError, UsageError
from planetserve.evidence import Terms
from planetserve.keys import identity_from
from planetserve.messages import (
    Delta,
    End,
    Failed,
    ReplyEvent,
    ReplyParser,
    verify_reply,
)
from planetserve.network import Network
from tests.modelnode.scripted_engine import ScriptedEngine

IDENTITY = identity_from(bytes(range(96)))
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


def server_of(engine: Engine) -> Server:
    return Server(engine, IDENTITY, "chain", "m")


async def events_of(server: Server, body: bytes = BODY) -> list[ReplyEvent]:
    return [event async for event in server.serve(body)]


async def test_reply_is_signed_over_its_text() -> None:
    events = await events_of(server_of(ScriptedEngine(["a", "b\n", "ü"])))
    end = events[-1]
    assert events[:-1] == [Delta("a"), Delta("b\n"), Delta("ü")]
    assert isinstance(end, End)
    assert end.node == IDENTITY.id
    assert verify_reply(IDENTITY.public_key, "chain", BODY, "ab\nü", end)


async def test_lines_parse_as_a_reply_stream() -> None:
    parser = ReplyParser()
    events = []
    async for line in server_of(ScriptedEngine()).serve_request(BODY):
        events += parser.feed(line)
    assert parser.finished
    assert [event.text for event in events if isinstance(event, Delta)] == ["one ", "two ", "three"]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (EngineError("context_length", "too long"), Failed("context_length", "too long")),
        (EngineError("engine_failed", "broken"), Failed("engine_failed", "broken")),
        (
            Overloaded(7, 3),
            Failed("overloaded", "7 requests are waiting for the engine already", 3),
        ),
    ],
)
async def test_engine_errors_become_events(failure: EngineError, expected: Failed) -> None:
    assert await events_of(server_of(ScriptedEngine(fails=failure))) == [expected]


async def test_bad_request_unknown_model_and_stopping_never_reach_the_engine() -> None:
    engine = ScriptedEngine()
    server = server_of(engine)
    codes = []
    for body in (b"{", BODY.replace(b'"m"', b'"other"')):
        (event,) = await events_of(server, body)
        assert isinstance(event, Failed)
        codes.append(event.code)
    server.accepting = False
    (event,) = await events_of(server)
    assert isinstance(event, Failed)
    assert [*codes, event.code] == ["bad_request", "unknown_model", "not_serving"]
    assert engine.started == 0


async def test_closing_the_reply_closes_the_engine_s_stream() -> None:
    engine = ScriptedEngine()
    replies = server_of(engine).serve(BODY)
    await anext(replies)
    await replies.aclose()
    assert (engine.started, engine.ended, engine.stats().running) == (1, 1, 0)


async def test_reply_without_end_in_sight_is_cut() -> None:
    events = await events_of(server_of(ScriptedEngine(["x" * 50_000] * 20)))
    assert isinstance(events[-1], Failed)
    assert len(events) < 20


async def test_cheats_answer_otherwise_and_sign_it() -> None:
    network = Network("chain", "", ("http://a",), "m", allow_cheats=False)
    with pytest.raises(UsageError):
        check_allowed("tamper", network)
    (*deltas, end) = await events_of(server_of(with_cheat(ScriptedEngine(), "random")))
    assert len(deltas) == 128
    assert isinstance(end, End)
    (*deltas, end) = await events_of(server_of(with_cheat(ScriptedEngine(), "truncate")))
    assert isinstance(end, End)
    assert end.finish_reason == "stop"


async def test_a_reply_that_would_be_held_against_the_node_is_not_signed() -> None:
    body = json.dumps({**json.loads(BODY), "max_tokens": 2}).encode()
    engine = ScriptedEngine()
    assert isinstance((await events_of(server_of(engine), body))[-1], Failed)
    server = server_of(engine)
    for context_tokens, kind in [(5, End), (4, Failed)]:
        server.terms = Terms(context_tokens, deterministic=False)
        assert isinstance((await events_of(server))[-1], kind)

"""Engines behind HTTP: what is asked of them, and servers that misbehave."""

import asyncio
import json

import pytest

from modelnode.engines import http_client
from modelnode.engines.http_client import endpoint_of
from modelnode.engines.openai_http import MAX_ANSWER_BYTES, attach_openai
from modelnode.engines.protocol import NotOffered, Overloaded, Piece
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError
from planetserve.messages import Usage
from tests.modelnode.fake_server import USAGE, Exchange, chunk, serving

REQUEST = ChatRequest("m", (Message("user", "hi"),), 16, 0.0)


async def hello(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.say(chunk("Hel"), chunk("lo"), chunk(finish_reason="stop"), USAGE)
    await exchange.end()


async def test_a_reply_and_the_next_on_the_same_connection() -> None:
    bodies = []

    async def respond(exchange: Exchange) -> None:
        bodies.append(json.loads(exchange.body))
        assert "Authorization: Bearer key-7" in exchange.headers
        await hello(exchange)

    async with serving(respond) as server:
        engine = await attach_openai(f"{server.url}/v1", "called otherwise", api_key="key-7")
        for _ in range(3):
            pieces = [piece async for piece in engine.stream(REQUEST)]
            assert "".join(piece.text for piece in pieces) == "Hello"
            assert pieces[-1] == Piece("", "stop", Usage(9, 2, 0))
        await engine.close()
    assert server.connections == 1
    assert bodies[0]["model"] == "upstream"
    assert bodies[0]["max_tokens"] == 16
    assert bodies[0]["stream_options"] == {"include_usage": True}
    assert engine.stats().context_tokens == 512


async def test_a_connection_that_the_server_ended_is_opened_again() -> None:
    async def respond(exchange: Exchange) -> None:
        await hello(exchange)
        exchange.writer.close()

    async with serving(respond) as server:
        engine = await attach_openai(server.url, "m")
        for _ in range(3):
            assert [piece.text async for piece in engine.stream(REQUEST)]
        await engine.close()


async def test_leaving_frees_the_slot_and_tells_the_server_within_one_token() -> None:
    said = 0

    async def respond(exchange: Exchange) -> None:
        nonlocal said
        await exchange.begin()
        while True:
            await exchange.say(chunk("word "))
            said += 1
            await asyncio.sleep(0.02)

    async with serving(respond) as server:
        engine = await attach_openai(server.url, "m", parallel=1)
        stream = engine.stream(REQUEST)
        await anext(stream)
        assert engine.stats().running == 1
        before = said
        await stream.aclose()
        assert engine.stats().running == 0
        await asyncio.wait_for(server.gone.wait(), 10)
        assert said - before <= 2
        await engine.close()


async def test_a_server_that_dies_in_mid_reply_is_one_clear_error() -> None:
    async def respond(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say(chunk("half "))
        exchange.writer.transport.abort()

    async with serving(respond) as server:
        engine = await attach_openai(server.url, "m")
        stream = engine.stream(REQUEST)
        assert await anext(stream) == Piece("half ")
        with pytest.raises(EngineError) as caught:
            await anext(stream)
        assert caught.value.code == "engine_failed"
        assert engine.stats().running == 0
        await engine.close()


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, {"error": {"message": "maximum context length is 512"}}, "context_length"),
        (400, {"error": {"message": "no such parameter"}}, "bad_request"),
        (422, b"", "bad_request"),
        (429, b"busy", "overloaded"),
        (500, b"x" * 9000, "engine_failed"),
        (200, b"", "engine_failed"),
        (200, b"data: [DONE]\n\n", "engine_failed"),
        (200, b"data: " + b"x" * (2 << 20), "engine_failed"),
    ],
)
async def test_refusals_are_named(status: int, body: object, code: str) -> None:
    async with serving(lambda exchange: exchange.answer(status, body)) as server:
        engine = await attach_openai(server.url, "m")
        with pytest.raises(EngineError) as caught:
            async for _ in engine.stream(REQUEST):
                pass
        assert caught.value.code == code
        assert isinstance(caught.value, Overloaded) == (code == "overloaded")
        await engine.close()


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "SILENCE_TIMEOUT_S", 0.1)

    async def respond(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.say(chunk("a"))
        await asyncio.sleep(30)

    async with serving(respond) as server:
        engine = await attach_openai(server.url, "m")
        stream = engine.stream(REQUEST)
        await anext(stream)
        with pytest.raises(EngineError, match="TimeoutError"):
            await anext(stream)
        await engine.close()


async def test_tokens_are_counted_by_the_server_or_else_estimated() -> None:
    answers: list[tuple[int, object]] = [
        (200, {"tokens": [1, 2, 3]}),
        (200, {"tokens": ["a"]}),
        (200, b"x" * (MAX_ANSWER_BYTES + 1)),
        (404, b""),
    ]
    messages = (Message("user", "w" * 40),)
    async with serving(lambda exchange: exchange.answer(*answers.pop(0))) as server:
        engine = await attach_openai(server.url, "m")
        assert [await engine.count_tokens(messages) for _ in range(5)] == [3, 11, 11, 11, 11]
        assert await engine.token_ids(messages) is None
        with pytest.raises(NotOffered):
            await engine.score(messages, "x")
        await engine.close()


async def test_what_is_no_such_server_cannot_be_attached() -> None:
    async with serving(lambda exchange: exchange.answer(404, {"error": "x"})) as server:
        with pytest.raises(ConfigurationError, match="does not list models"):
            await attach_openai(f"{server.url}/elsewhere", "m")
    with pytest.raises(ConfigurationError, match="Is the server running"):
        await attach_openai(server.url, "m")


def test_urls() -> None:
    assert str(endpoint_of("http://host:8000/v1")) == "http://host:8000/"
    assert str(endpoint_of("https://host/path/v1/")) == "https://host:443/path/"
    assert str(endpoint_of("http://[::1]:80")) == "http://[::1]:80/"
    for url in ("", "host:80", "ftp://host", "http://", "http://host:x", "http://host:99999"):
        with pytest.raises(ConfigurationError):
            endpoint_of(url)

"""The operator's HTTP with the official OpenAI client, a real server and the real small model."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import openai
import pytest

from modelnode.dispatch import Dispatcher
from modelnode.engines.default_model import default_model_path
from modelnode.engines.llamacpp import LlamaCppSettings, load_llamacpp
from modelnode.engines.openai_http import attach_openai
from modelnode.engines.protocol import Engine
from modelnode.group import Group
from modelnode.http import HttpServer, create_application, loopback_address
from modelnode.serving import Server
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError
from planetserve.keys import identity_from

IDENTITY = identity_from(bytes(range(96)))
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture
async def node() -> AsyncIterator[tuple[str, Engine]]:
    """A node of its own - engine, group of one, HTTP - by its address and engine."""
    settings = LlamaCppSettings(default_model_path(), parallel=1, max_waiting=1)
    engine = await load_llamacpp(settings)
    server = Server(engine, IDENTITY, "chain", "small")
    group = Group(IDENTITY, "127.0.0.1:*", server)
    application = create_application(Dispatcher(server, group), lambda: {"healthy": True})
    http = HttpServer(application, "127.0.0.1:0")
    await http.start()
    yield f"http://127.0.0.1:{http.port}", engine
    await http.close()
    await group.close()
    await engine.close()


@pytest.fixture
def base_url(node: tuple[str, Engine]) -> str:
    return node[0]


@pytest.fixture
async def client(base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{base_url}/v1", api_key="none", max_retries=0
    ) as opened:
        yield opened


async def ask(client: openai.AsyncOpenAI, **options: object) -> object:
    asked = {"model": "small", "messages": MESSAGES, "temperature": 0, "max_tokens": 16} | options
    return await client.chat.completions.create(**asked)  # type: ignore[call-overload]


async def test_whole_and_streamed_replies_agree(client: openai.AsyncOpenAI) -> None:
    models = await client.models.list()
    assert [model.id for model in models.data] == ["small"]
    whole = await client.chat.completions.create(
        model="small",
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        temperature=0,
        max_tokens=16,
    )
    assert whole.choices[0].finish_reason == "stop"
    assert "Paris" in (whole.choices[0].message.content or "")
    assert whole.usage is not None
    stream = await client.chat.completions.create(
        model="small",
        messages=[
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        temperature=0,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_errors_have_openai_s_form(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await ask(client, model="other")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await ask(client, temperature=9)
    assert bad.value.param == "temperature"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as long:
            await ask(client, messages=[{"role": "user", "content": "word " * 4000}], stream=stream)
        assert long.value.code == "context_length_exceeded"


async def test_full_node_answers_429_with_a_time(client: openai.AsyncOpenAI) -> None:
    results = await asyncio.gather(
        *(ask(client, max_tokens=32) for _ in range(6)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, openai.RateLimitError)]
    assert len(refused) == 4
    assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)


@pytest.mark.parametrize("stream", [True, False])
async def test_leaving_client_frees_the_engine(node: tuple[str, Engine], stream: bool) -> None:
    base_url, engine = node
    # Greedy, this runs to its 1,900 tokens, which takes far longer than the test waits.
    body = {"model": "small", "max_tokens": 1900, "temperature": 0, "stream": stream}
    body["messages"] = [{"role": "user", "content": "Tell me a very long story."}]

    async def running(count: int) -> None:
        async with asyncio.timeout(20):
            while engine.stats().running != count:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)

    async with httpx2.AsyncClient(base_url=base_url, trust_env=False) as http:
        post = http.post("/v1/chat/completions", json=body, timeout=None)
        leaving = asyncio.create_task(post)
        await running(1)
        assert not leaving.done()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await running(0)


async def test_health_metrics_and_strange_requests(base_url: str) -> None:
    async with httpx2.AsyncClient(base_url=base_url, trust_env=False) as http:
        assert (await http.get("/health")).json() == {"healthy": True}
        assert "planetserve_model_requests" in (await http.get("/metrics")).text
        strange = [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"x" * (10 << 20)]
        for content in strange:
            answer = await http.post("/v1/chat/completions", content=content)
            assert answer.status_code == 400
            assert answer.json()["error"]["type"] == "invalid_request_error"
        assert (await http.get("/nothing")).json()["error"]["code"] == "not_found"


async def test_engine_over_http_is_an_engine(base_url: str) -> None:
    engine = await attach_openai(f"{base_url}/v1", "whatever the network calls it")
    request = ChatRequest("m", tuple(Message(**message) for message in MESSAGES), 16, 0.0)
    pieces = [piece async for piece in engine.stream(request)]
    assert "Paris" in "".join(piece.text for piece in pieces)
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens > 0
    assert await engine.count_tokens(request.messages) > 0
    too_long = ChatRequest("m", (Message("user", "word " * 4000),), 4)
    with pytest.raises(EngineError) as caught:
        async for _ in engine.stream(too_long):
            pass
    assert caught.value.code == "context_length"
    await engine.close()


@pytest.mark.parametrize("address", ["0.0.0.0:80", "10.0.0.1:80", "[::]:80", "example.org:80", "x"])
def test_http_is_for_loopback_only(address: str) -> None:
    with pytest.raises(ConfigurationError):
        loopback_address(address)


def test_loopback_addresses() -> None:
    assert loopback_address("localhost:80") == ("127.0.0.1", 80)
    assert loopback_address("[::1]:8080") == ("::1", 8080)


async def test_choices_are_shown_with_their_terms_and_no_prompt(
    base_url: str, client: openai.AsyncOpenAI
) -> None:
    await ask(client)
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{base_url}/debug/choices")
    (choice,) = answer.json()["choices"]
    assert choice["node"] == IDENTITY.id.hex()
    assert choice["prompt_tokens"] > 0
    assert "France" not in answer.text

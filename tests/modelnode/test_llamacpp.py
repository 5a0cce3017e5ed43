"""The real engine with the real small model."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from modelnode.engines.default_model import default_model_path
from modelnode.engines.llamacpp import (
    LlamaCppEngine,
    LlamaCppSettings,
    _Reply,
    load_llamacpp,
)
from modelnode.engines.protocol import NotOffered, Overloaded, Piece
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError


@pytest.fixture
async def engine() -> AsyncIterator[LlamaCppEngine]:
    settings = LlamaCppSettings(default_model_path(), parallel=2, max_waiting=2)
    loaded = await load_llamacpp(settings)
    yield loaded
    await loaded.close()


def asking(text: str, max_tokens: int = 16, temperature: float = 0.0) -> ChatRequest:
    helpful = Message("system", "You are a helpful assistant.")
    return ChatRequest("m", (helpful, Message("user", text)), max_tokens, temperature)


async def reply_of(engine: LlamaCppEngine, request: ChatRequest) -> tuple[str, Piece]:
    pieces = [piece async for piece in engine.stream(request)]
    assert all(piece.finish_reason is None for piece in pieces[:-1])
    return "".join(piece.text for piece in pieces), pieces[-1]


async def test_streams_counts_and_reuses_its_cache(engine: LlamaCppEngine) -> None:
    request = asking("What is the capital of France?")
    text, last = await reply_of(engine, request)
    assert "Paris" in text
    assert last.usage is not None
    assert last.usage.prompt_tokens == await engine.count_tokens(request.messages)
    assert last.usage.cached_tokens == 0
    again, last = await reply_of(engine, request)
    assert again == text
    assert last.usage is not None
    assert last.usage.cached_tokens > 0
    assert engine.stats().cached_tokens == last.usage.cached_tokens


async def test_says_why_it_ended(engine: LlamaCppEngine) -> None:
    _, last = await reply_of(engine, asking("Tell me a long story.", 8))
    assert (last.finish_reason, last.usage and last.usage.completion_tokens) == ("length", 8)
    stopping = ChatRequest("m", (Message("user", "Count: 1, 2, 3"),), 64, 0.0, stop=(" ",))
    text, last = await reply_of(engine, stopping)
    assert last.finish_reason == "stop"
    assert " " not in text


async def test_closing_frees_the_slot_within_one_token(
    engine: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = 0
    receive = _Reply.receive

    def counted(reply: _Reply, piece: Any) -> bool:
        nonlocal received
        received += 1
        return receive(reply, piece)

    monkeypatch.setattr(_Reply, "receive", counted)
    stream = engine.stream(asking("Tell me a very long story about ships.", 1500))
    await anext(stream)
    assert engine.stats().running == 1
    before = received
    await stream.aclose()
    async with asyncio.timeout(20):
        while True:
            if not engine.stats().running:
                break
            await asyncio.sleep(0)
    assert received - before <= 2


async def test_says_which_tokens_a_prompt_has_and_how_fast_it_is(engine: LlamaCppEngine) -> None:
    request = asking("What is the capital of France?", 12)
    tokens = await engine.token_ids(request.messages)
    _, last = await reply_of(engine, request)
    assert last.usage is not None
    assert len(tokens) == last.usage.prompt_tokens
    longer = await engine.token_ids((*request.messages, Message("assistant", "Paris.")))
    # All but the words that open the reply are the beginning of the next turn's prompt.
    assert list(longer[: len(tokens) - 8]) == list(tokens[:-8])
    stats = engine.stats()
    assert stats.kv_capacity_tokens is None, "beside its slots it keeps prompts in memory"
    assert (stats.prefill_us_per_token or 0) > 0
    assert (stats.decode_ms_per_token or 0) > 0
    with pytest.raises(NotOffered):
        await engine.score(request.messages, "Paris.")


async def test_slow_reader_does_not_hold_up_others(engine: LlamaCppEngine) -> None:
    slow = engine.stream(asking("Tell me a very long story about ships.", 1500))
    await anext(slow)
    text, _ = await reply_of(engine, asking("What is the capital of France?"))
    assert "Paris" in text
    await slow.aclose()


async def test_one_request_too_many_is_refused_with_a_time(engine: LlamaCppEngine) -> None:
    results = await asyncio.gather(
        *(reply_of(engine, asking(f"Number {n}", 4)) for n in range(7)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) == 3
    assert all(error.retry_after_s > 0 for error in refused)
    assert engine.stats().waiting == 0


async def test_prompt_longer_than_the_context_is_named(engine: LlamaCppEngine) -> None:
    with pytest.raises(EngineError) as caught:
        await reply_of(engine, asking("word " * 4000))
    assert caught.value.code == "context_length"


async def test_a_missing_or_broken_file_is_our_own_fault(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    for path in (tmp_path / "none.gguf", broken):
        with pytest.raises(ConfigurationError):
            await load_llamacpp(LlamaCppSettings(path))

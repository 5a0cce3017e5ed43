"""A real vLLM on the CPU with the real small model. `make test-vllm` runs this: the server takes
a minute to start, or several on a slow machine."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from modelnode.engines.http_client import EngineHttp
from modelnode.engines.protocol import Piece
from modelnode.engines.vllm import VllmEngine, attach_vllm, fetch_metrics, start_vllm
from modelnode.engines.vllm_events import BlocksStored, KvEvent
from modelnode.engines.vllm_place import find_python, vllm_model_path
from modelnode.engines.vllm_process import VllmSettings
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.asyncio(loop_scope="module"),
]

BLOCK_TOKENS = 32
HELPFUL = Message("system", "You are a helpful assistant who answers in few words. " * 8)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    try:
        model = vllm_model_path()
    except ConfigurationError as error:
        pytest.skip(str(error))
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    settings = VllmSettings(
        python=find_python(None),
        model=str(model),
        name="small",
        log_file=tmp_path_factory.mktemp("vllm") / "vllm.log",
        parallel=4,
        context_tokens=1024,
        options=("--dtype", "bfloat16", "--enforce-eager", "--block-size", str(BLOCK_TOKENS)),
    )
    started = await start_vllm(settings, max_waiting=8)
    leader = leader_of(started)
    yield started
    await started.close()
    await until(lambda: not group_lives(leader))


def asking(text: str, max_tokens: int = 24) -> ChatRequest:
    return ChatRequest("m", (HELPFUL, Message("user", text)), max_tokens, 0.0)


async def reply_of(engine: VllmEngine, request: ChatRequest) -> tuple[str, Piece]:
    pieces = [piece async for piece in engine.stream(request)]
    return "".join(piece.text for piece in pieces), pieces[-1]


def leader_of(engine: VllmEngine) -> int:
    assert engine._process is not None
    assert engine._process.pid is not None
    return engine._process.pid


def group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


def members_of(leader: int, name: str) -> list[int]:
    """Processes of a group whose command line has `name`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
            if os.getpgid(int(entry.name)) == leader and name.encode() in line:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.05)


async def test_it_answers_and_a_repeated_prefix_comes_from_its_cache(engine: VllmEngine) -> None:
    told: list[KvEvent] = []
    engine.on_kv_events = told.extend
    stats = engine.stats()
    assert stats.kv_block_tokens == BLOCK_TOKENS
    assert (stats.kv_capacity_tokens or 0) > 10_000
    request = asking("What is the capital of France?")
    text, first = await reply_of(engine, request)
    _, again = await reply_of(engine, asking("What is the capital of Spain?"))
    assert "Paris" in text
    assert first.usage is not None
    assert again.usage is not None
    assert first.usage.cached_tokens == 0
    assert again.usage.cached_tokens >= BLOCK_TOKENS
    assert again.usage.cached_tokens % BLOCK_TOKENS == 0
    assert engine.stats().cached_tokens == again.usage.cached_tokens
    tokens = await engine.token_ids(request.messages)
    assert tokens is not None
    assert len(tokens) == first.usage.prompt_tokens == await engine.count_tokens(request.messages)
    # The chain of blocks that it told is the prompt.
    await until(lambda: any(isinstance(event, BlocksStored) for event in told))
    stored = next(event for event in told if isinstance(event, BlocksStored))
    assert (stored.parent, stored.block_tokens) == (None, BLOCK_TOKENS)
    assert stored.tokens == tuple(tokens[: len(stored.tokens)])
    assert len(stored.tokens) >= again.usage.cached_tokens
    assert (engine.stats().prefill_us_per_token or 0) > 0


async def test_the_server_s_own_figures_are_read(engine: VllmEngine) -> None:
    await reply_of(engine, asking("What is the capital of France?"))
    await until(lambda: engine.metrics.prefix_hits >= BLOCK_TOKENS)
    assert engine.metrics.prefix_queries > engine.metrics.prefix_hits
    assert engine.stats().running == 0


async def test_a_given_reply_is_more_probable_than_another(engine: VllmEngine) -> None:
    request = asking("What is the capital of France?")
    text, _ = await reply_of(engine, request)
    likely = await engine.score(request.messages, text)
    unlikely = await engine.score(request.messages, "Book a beach holiday with us!")
    assert sum(score.logprob == score.top_logprob for score in likely) >= len(likely) - 1
    assert mean([score.logprob for score in likely]) > -1.0
    assert mean([score.logprob for score in unlikely]) < -3.0
    assert await engine.score(request.messages, "") == []


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


async def test_leaving_frees_the_slot_within_one_token(engine: VllmEngine) -> None:
    stream = engine.stream(asking("Tell me a very long story about ships.", 700))
    for _ in range(3):
        await anext(stream)
    await stream.aclose()
    left_s = time.monotonic()
    assert engine.stats().running == 0
    decode_s = (engine.stats().decode_ms_per_token or 100.0) / 1000
    async with asyncio.timeout(20):
        while True:
            metrics = await fetch_metrics(engine._http)
            if metrics is not None and metrics.running == 0:
                break
    # What it computes when we leave, it ends; whole, the story would have taken 700 tokens.
    assert time.monotonic() - left_s < max(30 * decode_s, 2.0)


async def test_a_prompt_longer_than_the_context_is_named(engine: VllmEngine) -> None:
    with pytest.raises(EngineError) as caught:
        await reply_of(engine, asking("word " * 2000))
    assert caught.value.code == "context_length"


async def test_others_need_its_key_even_at_its_socket(engine: VllmEngine) -> None:
    without = EngineHttp(replace(engine._http._endpoint, token=""), max_idle=1)
    for http, expected in [(engine._http, 200), (without, 401)]:
        status, _ = await http.fetch("GET", "/v1/models", max_bytes=1 << 16)
        assert status == expected
    await without.close()


async def test_a_death_in_mid_answer_is_one_clear_error_and_it_comes_back(
    engine: VllmEngine,
) -> None:
    first = leader_of(engine)
    stream = engine.stream(asking("Tell me a very long story about ships.", 700))
    await anext(stream)
    (core,) = members_of(first, "VLLM::EngineCore")
    os.kill(core, signal.SIGKILL)
    with pytest.raises(EngineError) as caught:
        async for _ in stream:
            pass
    assert caught.value.code == "engine_failed"
    await until(lambda: not engine.stats().serving)
    with pytest.raises(EngineError, match="started again"):
        await reply_of(engine, asking("Hello"))
    await until(lambda: engine.stats().serving, timeout_s=600.0)
    assert not group_lives(first)
    text, _ = await reply_of(engine, asking("What is the capital of France?"))
    assert "Paris" in text


async def test_what_is_no_vllm_cannot_be_attached() -> None:
    with pytest.raises(ConfigurationError):
        await attach_vllm("http://127.0.0.1:9", "m")

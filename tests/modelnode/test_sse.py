"""The reader of streamed replies against lines as servers send them, cut anywhere."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelnode.engines.sse import MAX_LINE_BYTES, MAX_REPLY_BYTES, ReplyReader
from planetserve.errors import EngineError
from planetserve.messages import Usage

VLLM = (
    'data: {"id":"chatcmpl-a7","object":"chat.completion.chunk","created":1796076381,'
    '"model":"smol","choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    '"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}\n\n'
    'data: {"id":"chatcmpl-a7","object":"chat.completion.chunk","created":1796076381,'
    '"model":"smol","choices":[{"index":0,"delta":{"content":"Par"},"logprobs":null,'
    '"finish_reason":null,"token_ids":null}]}\n\n'
    'data: {"id":"chatcmpl-a7","object":"chat.completion.chunk","created":1796076381,'
    '"model":"smol","choices":[{"index":0,"delta":{"content":"ís"},"logprobs":null,'
    '"finish_reason":"stop","stop_reason":null,"token_ids":null}]}\n\n'
    'data: {"id":"chatcmpl-a7","object":"chat.completion.chunk","created":1796076381,'
    '"model":"smol","choices":[],"usage":{"prompt_tokens":94,"total_tokens":96,'
    '"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":64,'
    '"created_cache_tokens":0}},"system_fingerprint":"vllm-0.32.0-820abb5e"}\n\n'
    "data: [DONE]\n\n"
).encode()
LLAMA_SERVER = (
    b": ping\n\n"
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant",'
    b'"content":null}}]}\n\n'
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"The"}}]}\n\n'
    b'data: {"choices":[{"finish_reason":"length","index":0,"delta":{}}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":1,"prompt_tokens":142,"total_tokens":143,'
    b'"prompt_tokens_details":{"cached_tokens":0}},"timings":{"prompt_ms":2399.079}}\n\n'
    b"data: [DONE]\n\n"
)


def read(*parts: bytes) -> tuple[str, ReplyReader]:
    reader = ReplyReader()
    return "".join(reader.feed(part) for part in parts), reader


def line(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@given(st.lists(st.integers(0, len(VLLM)), max_size=12))
def test_a_reply_of_vllm_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(VLLM)]
    parts = [VLLM[start:end] for start, end in pairwise(bounds)]
    text, reader = read(*parts)
    last = reader.last_piece()
    assert (text, reader.done) == ("París", True)
    assert (last.finish_reason, last.usage) == ("stop", Usage(94, 2, 64))


def test_a_reply_of_llama_server() -> None:
    text, reader = read(LLAMA_SERVER)
    last = reader.last_piece()
    assert (text, last.finish_reason, last.usage) == ("The", "length", Usage(142, 1, 0))


def test_without_usage_the_chunks_are_counted() -> None:
    chunk = {"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    _, reader = read(line(chunk) * 3, line(end))
    assert reader.last_piece().usage == Usage(0, 3, 0)


def test_what_comes_after_the_end_is_not_read() -> None:
    text, reader = read(LLAMA_SERVER, VLLM, b"data: {\n")
    assert text == "The"
    assert reader.last_piece().finish_reason == "length"


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n",
        b"data: []\n",
        b"data: 7\n",
        b"data: \xff\xfe\n",
        b"data: " + b"[" * 100_000 + b"\n",
        line({"choices": [{"index": 0}]}),
        line({"choices": [7]}),
        line({"choices": [], "usage": {"prompt_tokens": "many", "completion_tokens": 1}}),
        line({"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}}),
        line({"choices": [], "usage": {"prompt_tokens": 1 << 40, "completion_tokens": 1}}),
        line({"error": {"message": "out of memory", "code": 500}}),
    ],
)
def test_what_is_no_chunk_is_the_engine_s_failure(data: bytes) -> None:
    with pytest.raises(EngineError) as caught:
        ReplyReader().feed(data)
    assert caught.value.code == "engine_failed"
    assert "out of memory" not in str(caught.value)


@pytest.mark.parametrize("reason", [None, "abort", "error"])
def test_a_reply_that_is_not_whole_is_not_taken_for_one(reason: str | None) -> None:
    _, reader = read(line({"choices": [{"delta": {"content": "a"}, "finish_reason": reason}]}))
    with pytest.raises(EngineError):
        reader.last_piece()


def test_neither_a_line_nor_a_reply_is_without_end() -> None:
    with pytest.raises(EngineError):
        read(b"data: ", b"x" * (MAX_LINE_BYTES + 1))
    with pytest.raises(EngineError):
        read(*[b": ping\n" * 100_000] * (MAX_REPLY_BYTES // 700_000 + 1))


def test_more_cached_tokens_than_prompt_tokens_are_not_believed() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {}}
    usage["prompt_tokens_details"] = {"cached_tokens": 500}
    end = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
    _, reader = read(line(end))
    assert reader.last_piece().usage == Usage(5, 1, 5)

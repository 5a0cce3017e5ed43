"""Any server that speaks OpenAI's chat completions over HTTP: vLLM, llama-server, SGLang, ..."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx2

from modelnode.engines.admission import Admission
from modelnode.engines.protocol import LENGTH, STOP, EngineStats, Piece
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError
from planetserve.messages import Usage

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 120.0
MAX_LINE_CHARACTERS = 1 << 20
BYTES_A_TOKEN = 4
"""An estimate for English, used when the server cannot count tokens itself."""


class OpenAiEngine:
    """Make it with `attach_openai`. `upstream_model` is what the server calls the model."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        upstream_model: str,
        *,
        parallel: int,
        max_waiting: int,
        context_tokens: int,
    ) -> None:
        self._http = http
        self._model = upstream_model
        self._admission = Admission(parallel, max_waiting)
        self._context_tokens = context_tokens
        self._cached_tokens = 0

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        await self._admission.enter()
        try:
            body = request.to_json() | {
                "model": self._model,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            async with self._http.stream("POST", "v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await _start_of(response))
                reply = _SseReply()
                async for line in response.aiter_lines():
                    for piece in reply.read(line):
                        yield piece
                    if reply.done:
                        break
            last = reply.last_piece()
            self._cached_tokens += last.usage.cached_tokens if last.usage else 0
            yield last
        except httpx2.HTTPError as error:
            raise EngineError(
                "engine_failed", f"the engine's server failed: {type(error).__name__}"
            ) from error
        finally:
            self._admission.leave()

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Asks vLLM's `/tokenize`; a server without it gets an estimate from the bytes."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            answer = await self._http.post(
                "tokenize", json={"model": self._model, "messages": turns}
            )
            count = answer.json()["count"] if answer.status_code == 200 else None
        except (httpx2.HTTPError, ValueError, KeyError, TypeError):
            count = None
        if type(count) is int and count >= 0:
            return count
        return sum(len(message.content.encode()) for message in messages) // BYTES_A_TOKEN + 1

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self._admission.running,
            waiting=self._admission.waiting,
            capacity=self._admission.capacity,
            max_waiting=self._admission.max_waiting,
            cached_tokens=self._cached_tokens,
            context_tokens=self._context_tokens,
        )

    async def close(self) -> None:
        await self._http.aclose()


class _SseReply:
    """Reads the lines of one server-sent reply."""

    def __init__(self) -> None:
        self.done = False
        self._finish_reason: str | None = None
        self._usage = Usage(0, 0)
        self._chunks = 0

    def read(self, line: str) -> list[Piece]:
        if not line.startswith("data:"):
            return []
        data = line[5:].strip()
        if data == "[DONE]":
            self.done = True
            return []
        if len(data) > MAX_LINE_CHARACTERS:
            raise EngineError("engine_failed", "the engine's server sent a line that is too long")
        try:
            return self._chunk(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(
                "engine_failed", "the engine's server sent something that is not a chunk"
            ) from error

    def _chunk(self, chunk: Any) -> list[Piece]:
        if chunk.get("error"):
            raise EngineError("engine_failed", "the engine's server failed in mid-reply")
        pieces = []
        for choice in chunk.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            text = choice["delta"].get("content")
            if isinstance(text, str) and text:
                self._chunks += 1
                pieces.append(Piece(text))
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        return pieces

    def last_piece(self) -> Piece:
        """Raises `EngineError` when the server never said that the reply is whole."""
        if self._finish_reason is None:
            raise EngineError("engine_failed", "the engine's server broke off its reply")
        usage = self._usage
        if not usage.completion_tokens:
            usage = Usage(usage.prompt_tokens, self._chunks, usage.cached_tokens)
        return Piece("", LENGTH if self._finish_reason == LENGTH else STOP, usage)


def _usage(value: Any) -> Usage:
    details = value.get("prompt_tokens_details") or {}
    return Usage(
        int(value["prompt_tokens"]),
        int(value["completion_tokens"]),
        int(details.get("cached_tokens") or 0),
    )


async def _start_of(response: httpx2.Response) -> str:
    """The beginning of an error's text; a broken server may send one without end."""
    start = bytearray()
    async for chunk in response.aiter_bytes():
        start += chunk
        if len(start) > 4096:
            break
    return bytes(start[:4096]).decode(errors="replace")


def _refusal(status: int, text: str) -> EngineError:
    if status == 400 and "context" in text and ("length" in text or "size" in text):
        return EngineError("context_length", "the prompt is longer than the model's context")
    if status in (400, 422):
        return EngineError("bad_request", "the engine's server refused the request's parameters")
    if status == 429:
        return EngineError("overloaded", "the engine's server has too many requests")
    return EngineError("engine_failed", f"the engine's server answered with status {status}")


async def attach_openai(
    url: str,
    model: str,
    *,
    api_key: str = "",
    parallel: int = 8,
    max_waiting: int = 64,
    context_tokens: int = 2048,
) -> OpenAiEngine:
    """Attach to the server at `url` (with or without `/v1`), which must list `model` or serve
    only one. Raises `ConfigurationError` when it cannot be asked or does neither."""
    base = url.rstrip("/").removesuffix("/v1") + "/"
    http = httpx2.AsyncClient(
        base_url=base,
        trust_env=False,
        timeout=httpx2.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        limits=httpx2.Limits(max_connections=parallel + 4),
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
    )
    try:
        answer = await http.get("v1/models")
        listed = answer.raise_for_status().json()["data"]
        lengths = {str(item["id"]): item.get("max_model_len") for item in listed}
    except (httpx2.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        await http.aclose()
        raise ConfigurationError(
            f"{base}v1/models does not list models: {type(error).__name__}. Is the server running?"
        ) from error
    upstream = model if model in lengths else next(iter(lengths), "")
    if model not in lengths and len(lengths) != 1:
        await http.aclose()
        raise ConfigurationError(f"{base} serves {', '.join(lengths) or 'no model'}, not {model}")
    return OpenAiEngine(
        http,
        upstream,
        parallel=parallel,
        max_waiting=max_waiting,
        context_tokens=lengths[upstream] or context_tokens,
    )

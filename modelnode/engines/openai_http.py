"""Any server that speaks OpenAI's chat completions over HTTP: vLLM, llama-server, SGLang, ..."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelnode.core.speeds import Speeds
from modelnode.engines.admission import Admission
from modelnode.engines.http_client import EngineHttp, endpoint_of
from modelnode.engines.protocol import EngineStats, NotOffered, Overloaded, Piece, TokenScore
from modelnode.engines.sse import ReplyReader
from modelnode.engines.timing import ReplyTimer
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError
from planetserve.http import HttpError

MAX_ANSWER_BYTES = 4 << 20
MAX_REFUSAL_BYTES = 4096
BYTES_A_TOKEN = 4
"""An estimate for English, used when the server cannot count tokens itself."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a server was found to serve: the name that it calls the model by, and how many
    requests we give it at once."""

    model: str
    context_tokens: int
    parallel: int
    max_waiting: int


class OpenAiEngine:
    """Make it with `attach_openai`."""

    def __init__(self, http: EngineHttp, upstream: Upstream) -> None:
        self._http = http
        self._upstream = upstream
        self._admission = Admission(upstream.parallel, upstream.max_waiting)
        self._speeds = Speeds()
        self._cached_tokens = 0
        self._tokenizes = True

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        self._refuse_when_down()
        await self._admission.enter()
        try:
            self._refuse_when_down()
            timer = ReplyTimer(self._speeds)
            reader = ReplyReader()
            body = encode(self._body(request))
            async with self._http.ask("POST", "/v1/chat/completions", body) as response:
                if response.status != 200:
                    raise self._refusal(response.status, await response.start(MAX_REFUSAL_BYTES))
                while not reader.done and (data := await response.read()):
                    text = reader.feed(data)
                    if text:
                        timer.text_came()
                        yield Piece(text)
            last = reader.last_piece()
            if last.usage is not None:
                self._cached_tokens += last.usage.cached_tokens
                timer.ended(last.usage)
            yield last
        except HttpError as error:
            raise EngineError("engine_failed", f"the engine's server failed: {error}") from error
        finally:
            self._admission.leave()

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Asks `/tokenize`; a server without it gets an estimate from the bytes."""
        tokens = await self._tokenize({"messages": turns_of(messages)})
        if tokens is not None:
            return len(tokens)
        return sum(len(message.content.encode()) for message in messages) // BYTES_A_TOKEN + 1

    async def token_ids(self, messages: Sequence[Message]) -> Sequence[int] | None:
        """None: most servers do not tell."""
        return None

    async def score(self, messages: Sequence[Message], reply: str) -> Sequence[TokenScore]:
        raise NotOffered("an OpenAI-compatible server gives no probabilities of a given reply")

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self._admission.running,
            waiting=self._admission.waiting,
            capacity=self._admission.capacity,
            max_waiting=self._admission.max_waiting,
            cached_tokens=self._cached_tokens,
            context_tokens=self._upstream.context_tokens,
            prefill_us_per_token=self._speeds.prefill_us_per_token,
            decode_ms_per_token=self._speeds.decode_ms_per_token,
            hold_ms=self._admission.hold_ms,
        )

    async def close(self) -> None:
        await self._http.close()

    def _refuse_when_down(self) -> None:
        """Raises `EngineError` when the server is known not to run."""

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        return request.to_json() | {
            "model": self._upstream.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def _refusal(self, status: int, start: bytes) -> EngineError:
        text = start.decode(errors="replace")
        if status == 400 and "context" in text and ("length" in text or "size" in text):
            return EngineError("context_length", "the prompt is longer than the model's context")
        if status in (400, 422):
            return EngineError(
                "bad_request", "the engine's server refused the request's parameters"
            )
        if status == 429:
            return Overloaded(self._admission.waiting, 1)
        return EngineError("engine_failed", f"the engine's server answered with status {status}")

    async def _tokenize(self, what: Mapping[str, Any]) -> list[int] | None:
        """The tokens that `/tokenize` gives, None where it is not there or fails."""
        if not self._tokenizes:
            return None
        body = encode({"model": self._upstream.model, **what})
        try:
            status, answer = await self._http.fetch(
                "POST", "/tokenize", body, max_bytes=MAX_ANSWER_BYTES
            )
            self._tokenizes = status not in (404, 405)
            tokens = json.loads(answer)["tokens"] if status == 200 else None
        except (HttpError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if isinstance(tokens, list) and all(type(token) is int for token in tokens):
            return tokens
        return None


def turns_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """`messages` as OpenAI's JSON has them."""
    return [{"role": message.role, "content": message.content} for message in messages]


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
    endpoint = endpoint_of(url, api_key)
    http = EngineHttp(endpoint, max_idle=parallel)
    try:
        name, length = await find_model(http, str(endpoint), model)
    except BaseException:
        await http.close()
        raise
    return OpenAiEngine(http, Upstream(name, length or context_tokens, parallel, max_waiting))


async def find_model(http: EngineHttp, shown: str, model: str) -> tuple[str, int | None]:
    """What the server calls `model`, and the context that it says it has. Raises
    `ConfigurationError`, calling the server `shown`."""
    try:
        status, answer = await http.fetch("GET", "/v1/models", max_bytes=MAX_ANSWER_BYTES)
        if status == 401:
            raise ConfigurationError(f"{shown} wants another API key (PLANETSERVE_ENGINE_KEY)")
        listed = json.loads(answer)["data"]
        lengths = {str(item["id"]): item.get("max_model_len") for item in listed}
    except (HttpError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, HttpError) else type(error).__name__
        raise ConfigurationError(
            f"{shown}v1/models does not list models: {reason}. Is the server running?"
        ) from error
    if model not in lengths and len(lengths) != 1:
        raise ConfigurationError(f"{shown} serves {', '.join(lengths) or 'no model'}, not {model}")
    name = model if model in lengths else next(iter(lengths))
    length = lengths[name]
    return name, length if type(length) is int and length > 0 else None


def encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()

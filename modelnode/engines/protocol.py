"""What the rest of a model node knows of an engine: this and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from planetserve.chat import ChatRequest, Message
from planetserve.errors import EngineError, UsageError
from planetserve.messages import Usage

STOP = "stop"
LENGTH = "length"
CANCELLED = "cancelled"

DEFAULT_KV_BLOCK_TOKENS = 16
"""vLLM's; an engine whose cache has no blocks is counted in these too."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply's text. The last piece of a reply, and only that, has `finish_reason`
    ("stop", "length" or "cancelled") and `usage`; its text may be empty."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's load and speed now.

    `running` and `waiting` count requests, `capacity` is how many run at once, `max_waiting` how
    many may wait; `cached_tokens` counts prompt tokens that were found in the cache since start,
    `context_tokens` is the longest prompt and reply together. The cache keeps whole blocks of
    `kv_block_tokens`; of tokens it holds `kv_capacity_tokens`, None where that is not known. The
    two speeds are measured (see `modelnode.core.speeds`), None until a reply could tell, and so
    is how long a request keeps its slot. While `serving` is false every request fails: what runs
    the model is being started again.
    """

    running: int
    waiting: int
    capacity: int
    max_waiting: int
    cached_tokens: int
    context_tokens: int
    kv_block_tokens: int = DEFAULT_KV_BLOCK_TOKENS
    kv_capacity_tokens: int | None = None
    prefill_us_per_token: float | None = None
    decode_ms_per_token: float | None = None
    hold_ms: float | None = None
    serving: bool = True


@dataclass(frozen=True, slots=True)
class TokenScore:
    """The natural logarithm of the probability that the model gives `token` after those before
    it, and of the token that it finds most probable there."""

    token: int
    logprob: float
    top_logprob: float


class Engine(Protocol):
    """An LLM that answers chat requests as a stream.

    Errors are `EngineError`s whose code is a word of `planetserve.messages.ERROR_CODES`.
    """

    def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """The reply to `request`. Closing the generator cancels the request and frees its slot
        within one token. Raises `Overloaded` when too many requests wait, `EngineError` with
        "context_length", "bad_request" or "engine_failed" otherwise."""
        ...

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the prompt that `messages` become, chat template included."""
        ...

    async def token_ids(self, messages: Sequence[Message]) -> Sequence[int] | None:
        """The tokens of that prompt, None where the engine cannot tell them, or only at a price
        that matters beside answering."""
        ...

    async def score(self, messages: Sequence[Message], reply: str) -> Sequence[TokenScore]:
        """How probable each token of `reply` is as the reply to `messages`, computed in one
        prefill. Raises `NotOffered` when the engine has no such figures."""
        ...

    def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Cancel what runs and free the model. Requests that still wait end with an error."""
        ...


class NotOffered(UsageError):
    """The engine cannot do this at all; another one may."""


class Overloaded(EngineError):
    """As many requests wait as may; asking again after `retry_after_s` seconds may help."""

    safe_to_retry = True

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__("overloaded", f"{waiting} requests are waiting for the engine already")
        self.retry_after_s = retry_after_s

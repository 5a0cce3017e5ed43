"""What the rest of a model node knows of an engine: this and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from planetserve.chat import ChatRequest, Message
from planetserve.errors import EngineError
from planetserve.messages import Usage

STOP = "stop"
LENGTH = "length"
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reply's text. The last piece of a reply, and only that, has `finish_reason`
    ("stop", "length" or "cancelled") and `usage`; its text may be empty."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's load now.

    `running` and `waiting` count requests, `capacity` is how many run at once, `max_waiting` how
    many may wait; `cached_tokens` counts prompt tokens that were found in the cache since start,
    `context_tokens` is the longest prompt and reply together.
    """

    running: int
    waiting: int
    capacity: int
    max_waiting: int
    cached_tokens: int
    context_tokens: int


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

    def stats(self) -> EngineStats: ...

    async def close(self) -> None:
        """Cancel what runs and free the model. Requests that still wait end with an error."""
        ...


class Overloaded(EngineError):
    """As many requests wait as may; asking again after `retry_after_s` seconds may help."""

    safe_to_retry = True

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__("overloaded", f"{waiting} requests are waiting for the engine already")
        self.retry_after_s = retry_after_s

"""Reads the server-sent events of a streamed chat completion, from bytes as they come.

Source: OpenAI API reference, "Chat completion chunk"; WHATWG HTML, "Server-sent events".
"""

from __future__ import annotations

import json
from typing import Any

from modelnode.engines.protocol import LENGTH, STOP, Piece
from planetserve.errors import EngineError
from planetserve.messages import Usage

MAX_LINE_BYTES = 1 << 20
MAX_REPLY_BYTES = 64 << 20
"""Chunks of 4,096 tokens have a few megabytes; a server that says nothing for ever is cut."""
MAX_TOKEN_COUNT = 1 << 31
BROKEN = ("abort", "error")
"""What vLLM and SGLang give as the reason when a reply was not finished."""


class ReplyReader:
    """One reply. `done` is true after its last line."""

    def __init__(self) -> None:
        self.done = False
        self._rest = b""
        self._bytes = 0
        self._finish_reason: str | None = None
        self._usage = Usage(0, 0)
        self._chunks = 0

    def feed(self, data: bytes) -> str:
        """The text in `data`, together with what was left of earlier data. Raises `EngineError`
        when the server sends an error, or something else than chunks."""
        self._bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._bytes > MAX_REPLY_BYTES or len(self._rest) > MAX_LINE_BYTES:
            raise EngineError("engine_failed", "the engine's server sent too much")
        texts: list[str] = []
        for line in lines:
            if line.startswith(b"data:") and not self.done:
                self._read(line[5:].strip(), texts)
        return "".join(texts)

    def last_piece(self) -> Piece:
        """Raises `EngineError` when the server never said that the reply is whole."""
        if self._finish_reason is None or self._finish_reason in BROKEN:
            raise EngineError("engine_failed", "the engine's server broke off its reply")
        usage = self._usage
        if not usage.completion_tokens:
            usage = Usage(usage.prompt_tokens, self._chunks, usage.cached_tokens)
        return Piece("", LENGTH if self._finish_reason == LENGTH else STOP, usage)

    def _read(self, data: bytes, texts: list[str]) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        try:
            self._chunk(json.loads(data.decode()), texts)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EngineError(
                "engine_failed", "the engine's server sent something that is not a chunk"
            ) from error

    def _chunk(self, chunk: Any, texts: list[str]) -> None:
        if chunk.get("error"):
            raise EngineError("engine_failed", "the engine's server failed in mid-reply")
        for choice in chunk.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            text = choice["delta"].get("content")
            if isinstance(text, str) and text:
                self._chunks += 1
                texts.append(text)
        if chunk.get("usage"):
            self._usage = read_usage(chunk["usage"])


def read_usage(value: Any) -> Usage:
    """Raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` for what is no usage."""
    details = value.get("prompt_tokens_details") or {}
    prompt = _count(value["prompt_tokens"])
    return Usage(
        prompt,
        _count(value["completion_tokens"]),
        min(_count(details.get("cached_tokens") or 0), prompt),
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_TOKEN_COUNT:
        raise ValueError("not a number of tokens")
    return value

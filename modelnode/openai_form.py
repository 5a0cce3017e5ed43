"""How replies and errors look in OpenAI's API: chunks of a stream, whole answers, error bodies."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

from planetserve.messages import Delta, End, Failed, ReplyEvent

STATUS = {
    "bad_request": 400,
    "context_length": 400,
    "unknown_model": 404,
    "overloaded": 429,
    "engine_failed": 500,
    "node_lost": 502,
    "not_serving": 503,
}
NAMES = {"context_length": "context_length_exceeded", "unknown_model": "model_not_found"}
"""Our codes where OpenAI has a word of its own."""

to_json = json.JSONEncoder(separators=(",", ":")).encode
_quote = json.encoder.encode_basestring_ascii


class Stream:
    """The lines of one streamed reply."""

    def __init__(self, model: str, with_usage: bool) -> None:
        self._frame = _frame(model, "chat.completion.chunk")
        self._with_usage = with_usage
        head = to_json(self._frame | {"choices": None})[: -len("null}")]
        self._head = f"data: {head}"

    def begin(self) -> str:
        return self._chunk('{"role":"assistant","content":""}', "null")

    def lines(self, events: Iterable[ReplyEvent]) -> str:
        """The lines of `events`, in one text."""
        return "".join(self._event(event) for event in events)

    def _event(self, event: ReplyEvent) -> str:
        if isinstance(event, Delta):
            return self._chunk(f'{{"content":{_quote(event.text)}}}', "null")
        if isinstance(event, Failed):
            return _data(error_body(event.message, None, event.code))
        if isinstance(event, End):
            last = self._chunk("{}", _quote(event.finish_reason))
            if self._with_usage:
                last += _data(self._frame | {"choices": [], "usage": _usage(event)})
            return last + "data: [DONE]\n\n"
        return ""

    def _chunk(self, delta: str, finish_reason: str) -> str:
        return (
            f'{self._head}[{{"index":0,"delta":{delta},"finish_reason":{finish_reason},'
            '"logprobs":null}]}\n\n'
        )


def completion(model: str, text: str, end: End) -> dict[str, Any]:
    """A whole reply."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": end.finish_reason,
        "logprobs": None,
    }
    return _frame(model, "chat.completion") | {"choices": [choice], "usage": _usage(end)}


def error_body(message: str, param: str | None, code: str) -> dict[str, Any]:
    fault = STATUS.get(code, 400)
    kind = "invalid_request_error" if fault < 429 else "server_error"
    if fault == 429:
        kind = "rate_limit_error"
    return {
        "error": {"message": message, "type": kind, "param": param, "code": NAMES.get(code, code)}
    }


def _data(value: dict[str, Any]) -> str:
    return f"data: {to_json(value)}\n\n"


def _frame(model: str, kind: str) -> dict[str, Any]:
    identifier = f"chatcmpl-{uuid.uuid4().hex}"
    return {"id": identifier, "object": kind, "created": int(time.time()), "model": model}


def _usage(end: End) -> dict[str, Any]:
    return {
        "prompt_tokens": end.usage.prompt_tokens,
        "completion_tokens": end.usage.completion_tokens,
        "total_tokens": end.usage.prompt_tokens + end.usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": end.usage.cached_tokens},
    }

"""The chat request that a client asks with, read from the JSON of OpenAI's chat completions.

Everything a stranger can put into a body is checked here, once, and refused with the name of the
parameter at fault, so that engines only see requests that make sense.
Source: OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planetserve.errors import RemoteProtocolError

MAX_BODY_BYTES = 256 << 10
MAX_MESSAGES = 256
MAX_TOKENS = 4096
DEFAULT_MAX_TOKENS = 128
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_MODEL_CHARACTERS = 128
MAX_SEED = (1 << 32) - 2
"""One less than llama.cpp's word for "any seed"."""

ROLES = ("system", "user", "assistant")

_UNSUPPORTED = ("tools", "functions", "audio", "logprobs", "logit_bias", "prediction")


class BadRequest(RemoteProtocolError):
    """A chat request that cannot be served; `param` is the field at fault, None for the whole,
    `code` a word of `planetserve.messages.ERROR_CODES`."""

    def __init__(self, message: str, param: str | None = None, code: str = "bad_request") -> None:
        super().__init__(message)
        self.param = param
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is a word of `ROLES`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked request. `seed` None lets the engine choose; `stop` holds up to four strings
    that end the reply and are not part of it."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int = DEFAULT_MAX_TOKENS
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The request as OpenAI's JSON, without fields that say nothing."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        if self.seed is not None:
            body["seed"] = self.seed
        if self.stop:
            body["stop"] = list(self.stop)
        if self.presence_penalty:
            body["presence_penalty"] = self.presence_penalty
        if self.frequency_penalty:
            body["frequency_penalty"] = self.frequency_penalty
        return body

    def to_body(self) -> bytes:
        return json.dumps(self.to_json(), ensure_ascii=False).encode()


def parse_body(body: bytes) -> ChatRequest:
    """Read the JSON of a chat request. Raises `BadRequest`."""
    return parse_fields(read_fields(body))


def read_fields(body: bytes) -> dict[str, Any]:
    """The fields of a chat request, unchecked. Raises `BadRequest`."""
    if len(body) > MAX_BODY_BYTES:
        raise BadRequest(f"the request has {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed")
    try:
        fields = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the request is not JSON in UTF-8") from error
    if not isinstance(fields, dict):
        raise BadRequest("the request is not a JSON object")
    return fields


def parse_fields(fields: Mapping[str, Any]) -> ChatRequest:
    """Check an already decoded request. Fields that only matter to the asker (`user`, `stream`,
    `metadata`) pass unread; fields that would change the reply and are not served are refused."""
    for name in _UNSUPPORTED:
        if fields.get(name):
            raise BadRequest(f"{name} is not supported", name)
    if fields.get("n") not in (None, 1):
        raise BadRequest("n must be 1", "n")
    if (fields.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise BadRequest("response_format must be of type text", "response_format")
    limit = "max_completion_tokens" if fields.get("max_completion_tokens") else "max_tokens"
    seed = fields.get("seed")
    return ChatRequest(
        model=_text(fields.get("model"), "model", MAX_MODEL_CHARACTERS),
        messages=_messages(fields.get("messages")),
        max_tokens=_integer(fields, limit, DEFAULT_MAX_TOKENS, 1, MAX_TOKENS),
        temperature=_number(fields, "temperature", 1.0, 0.0, 2.0),
        top_p=_number(fields, "top_p", 1.0, 0.0, 1.0),
        seed=None if seed is None else _integer(fields, "seed", 0, 0, MAX_SEED),
        stop=_stop(fields.get("stop")),
        presence_penalty=_number(fields, "presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=_number(fields, "frequency_penalty", 0.0, -2.0, 2.0),
    )


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise BadRequest(f"messages must be a list of 1 to {MAX_MESSAGES}", "messages")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, dict):
        raise BadRequest(f"{place} must be an object", place)
    role = "system" if value.get("role") == "developer" else value.get("role")
    if role not in ROLES:
        raise BadRequest(f"{place}.role must be one of {', '.join(ROLES)}", f"{place}.role")
    if value.get("tool_calls"):
        raise BadRequest("tool_calls is not supported", f"{place}.tool_calls")
    content = value.get("content")
    where = f"{place}.content"
    if isinstance(content, list):
        content = "".join(_text_part(part, where) for part in content)
    return Message(role, _text(content, where, MAX_BODY_BYTES, may_be_empty=True))


def _text_part(part: Any, place: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise BadRequest(f"{place} may only hold parts of type text", place)
    return _text(part.get("text"), place, MAX_BODY_BYTES, may_be_empty=True)


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise BadRequest(f"stop must be a string or a list of at most {MAX_STOPS}", "stop")
    return tuple(_text(item, "stop", MAX_STOP_CHARACTERS) for item in stops)


def _text(value: Any, place: str, max_characters: int, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{place} must be a string", place)
    if len(value) > max_characters or not (value or may_be_empty):
        raise BadRequest(f"{place} must have 1 to {max_characters} characters", place)
    if not is_unicode(value):
        raise BadRequest(f"{place} holds half of a surrogate pair", place)
    return value


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8: JSON's escapes can spell strings that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integer(fields: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{name} must be an integer from {low} to {high}", name)
    return value


def _number(fields: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or not low <= value <= high:
        raise BadRequest(f"{name} must be a number from {low:g} to {high:g}", name)
    return float(value)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

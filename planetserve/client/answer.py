"""What a client returns, and what it sends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from planetserve.messages import MAX_BODY_BYTES, Usage, parse_body

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
"""A question, or the turns of a conversation in OpenAI's form: role and content."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer and where it came from.

    `node` is the name of the model node that signed it; `first_token_s` and `total_s` run from
    the call; `route_height` and `route_hash` say which route set the paths and the node were
    chosen from; `paths` are relay names, nearest first; `relaxed` are the rules of path choice
    that gave way for want of relays.
    """

    text: str
    model: str
    node: str
    node_id: bytes
    finish_reason: str
    usage: Usage
    first_token_s: float
    total_s: float
    route_height: int
    route_hash: str
    paths: tuple[tuple[str, ...], ...]
    request_body: bytes
    signature: bytes
    relaxed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The form that `ps-client ask --json` prints."""
        return {
            "text": self.text,
            "model": self.model,
            "node": self.node,
            "node_id": self.node_id.hex(),
            "finish_reason": self.finish_reason,
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
                "cached_tokens": self.usage.cached_tokens,
            },
            "first_token_s": round(self.first_token_s, 4),
            "total_s": round(self.total_s, 4),
            "route_height": self.route_height,
            "route_hash": self.route_hash,
            "paths": [list(path) for path in self.paths],
        }


DEFAULT_SYSTEM = "You are a helpful assistant."
"""Put before a lone question: small models answer markedly worse without."""


def request_body(prompt: Prompt, model: str, system: str | None = None, **sampling: Any) -> bytes:
    """The JSON that is asked with; `sampling` are OpenAI's parameters, None for the default.

    `system` goes before a prompt that is a string; a list of turns is sent as it is. Raises
    `BadRequest` for what no model node would take, before anything is sent.
    """
    messages: list[Mapping[str, str]] = (
        [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    )
    if system and isinstance(prompt, str):
        messages.insert(0, {"role": "system", "content": system})
    fields: dict[str, Any] = {"model": model, "messages": messages}
    fields.update({name: value for name, value in sampling.items() if value is not None})
    body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(
        errors="surrogatepass"
    )
    parse_body(body)
    assert len(body) <= MAX_BODY_BYTES
    return body

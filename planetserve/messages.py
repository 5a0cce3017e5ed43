"""What a client and a model node say to each other inside the overlay's encryption.

Client to entry node, once: `RequestPayload`, canonical MessagePack around the JSON of an OpenAI
chat completion (see `planetserve.chat`).

Back, as a stream: one JSON object a line, each one of

    {"accepted": {"entry": ID}}                                 at most once, and first
    {"delta": TEXT}                                             the reply, piece by piece
    {"end": {"node": ID, "model": NAME, "finish_reason": "stop" | "length",
             "usage": {"prompt_tokens", "completion_tokens", "cached_tokens"},
             "signature": HEX}}                                 nothing follows
    {"error": {"code": one of ERROR_CODES, "message": TEXT, "retry_after_s": INT?}}
                                                                nothing follows

The serving node signs a `ReplyStatement` of what it was asked and what it answered, so that a
transcript is evidence that anyone who knows the node's key can check; `planetserve.evidence` says
what such statements prove.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from planetserve.chat import (
    MAX_BODY_BYTES,
    MAX_MODEL_CHARACTERS,
    BadRequest,
    ChatRequest,
    Message,
    is_unicode,
    parse_body,
)
from planetserve.encoding import EncodingError, decode, encode
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NODE_ID_BYTES, Identity, NodeId, verify

__all__ = [
    "ERROR_CODES",
    "MAX_BODY_BYTES",
    "Accepted",
    "BadRequest",
    "ChatRequest",
    "Delta",
    "End",
    "Failed",
    "Message",
    "ReplyEvent",
    "ReplyParser",
    "ReplyStatement",
    "RequestPayload",
    "Usage",
    "decode_payload",
    "decode_statement",
    "encode_event",
    "parse_body",
    "sign_reply",
    "state_reply",
    "verify_reply",
    "verify_statement",
]

ERROR_CODES = (
    "bad_request",
    "unknown_model",
    "context_length",
    "overloaded",
    "engine_failed",
    "node_lost",
    "not_serving",
)
FINISH_REASONS = ("stop", "length")
REPLY_DOMAIN = "planetserve/reply/v1"

MAX_PAYLOAD_BYTES = MAX_BODY_BYTES + 256
MAX_LINE_BYTES = 64 << 10
MAX_REPLY_BYTES = 8 << 20
MAX_ERROR_CHARACTERS = 1024
MAX_RETRY_AFTER_S = 3600
MAX_COUNT = 1 << 31
MAX_STATEMENT_BYTES = 1024
MAX_FINISH_REASON_CHARACTERS = 32
MAX_CHAIN_ID_CHARACTERS = 50
"""CometBFT's own limit."""
SIGNATURE_BYTES = 64
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class RequestPayload:
    """What travels sealed to the entry node. `prefer` is the node whose cache holds the earlier
    turns of this conversation, None when the client has no wish; `body` is JSON."""

    body: bytes
    prefer: NodeId | None = None

    def encode(self) -> bytes:
        return encode({"v": 1, "prefer": self.prefer, "body": self.body})


def decode_payload(data: bytes) -> RequestPayload:
    """Raises `RemoteProtocolError` (an `EncodingError`) when `data` is not a payload."""
    fields = decode(data, max_bytes=MAX_PAYLOAD_BYTES)
    if not isinstance(fields, dict) or set(fields) != {"body", "prefer", "v"}:
        raise EncodingError("a request payload holds exactly body, prefer and v")
    body, prefer = fields["body"], fields["prefer"]
    if type(fields["v"]) is not int or fields["v"] != 1 or not isinstance(body, bytes):
        raise EncodingError("a request payload has an unknown version or no body")
    if prefer is not None and not (isinstance(prefer, bytes) and len(prefer) == NODE_ID_BYTES):
        raise EncodingError("a request payload prefers something that is not a node")
    return RequestPayload(body, prefer if prefer is None else NodeId(prefer))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one reply; `cached_tokens` of the prompt's were found in the node's cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The entry node took the request and will answer or say why not."""

    entry: NodeId


@dataclass(frozen=True, slots=True)
class Delta:
    text: str


@dataclass(frozen=True, slots=True)
class End:
    """The reply is whole. `signature` is `node`'s over a `ReplyStatement`; see `verify_reply`."""

    node: NodeId
    model: str
    finish_reason: str
    usage: Usage
    signature: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no (more) reply; `retry_after_s` is set when asking again may help."""

    code: str
    message: str
    retry_after_s: int | None = None


ReplyEvent: TypeAlias = "Accepted | Delta | End | Failed"


def encode_event(event: ReplyEvent) -> bytes:
    """One line of the reply stream. A delta too long for one line becomes several."""
    if isinstance(event, Delta):
        # JSON's escapes spell one character with up to twelve bytes.
        size = MAX_LINE_BYTES // 16
        pieces = [event.text[at : at + size] for at in range(0, len(event.text), size)]
        return b"".join(_line({"delta": piece}) for piece in pieces)
    if isinstance(event, Accepted):
        return _line({"accepted": {"entry": event.entry.hex()}})
    if isinstance(event, Failed):
        error: dict[str, Any] = {
            "code": event.code,
            "message": event.message[:MAX_ERROR_CHARACTERS],
        }
        if event.retry_after_s is not None:
            error["retry_after_s"] = event.retry_after_s
        return _line({"error": error})
    usage = {
        "prompt_tokens": event.usage.prompt_tokens,
        "completion_tokens": event.usage.completion_tokens,
        "cached_tokens": event.usage.cached_tokens,
    }
    return _line(
        {
            "end": {
                "node": event.node.hex(),
                "model": event.model,
                "finish_reason": event.finish_reason,
                "usage": usage,
                "signature": event.signature.hex(),
            }
        }
    )


class ReplyParser:
    """Turns the bytes of a reply stream, cut anywhere, into events.

    `finished` is true once an `End` or a `Failed` was returned.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._total_bytes = 0
        self._events = 0
        self.finished = False

    def feed(self, data: bytes) -> list[ReplyEvent]:
        """Events completed by `data`. Raises `RemoteProtocolError` on anything that the format
        forbids: a line or a reply that is too long, an unknown event, bytes after the end."""
        self._total_bytes += len(data)
        if self._total_bytes > MAX_REPLY_BYTES:
            raise RemoteProtocolError(f"a reply is longer than {MAX_REPLY_BYTES} bytes")
        # Only what is new can hold the next line's end.
        searched = len(self._pending)
        self._pending += data
        events: list[ReplyEvent] = []
        start = 0
        while (end := self._pending.find(b"\n", max(start, searched))) >= 0:
            if end - start > MAX_LINE_BYTES:
                raise RemoteProtocolError(f"a reply's line is longer than {MAX_LINE_BYTES} bytes")
            events.append(self._event(bytes(self._pending[start:end])))
            start = end + 1
        del self._pending[:start]
        if len(self._pending) > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"a reply's line is longer than {MAX_LINE_BYTES} bytes")
        if self.finished and self._pending:
            raise RemoteProtocolError("a reply goes on after its end")
        return events

    def _event(self, line: bytes) -> ReplyEvent:
        if self.finished:
            raise RemoteProtocolError("a reply goes on after its end")
        event = _parse_event(line)
        if isinstance(event, Accepted) and self._events:
            raise RemoteProtocolError("a reply is accepted late or twice")
        self._events += 1
        self.finished = isinstance(event, End | Failed)
        return event


@dataclass(frozen=True, slots=True)
class ReplyStatement:
    """What a serving node signs of a reply. `request` is the SHA-256 of the body as it was sent
    and `text` that of the whole reply in UTF-8: a statement shows neither."""

    chain_id: str
    request: bytes
    text: bytes
    finish_reason: str
    model: str
    usage: Usage

    def encode(self) -> bytes:
        """The canonical map {"chain_id", "finish_reason", "model", "request", "text", "usage":
        {"cached_tokens", "completion_tokens", "prompt_tokens"}}: the bytes that are signed."""
        return encode(asdict(self))


def state_reply(
    chain_id: str, request_body: bytes, text: str, finish_reason: str, model: str, usage: Usage
) -> ReplyStatement:
    """The statement that `request_body` (the JSON as it was sent) was answered with `text`."""
    request = hashlib.sha256(request_body).digest()
    digest = hashlib.sha256(text.encode()).digest()
    return ReplyStatement(chain_id, request, digest, finish_reason, model, usage)


def decode_statement(data: bytes) -> ReplyStatement:
    """Read a statement's form, whatever it says: `finish_reason` may be any short word. Raises
    `RemoteProtocolError` (an `EncodingError` where the bytes are not canonical)."""
    fields = decode(data, max_bytes=MAX_STATEMENT_BYTES)
    if not isinstance(fields, dict) or set(fields) != set(ReplyStatement.__slots__):
        raise EncodingError("a statement holds not exactly its fields")
    usage = fields["usage"]
    if not isinstance(usage, dict) or set(usage) != set(Usage.__slots__):
        raise EncodingError("a statement's usage holds not exactly its counts")
    digests = fields["request"], fields["text"]
    if not all(isinstance(item, bytes) and len(item) == DIGEST_BYTES for item in digests):
        raise EncodingError("a statement's digest is not 32 bytes")
    return ReplyStatement(
        chain_id=_string(fields["chain_id"], MAX_CHAIN_ID_CHARACTERS),
        request=fields["request"],
        text=fields["text"],
        finish_reason=_string(fields["finish_reason"], MAX_FINISH_REASON_CHARACTERS),
        model=_string(fields["model"], MAX_MODEL_CHARACTERS),
        usage=Usage(**{name: _count(count) for name, count in usage.items()}),
    )


def sign_reply(identity: Identity, statement: ReplyStatement) -> bytes:
    """The serving node's signature of 64 bytes."""
    return identity.sign(REPLY_DOMAIN, statement.encode())


def verify_statement(key: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether the node with Ed25519 `key` signed the encoded `statement`; never raises."""
    return verify(key, REPLY_DOMAIN, statement, signature)


def verify_reply(key: bytes, chain_id: str, request_body: bytes, text: str, end: End) -> bool:
    """Whether the node with Ed25519 `key` signed that it answered `request_body` with `text` and
    with all else that `end` says."""
    statement = state_reply(chain_id, request_body, text, end.finish_reason, end.model, end.usage)
    return verify_statement(key, statement.encode(), end.signature)


_to_json = json.JSONEncoder(separators=(",", ":")).encode


def _line(value: Mapping[str, Any]) -> bytes:
    return _to_json(value).encode() + b"\n"


def _parse_event(line: bytes) -> ReplyEvent:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("a reply's line is not JSON in UTF-8") from error
    if not isinstance(value, dict) or len(value) != 1:
        raise RemoteProtocolError("a reply's line is not one event")
    ((kind, content),) = value.items()
    if kind == "delta":
        return Delta(_string(content, MAX_LINE_BYTES))
    if not isinstance(content, dict):
        raise RemoteProtocolError("a reply's event has no fields")
    if kind == "accepted":
        return Accepted(NodeId(_hex(content.get("entry"), NODE_ID_BYTES)))
    if kind == "end":
        return _parse_end(content)
    if kind == "error":
        return _parse_failed(content)
    raise RemoteProtocolError("a reply holds an unknown event")


def _parse_end(content: Mapping[str, Any]) -> End:
    usage = content.get("usage")
    if content.get("finish_reason") not in FINISH_REASONS or not isinstance(usage, dict):
        raise RemoteProtocolError("a reply's end says neither why nor how much")
    return End(
        node=NodeId(_hex(content.get("node"), NODE_ID_BYTES)),
        model=_string(content.get("model"), MAX_MODEL_CHARACTERS),
        finish_reason=content["finish_reason"],
        usage=Usage(
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
            _count(usage.get("cached_tokens")),
        ),
        signature=_hex(content.get("signature"), SIGNATURE_BYTES),
    )


def _parse_failed(content: Mapping[str, Any]) -> Failed:
    if content.get("code") not in ERROR_CODES:
        raise RemoteProtocolError("a reply's error has an unknown code")
    retry_after_s = content.get("retry_after_s")
    if retry_after_s is not None and _count(retry_after_s) > MAX_RETRY_AFTER_S:
        raise RemoteProtocolError("a reply's error asks to wait too long")
    message = _string(content.get("message"), MAX_ERROR_CHARACTERS)
    return Failed(content["code"], message, retry_after_s)


def _string(value: Any, max_characters: int) -> str:
    if not isinstance(value, str) or len(value) > max_characters or not is_unicode(value):
        raise RemoteProtocolError("a reply's text is missing, too long or not Unicode")
    return value


def _hex(value: Any, size: int) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise RemoteProtocolError(f"a reply's field is not the hex of {size} bytes")
    return data


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_COUNT:
        raise RemoteProtocolError("a reply's count is not a small natural number")
    return value

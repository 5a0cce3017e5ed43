"""What the model nodes of a group send each other over CURVE: canonical MessagePack maps.

    entry -> serving   request {id, body}       body is the client's JSON, passed on unchanged
                       credit  {id, events}     that many more events of a request may come
                       cancel  {id}             nobody reads the reply any more
                       load    {running, waiting, capacity, queued_tokens, prefill_us, decode_us,
                                hold_ms, yours, cache_tokens, serving}
                                                    the sender's own load, when it changes
                       sync    a list, not a map: what the sender's engine holds, and questions
                                                about it (core.sync_messages)
                       ping    {number}         to be answered at once
                       ask     {node}           do you hear from that node?
    serving -> entry   event   {id, data}       lines of the reply stream: those that are there
                       gone    {id}             the reply ends here, without an end of its own
                       pong    {number, incarnation}
                       vouch   {node, incarnation, age_ms}    it answered that long ago

`id` is 16 bytes of the entry's choosing. A serving node may send `WINDOW_EVENTS` events of a
request before the first credit, so a slow reader holds up its own request and nothing else.
What a load says is in `modelnode.core.load.Report`; 0 where it is not measured yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from modelnode.core.load import Report
from modelnode.core.sync_messages import MAX_SYNC_BYTES
from planetserve.encoding import EncodingError, decode, encode
from planetserve.keys import NODE_ID_BYTES, NodeId
from planetserve.messages import MAX_BODY_BYTES, MAX_LINE_BYTES

REQUEST_ID_BYTES = 16
WINDOW_EVENTS = 64
MAX_EVENT_BYTES = MAX_LINE_BYTES + 1
MAX_MESSAGE_BYTES = MAX_BODY_BYTES + 256
MAX_LOAD = 1 << 20
MAX_CAPACITY = 1 << 12
MAX_QUEUED_TOKENS = 1 << 32
MAX_CACHE_TOKENS = 1 << 40
MAX_TOKEN_US = 100_000_000
MAX_HOLD_MS = 3_600_000
MAX_NUMBER = (1 << 63) - 1
MAX_AGE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Request:
    id: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Credit:
    id: bytes
    events: int


@dataclass(frozen=True, slots=True)
class Cancel:
    id: bytes


@dataclass(frozen=True, slots=True)
class Load:
    report: Report


@dataclass(frozen=True, slots=True)
class Sync:
    """As it is encoded; `modelnode.core.sync_group` reads it."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    number: int


@dataclass(frozen=True, slots=True)
class Ask:
    node: NodeId


@dataclass(frozen=True, slots=True)
class Event:
    id: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Gone:
    id: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    number: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Vouch:
    node: NodeId
    incarnation: int
    age_ms: int


GroupMessage: TypeAlias = (
    "Request | Credit | Cancel | Load | Sync | Ping | Ask | Event | Gone | Pong | Vouch"
)


def encode_message(message: GroupMessage) -> bytes:
    kind = type(message).__name__.lower()
    if isinstance(message, Sync):
        return message.data
    said = message.report if isinstance(message, Load) else message
    return encode({"kind": kind, **{name: getattr(said, name) for name in said.__slots__}})


def decode_message(data: bytes) -> GroupMessage:
    """Raises `RemoteProtocolError` (an `EncodingError`) on anything but one of the messages."""
    if data[:1] in _LISTS and len(data) <= MAX_SYNC_BYTES:
        return Sync(data)
    value = decode(data, max_bytes=MAX_MESSAGE_BYTES)
    if not isinstance(value, dict):
        raise EncodingError("a group message is not a map")
    kind = value.pop("kind", None)
    form = _FORMS.get(kind) if isinstance(kind, str) else None
    if form is None:
        raise EncodingError("a group message is of no known kind")
    if value.keys() != form.checks.keys():
        raise EncodingError("a group message has not exactly its fields")
    return form.make(**{name: check(value[name]) for name, check in form.checks.items()})


_LISTS = frozenset(bytes((first,)) for first in range(0x92, 0x99))
"""First bytes of lists of two to eight in MessagePack; all other messages are maps."""

Check: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Form:
    """How a kind of message is read: a check for each field, and what is made of them."""

    make: Callable[..., GroupMessage]
    checks: Mapping[str, Check]


def _id(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != REQUEST_ID_BYTES:
        raise EncodingError(f"a request id has {REQUEST_ID_BYTES} bytes")
    return value


def _node(value: Any) -> NodeId:
    if not isinstance(value, bytes) or len(value) != NODE_ID_BYTES:
        raise EncodingError(f"a node's id has {NODE_ID_BYTES} bytes")
    return NodeId(value)


def _bytes(max_bytes: int) -> Check:
    def check(value: Any) -> bytes:
        if not isinstance(value, bytes) or len(value) > max_bytes:
            raise EncodingError(f"a field must hold at most {max_bytes} bytes")
        return value

    return check


def _number(limit: int, least: int = 0) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= limit:
            raise EncodingError(f"a field must be an integer from {least} to {limit}")
        return value

    return check


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise EncodingError("a field must be true or false")
    return value


def _load(**report: Any) -> Load:
    return Load(Report(**report))


_NUMBER = _number(MAX_NUMBER)
_FORMS: Mapping[str, _Form] = {
    "request": _Form(Request, {"id": _id, "body": _bytes(MAX_BODY_BYTES)}),
    "credit": _Form(Credit, {"id": _id, "events": _number(WINDOW_EVENTS)}),
    "cancel": _Form(Cancel, {"id": _id}),
    "load": _Form(
        _load,
        {
            "running": _number(MAX_LOAD),
            "waiting": _number(MAX_LOAD),
            "capacity": _number(MAX_CAPACITY, 1),
            "queued_tokens": _number(MAX_QUEUED_TOKENS),
            "prefill_us": _number(MAX_TOKEN_US),
            "decode_us": _number(MAX_TOKEN_US),
            "hold_ms": _number(MAX_HOLD_MS),
            "yours": _number(MAX_LOAD),
            "cache_tokens": _number(MAX_CACHE_TOKENS),
            "serving": _bool,
        },
    ),
    "ping": _Form(Ping, {"number": _NUMBER}),
    "ask": _Form(Ask, {"node": _node}),
    "event": _Form(Event, {"id": _id, "data": _bytes(MAX_EVENT_BYTES)}),
    "gone": _Form(Gone, {"id": _id}),
    "pong": _Form(Pong, {"number": _NUMBER, "incarnation": _NUMBER}),
    "vouch": _Form(Vouch, {"node": _node, "incarnation": _NUMBER, "age_ms": _number(MAX_AGE_MS)}),
}

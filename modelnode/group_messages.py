"""What the model nodes of a group send each other over CURVE: canonical MessagePack maps.

    entry -> serving   request {id, body}       body is the client's JSON, passed on unchanged
                       credit  {id, events}     that many more events of a request may come
                       cancel  {id}             nobody reads the reply any more
                       load    {running, waiting, capacity}   once a second, also a sign of life
    serving -> entry   event   {id, data}       lines of the reply stream: those that are there

`id` is 16 bytes of the entry's choosing. A serving node may send `WINDOW_EVENTS` events of a
request before the first credit, so a slow reader holds up its own request and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from modelnode.balancing import NodeLoad
from planetserve.encoding import EncodingError, decode, encode
from planetserve.messages import MAX_BODY_BYTES, MAX_LINE_BYTES

REQUEST_ID_BYTES = 16
WINDOW_EVENTS = 64
MAX_EVENT_BYTES = MAX_LINE_BYTES + 1
MAX_MESSAGE_BYTES = MAX_BODY_BYTES + 256
MAX_LOAD = 1 << 20


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
    load: NodeLoad


@dataclass(frozen=True, slots=True)
class Event:
    id: bytes
    data: bytes


GroupMessage: TypeAlias = "Request | Credit | Cancel | Load | Event"


def encode_message(message: GroupMessage) -> bytes:
    match message:
        case Request(identifier, body):
            return encode({"kind": "request", "id": identifier, "body": body})
        case Credit(identifier, events):
            return encode({"kind": "credit", "id": identifier, "events": events})
        case Cancel(identifier):
            return encode({"kind": "cancel", "id": identifier})
        case Event(identifier, data):
            return encode({"kind": "event", "id": identifier, "data": data})
        case Load(load):
            return encode(
                {
                    "kind": "load",
                    "running": load.running,
                    "waiting": load.waiting,
                    "capacity": load.capacity,
                }
            )


def decode_message(data: bytes) -> GroupMessage:
    """Raises `RemoteProtocolError` (an `EncodingError`) on anything but one of the messages."""
    fields = decode(data, max_bytes=MAX_MESSAGE_BYTES)
    if not isinstance(fields, dict):
        raise EncodingError("a group message is not a map")
    match fields:
        case {"kind": "request", "id": identifier, "body": body, **rest} if not rest:
            return Request(_id(identifier), _bytes(body, MAX_BODY_BYTES))
        case {"kind": "credit", "id": identifier, "events": events, **rest} if not rest:
            return Credit(_id(identifier), _number(events, WINDOW_EVENTS))
        case {"kind": "cancel", "id": identifier, **rest} if not rest:
            return Cancel(_id(identifier))
        case {"kind": "event", "id": identifier, "data": line, **rest} if not rest:
            return Event(_id(identifier), _bytes(line, MAX_EVENT_BYTES))
        case {
            "kind": "load",
            "running": running,
            "waiting": waiting,
            "capacity": capacity,
            **rest,
        } if not rest:
            numbers = (_number(value, MAX_LOAD) for value in (running, waiting, capacity))
            return Load(NodeLoad(*numbers))
    raise EncodingError("a group message is of no known kind")


def _id(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != REQUEST_ID_BYTES:
        raise EncodingError(f"a request id has {REQUEST_ID_BYTES} bytes")
    return value


def _bytes(value: Any, max_bytes: int) -> bytes:
    if not isinstance(value, bytes) or len(value) > max_bytes:
        raise EncodingError(f"a field must hold at most {max_bytes} bytes")
    return value


def _number(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise EncodingError(f"a field must be an integer from 0 to {limit}")
    return value

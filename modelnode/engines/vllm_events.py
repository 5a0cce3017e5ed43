"""What vLLM tells of its KV cache over ZeroMQ: which blocks it stored and which it let go.

A message has a topic, a number that counts up from 0 with the server's start, and a batch in
MessagePack, `[time, [event, ...], rank]`. Source: vLLM, `distributed/kv_events.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
import zmq
import zmq.asyncio

from planetserve.errors import ConfigurationError, RemoteProtocolError
from planetserve.logs import get_logger

MAX_MESSAGE_BYTES = 16 << 20
MAX_QUEUED_MESSAGES = 1000

BlockHash: TypeAlias = "int | bytes"

log = get_logger()


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """A chain of blocks that follows the block `parent`, None at the beginning of a prompt;
    `tokens` are those of all its blocks, `block_tokens` in each."""

    blocks: tuple[BlockHash, ...]
    parent: BlockHash | None
    tokens: tuple[int, ...]
    block_tokens: int


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    blocks: tuple[BlockHash, ...]


@dataclass(frozen=True, slots=True)
class CacheCleared:
    """The cache is empty: it was emptied, or the server was started again."""


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """Some events did not reach us: what we know of the cache may be wrong."""


KvEvent: TypeAlias = "BlocksStored | BlocksRemoved | CacheCleared | EventsMissed"


class EventReader:
    """Reads one server's messages in the order in which they come."""

    def __init__(self) -> None:
        self._expected = 0

    def read(self, frames: Sequence[bytes]) -> list[KvEvent]:
        """Raises `RemoteProtocolError` for what is no such message."""
        if len(frames) != 3 or len(frames[1]) != 8:
            raise RemoteProtocolError("a KV event message has a topic, a number and a batch")
        number = int.from_bytes(frames[1], "big")
        events = decode_batch(frames[2])
        expected, self._expected = self._expected, number + 1
        if number == expected:
            return events
        return [CacheCleared() if number == 0 else EventsMissed(), *events]


def decode_batch(data: bytes) -> list[KvEvent]:
    """Events of blocks that were put aside, outside of the cache itself, are left out. Raises
    `RemoteProtocolError`."""
    try:
        batch = msgpack.unpackb(data)
        return [event for item in batch[1] if (event := _event(item)) is not None]
    except (ValueError, KeyError, IndexError, TypeError, msgpack.UnpackException) as error:
        raise RemoteProtocolError("a batch of KV events cannot be read") from error


def _event(item: Any) -> KvEvent | None:
    if not isinstance(item, dict):
        raise ValueError("an event is no map")
    if item.get("medium") not in (None, "GPU"):
        return None
    match item["type"]:
        case "BlockStored":
            parent = item["parent_block_hash"]
            return BlocksStored(
                _hashes(item["block_hashes"]),
                None if parent is None else _hashes([parent])[0],
                _integers(item["token_ids"]),
                _integers([item["block_size"]])[0],
            )
        case "BlockRemoved":
            return BlocksRemoved(_hashes(item["block_hashes"]))
        case "AllBlocksCleared":
            return CacheCleared()
    return None


def _hashes(values: Any) -> tuple[BlockHash, ...]:
    if not isinstance(values, list) or not all(type(value) in (int, bytes) for value in values):
        raise ValueError("a block's hash is a number or bytes")
    return tuple(values)


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError("not a list of integers")
    return tuple(values)


def subscribe(endpoint: str, context: zmq.asyncio.Context) -> zmq.asyncio.Socket:
    """Raises `ConfigurationError` for what is no endpoint. A server that is started again is
    connected to again."""
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, MAX_QUEUED_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigurationError(f"no KV events come from {endpoint}: {error}") from error
    return socket


async def follow_events(
    socket: zmq.asyncio.Socket, receive: Callable[[Sequence[KvEvent]], None]
) -> None:
    """Hand what comes to `receive`, until cancelled."""
    reader = EventReader()
    while True:
        frames = await socket.recv_multipart()
        try:
            events = reader.read(frames)
        except RemoteProtocolError as error:
            log.warning("kv_events_refused", reason=str(error))
            continue
        receive(events)

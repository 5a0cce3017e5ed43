"""Canonical MessagePack: one value has exactly one encoding.

What is signed or hashed must have a single form, so `decode` re-encodes what it read and refuses
the bytes when they differ. Allowed: nil, bool, int within 64 bits, str, bytes, list, and maps
with string keys in ascending order. Floats, extension types and duplicate keys are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgpack

from planetserve.errors import RemoteProtocolError

Value: TypeAlias = "bool | int | str | bytes | list[Value] | dict[str, Value] | None"

MAX_DEPTH = 16
LARGE_BYTES = 64 << 10
LEAST_CONTAINER_BYTES = 16
"""So many bytes each list or map has in a large value, on average: an empty one is one byte that
takes sixty in memory."""


class EncodingError(RemoteProtocolError):
    """The bytes are not canonical MessagePack."""


def encode(value: Any) -> bytes:
    """Encode `value` canonically. Raises `EncodingError` for a type that has no canonical form."""
    try:
        packed: bytes = msgpack.packb(value if _in_order(value, 0) else _canonical(value, 0))
    except (OverflowError, ValueError, UnicodeEncodeError) as error:
        raise EncodingError("a value has no canonical encoding") from error
    return packed


def decode(data: bytes, *, max_bytes: int = 1 << 20) -> Any:
    """Decode canonical MessagePack of at most `max_bytes`. Raises `EncodingError`."""
    if len(data) > max_bytes:
        raise EncodingError(f"{len(data)} bytes are more than the {max_bytes} allowed")
    try:
        _require_contents(data)
        if len(data) > LARGE_BYTES:
            value = _unpack_sparse(data)
        else:
            value = msgpack.unpackb(data, strict_map_key=False, ext_hook=_refuse_extension)
    except EncodingError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise EncodingError("the bytes are not MessagePack") from error
    # A key that a map names twice is in the value once, which packing then shows.
    if not _in_order(value, 0) or msgpack.packb(value) != data:
        raise EncodingError("the bytes are MessagePack but not in canonical form")
    return value


def _require_contents(data: bytes) -> None:
    """Raises when lists, maps or texts are announced that are longer than what follows. A reader
    makes room for what is announced, level below level."""
    unpacker = msgpack.Unpacker(None, max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


def _unpack_sparse(data: bytes) -> Any:
    left = len(data) // LEAST_CONTAINER_BYTES

    def count(container: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise EncodingError("a large value has too many lists and maps")
        return container

    return msgpack.unpackb(
        data,
        strict_map_key=False,
        ext_hook=_refuse_extension,
        list_hook=count,
        object_hook=count,
    )


_PLAIN = frozenset({bytes, str, bool, type(None)})


def _in_order(value: Any, depth: int) -> bool:
    """Whether packing `value` as it is gives the canonical form. Every transaction passes here,
    so what is in order is not copied; of what is not, `_canonical` makes the best."""
    kind = type(value)
    if depth > MAX_DEPTH:
        return False
    if kind is dict:
        if depth == MAX_DEPTH and value:
            return False
        last: str | None = None
        for key, item in value.items():
            if type(key) is not str or (last is not None and key <= last):
                return False
            last = key
            if type(item) not in _PLAIN and not _in_order(item, depth + 1):
                return False
        return True
    if kind is list:
        if depth == MAX_DEPTH and value:
            return False
        return all(type(item) in _PLAIN or _in_order(item, depth + 1) for item in value)
    if kind is int:
        return bool(-(1 << 63) <= value < 1 << 63)
    return kind in _PLAIN


def _canonical(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise EncodingError(f"values nest deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, (bool, str, bytes)):
        return value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise EncodingError("an integer exceeds 64 bits")
        return value
    if isinstance(value, (list, tuple)):
        return [_canonical(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise EncodingError("a map has a key that is not a string")
        return {key: _canonical(value[key], depth + 1) for key in sorted(value)}
    raise EncodingError(f"{type(value).__name__} has no canonical encoding")


def _refuse_extension(code: int, data: bytes) -> Any:
    raise EncodingError(f"extension type {code} is not allowed")

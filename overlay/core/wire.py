"""Frames: the only thing that overlay links carry, always 2,048 bytes.

    frame = link id 8 | kind 1 | body 2,039

kind        value  body
──────────  ─────  ──────────────────────────────────────────────────────────────────────
SETUP           1  the set-up of a path (`overlay.core.setup`)
CELL            2  a cell of a path (`overlay.core.layer`)
CLOSE           3  why the path ended (`overlay.core.reasons`)
STREAM          4  length 2 | chunk, at most 1,970 | zeros; last relay and model node
STREAM_END      5  the same as CLOSE, of a stream

The link id is drawn by whoever dialled, for each path and each stream anew; under it frames go
outwards, and under `backward_id` of it they come back. A link is encrypted (CURVE), so that all
frames look alike to who watches it.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from planetserve.errors import RemoteProtocolError

FRAME_BYTES = 2048
ID_BYTES = 8
HEADER_BYTES = ID_BYTES + 1
BODY_BYTES = FRAME_BYTES - HEADER_BYTES
MAX_CHUNK_BYTES = 1970

SETUP = 1
CELL = 2
CLOSE = 3
STREAM = 4
STREAM_END = 5
KINDS = frozenset((SETUP, CELL, CLOSE, STREAM, STREAM_END))

_BACKWARD = b"planetserve/backward/v2\0"
_LENGTH_BYTES = 2
_ZEROS = bytes(BODY_BYTES)


class CellError(RemoteProtocolError):
    """Bytes that are no frame or cell, or not one that may come here now."""


class Frame(NamedTuple):
    link_id: bytes
    kind: int
    body: bytes


def encode_frame(link_id: bytes, kind: int, body: bytes) -> bytes:
    return b"".join((link_id, bytes((kind,)), body))


def decode_frame(data: bytes) -> Frame:
    """Raises `CellError` for a wrong size or an unknown kind."""
    if len(data) != FRAME_BYTES or data[ID_BYTES] not in KINDS:
        raise CellError("not a frame")
    return Frame(data[:ID_BYTES], data[ID_BYTES], data[HEADER_BYTES:])


def backward_id(link_id: bytes) -> bytes:
    """The id of the other direction. Both ends can compute it; without the one nobody can tell
    that the two belong together."""
    return hashlib.sha256(_BACKWARD + link_id).digest()[:ID_BYTES]


def stream_frame(link_id: bytes, chunk: bytes) -> bytes:
    """Raises `ValueError` for a chunk that is too long."""
    if len(chunk) > MAX_CHUNK_BYTES:
        raise ValueError("the chunk does not fit a frame")
    body = (len(chunk).to_bytes(_LENGTH_BYTES, "big") + chunk).ljust(BODY_BYTES, b"\0")
    return encode_frame(link_id, STREAM, body)


def read_chunk(body: bytes) -> bytes:
    """The chunk of a STREAM. Raises `CellError`."""
    length = int.from_bytes(body[:_LENGTH_BYTES], "big")
    end = _LENGTH_BYTES + length
    if length > MAX_CHUNK_BYTES or body[end:] != _ZEROS[end:]:
        raise CellError("a chunk is too long, or not padded with zeros")
    return body[_LENGTH_BYTES:end]

"""What a path's owner and its last relay say to each other inside all layers: 1,975 bytes.

    command 1 | stream 2 | length 2 | data, at most 1,970 | zeros

command      value  direction  stream  data
───────────  ─────  ─────────  ──────  ─────────────────────────────────────────────────────
OPEN             1  out        yes     target node id 20 | first chunk, at most 1,950
DATA             2  both       yes     chunk
END              3  both       yes     reason 1
CREDIT           4  both       no      cells 2
PING             5  out        no      8 bytes
PONG             6  back       no      the 8 bytes of the PING
PAD              7  both       no      nothing; it is dropped
ESTABLISHED     16  back       no      version 2 | forward window 2 | backward window 2
ERROR           17  back       no      reason 1 | detail (`overlay.core.reasons`)

A stream carries bytes between the owner and one model node. The owner numbers the streams of a
path from 1 on and uses each number once; 0 stands for the path itself.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from overlay.core.layer import PAYLOAD_BYTES
from overlay.core.wire import CellError
from planetserve.keys import NODE_ID_BYTES

VERSION = 2
HEAD = struct.Struct(">BHH")
"""Command, stream, how many bytes of data."""
HEADER_BYTES = HEAD.size
CHUNK_BYTES = PAYLOAD_BYTES - HEADER_BYTES
OPEN_CHUNK_BYTES = CHUNK_BYTES - NODE_ID_BYTES
PING_BYTES = 8
MAX_STREAM = 0xFFFF

OPEN = 1
DATA = 2
END = 3
CREDIT = 4
PING = 5
PONG = 6
PAD = 7
ESTABLISHED = 16
ERROR = 17

OUTWARD = frozenset((OPEN, DATA, END, CREDIT, PING, PAD))
"""What an owner may say to the last relay."""
BACKWARD = frozenset((DATA, END, CREDIT, PONG, PAD, ESTABLISHED, ERROR))
"""What a relay may say to the owner."""
CREDITED = frozenset((OPEN, DATA))
"""What takes a credit; see `overlay.core.credit`."""

_DATA_BYTES = {
    OPEN: (NODE_ID_BYTES, CHUNK_BYTES),
    DATA: (0, CHUNK_BYTES),
    END: (1, 1),
    CREDIT: (2, 2),
    PING: (PING_BYTES, PING_BYTES),
    PONG: (PING_BYTES, PING_BYTES),
    PAD: (0, 0),
    ESTABLISHED: (5, 5),
    ERROR: (1, 65),
}
"""Least and most bytes of data by command."""
_OF_A_STREAM = frozenset((OPEN, DATA, END))
_ZEROS = bytes(CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Payload:
    command: int
    stream: int = 0
    data: bytes = b""


def encode_payload(payload: Payload) -> bytes:
    """Raises `ValueError` for a payload that `decode_payload` would refuse."""
    fault = _fault(payload.command, payload.stream, len(payload.data))
    if fault or payload.stream > MAX_STREAM:
        raise ValueError(fault or "a stream's number is too large")
    head = HEAD.pack(payload.command, payload.stream, len(payload.data))
    return (head + payload.data).ljust(PAYLOAD_BYTES, b"\0")


def decode_payload(data: bytes) -> Payload:
    """Raises `CellError`; every accepted payload encodes to the same bytes again."""
    if len(data) != PAYLOAD_BYTES:
        raise CellError("a payload has the wrong size")
    command, stream, length = HEAD.unpack_from(data)
    fault = _fault(command, stream, length)
    if fault:
        raise CellError(fault)
    end = HEADER_BYTES + length
    if data[end:] != _ZEROS[length:]:
        raise CellError("a payload is not padded with zeros")
    return Payload(command, stream, data[HEADER_BYTES:end])


def established(forward_window: int, backward_window: int) -> Payload:
    """`forward_window` cells may come before the relay grants more, `backward_window` go."""
    windows = forward_window.to_bytes(2, "big") + backward_window.to_bytes(2, "big")
    return Payload(ESTABLISHED, data=bytes((VERSION,)) + windows)


def read_established(payload: Payload) -> tuple[int, int]:
    """The forward and the backward window. Raises `CellError` for another version."""
    if payload.data[0] != VERSION:
        raise CellError("a relay speaks another version")
    return int.from_bytes(payload.data[1:3], "big"), int.from_bytes(payload.data[3:5], "big")


def credit(cells: int) -> Payload:
    """The other end may send `cells` more cells than it could so far."""
    return Payload(CREDIT, data=cells.to_bytes(2, "big"))


def _fault(command: int, stream: int, length: int) -> str:
    if command not in _DATA_BYTES:
        return "a payload has an unknown command"
    if (stream != 0) != (command in _OF_A_STREAM):
        return "a payload names a stream where none may be, or none where one must"
    least, most = _DATA_BYTES[command]
    if not least <= length <= most:
        return "the data of a payload has the wrong length"
    return ""

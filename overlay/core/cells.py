"""Cells: the only thing that overlay links carry, always 2,048 bytes.

    offset  size  field
         0    16  link id, fresh for every link and direction of a path
        16     1  command
        17     8  counter, big endian, masked per hop and direction
        25  2023  body

A body is an onion (SETUP, see `overlay.core.onion`), a layered ciphertext (DATA, see
`overlay.core.layers`) or, on the link between the last relay and a model node, a chunk of
sealed bytes (EXCHANGE). Unused room is random, so that no byte tells what a cell holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from overlay.core.wire import CellError as CellError

CELL_BYTES = 2048
LINK_ID_BYTES = 16
COUNTER_BYTES = 8
HEADER_BYTES = LINK_ID_BYTES + 1 + COUNTER_BYTES
BODY_BYTES = CELL_BYTES - HEADER_BYTES

SETUP = 0
DATA = 1
CLOSE = 2
EXCHANGE = 3
EXCHANGE_END = 4
COMMANDS = (SETUP, DATA, CLOSE, EXCHANGE, EXCHANGE_END)

EXCHANGE_CHUNK_BYTES = BODY_BYTES - 2


@dataclass(frozen=True, slots=True)
class Cell:
    """One decoded cell; `counter` is as it stood on the wire."""

    link_id: bytes
    command: int
    counter: int
    body: bytes

    def encode(self) -> bytes:
        return b"".join(
            (
                self.link_id,
                bytes((self.command,)),
                self.counter.to_bytes(COUNTER_BYTES, "big"),
                self.body,
            )
        )


def decode_cell(frame: bytes) -> Cell:
    """Raises `CellError` for a wrong size or an unknown command."""
    if len(frame) != CELL_BYTES:
        raise CellError("a cell has exactly 2048 bytes")
    command = frame[LINK_ID_BYTES]
    if command not in COMMANDS:
        raise CellError("unknown cell command")
    counter = int.from_bytes(frame[LINK_ID_BYTES + 1 : HEADER_BYTES], "big")
    return Cell(frame[:LINK_ID_BYTES], command, counter, frame[HEADER_BYTES:])


def backward_id(forward_id: bytes) -> bytes:
    """The id under which a link carries the other direction of the path that `forward_id`
    names. Both ends of the link can compute it, nobody else can tell that they belong together."""
    return hashlib.sha256(b"planetserve/backward/v1\0" + forward_id).digest()[:LINK_ID_BYTES]


def chunk_body(chunk: bytes, padding: bytes) -> bytes:
    """The body of an EXCHANGE cell: two bytes of length, the chunk, then `padding`, cut to fit."""
    if len(chunk) > EXCHANGE_CHUNK_BYTES:
        raise ValueError("the chunk does not fit a cell")
    body = len(chunk).to_bytes(2, "big") + chunk
    return body + padding[: BODY_BYTES - len(body)]


def read_chunk(body: bytes) -> bytes:
    """The chunk of an EXCHANGE body. Raises `CellError`."""
    length = int.from_bytes(body[:2], "big")
    if length > len(body) - 2:
        raise CellError("a chunk claims more bytes than its cell holds")
    return body[2 : 2 + length]

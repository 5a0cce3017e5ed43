"""What the owner of a path and its last relay say to each other inside all layers.

    payload = command | 8 bytes exchange id | 20 bytes target | 2 bytes length | chunk | padding

An exchange is one stream of bytes between the owner and one model node over this path. The
owner names the target in each DELIVER; the relay opens the exchange at the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from overlay.core.cells import CellError
from planetserve.keys import NODE_ID_BYTES

EXCHANGE_ID_BYTES = 8
HEADER_BYTES = 1 + EXCHANGE_ID_BYTES + NODE_ID_BYTES + 2

ESTABLISHED = 1
"""Relay to owner: every hop has its keys."""
DELIVER = 2
"""Owner to relay: pass the chunk to the target."""
REPLY = 3
"""Relay to owner: a chunk from the target."""
END = 4
"""Either way: the exchange is over; to the owner it means that the target cannot be reached."""
PADDING = 5
"""Either way: nothing."""
COMMANDS = (ESTABLISHED, DELIVER, REPLY, END, PADDING)

NO_EXCHANGE = bytes(EXCHANGE_ID_BYTES)
NO_TARGET = bytes(NODE_ID_BYTES)


@dataclass(frozen=True, slots=True)
class ExitPayload:
    command: int
    exchange: bytes = NO_EXCHANGE
    target: bytes = NO_TARGET
    chunk: bytes = b""

    def encode(self, size: int, padding: bytes) -> bytes:
        """Exactly `size` bytes; `padding` supplies what the chunk leaves free."""
        head = bytes((self.command,)) + self.exchange + self.target
        filled = head + len(self.chunk).to_bytes(2, "big") + self.chunk
        if len(filled) > size:
            raise ValueError("the chunk does not fit")
        return filled + padding[: size - len(filled)]


def chunk_bytes(payload_bytes: int) -> int:
    """How much of a payload of `payload_bytes` a chunk may fill."""
    return payload_bytes - HEADER_BYTES


def decode_payload(data: bytes) -> ExitPayload:
    """Raises `CellError`."""
    if len(data) < HEADER_BYTES or data[0] not in COMMANDS:
        raise CellError("a payload with an unknown command")
    target_start = 1 + EXCHANGE_ID_BYTES
    length_start = target_start + NODE_ID_BYTES
    length = int.from_bytes(data[length_start:HEADER_BYTES], "big")
    if length > len(data) - HEADER_BYTES:
        raise CellError("a payload claims more bytes than it has")
    return ExitPayload(
        data[0],
        data[1:target_start],
        data[target_start:length_start],
        data[HEADER_BYTES : HEADER_BYTES + length],
    )

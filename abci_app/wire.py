"""ABCI's socket framing: the length as an unsigned LEB128 varint, then a protobuf message.

A sans-I/O decoder, so that it can be tested with bytes. CometBFT writes the same framing in
`libs/protoio`.
"""

from __future__ import annotations

MAX_MESSAGE_BYTES = 128 << 20
"""More than any request: a block is at most 100 MB in CometBFT."""
MAX_LENGTH_BYTES = 5


class FramingError(Exception):
    """The peer does not speak the protocol; its connection is of no more use."""


def encode_frame(message: bytes) -> bytes:
    length = len(message)
    if length < 0x80:
        return bytes((length,)) + message
    prefix = bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + message


class FrameDecoder:
    """Feed it bytes as they come; it gives back whole messages in order."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_message_bytes = max_message_bytes
        self._buffer = bytearray()

    @property
    def pending_bytes(self) -> int:
        """Bytes of a message that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `FramingError` for a length that is malformed or beyond the limit."""
        self._buffer += data
        messages: list[bytes] = []
        position = 0
        while (header := self._length_at(position)) is not None:
            length, start = header
            if len(self._buffer) < start + length:
                break
            messages.append(bytes(self._buffer[start : start + length]))
            position = start + length
        del self._buffer[:position]
        return messages

    def _length_at(self, position: int) -> tuple[int, int] | None:
        """The length and the start of the message at `position`; None when more is needed."""
        length = 0
        for index in range(MAX_LENGTH_BYTES):
            if position + index >= len(self._buffer):
                return None
            byte = self._buffer[position + index]
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if length > self._max_message_bytes:
                    raise FramingError(f"a message of {length} bytes exceeds the limit")
                return length, position + index + 1
        raise FramingError("a message's length is not a varint of 32 bits")

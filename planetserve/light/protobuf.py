"""The few forms of protobuf that hashes and signatures of CometBFT and ICS-23 are made over.

Fields are written in ascending order and those with a default value left out, which is what
Go's encoder does; the numbers stand for the wire types of the protobuf encoding specification.
"""

from __future__ import annotations

VARINT, FIXED64, LENGTH_DELIMITED = 0, 1, 2
NANOSECONDS = 1_000_000_000


def varint(number: int) -> bytes:
    """An unsigned LEB128; a negative number is written as its two's complement in 64 bits."""
    if number < 0:
        number += 1 << 64
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def integer(field: int, number: int) -> bytes:
    """A field of type int32, int64, uint32, uint64, bool or enum."""
    return varint(field << 3 | VARINT) + varint(number) if number else b""


def fixed64(field: int, number: int) -> bytes:
    """A field of type sfixed64."""
    if not number:
        return b""
    return varint(field << 3 | FIXED64) + number.to_bytes(8, "little", signed=True)


def data(field: int, content: bytes) -> bytes:
    """A field of type bytes or string."""
    return message(field, content) if content else b""


def message(field: int, content: bytes) -> bytes:
    """A field that holds another message, which is written also when that is empty."""
    return varint(field << 3 | LENGTH_DELIMITED) + varint(len(content)) + content


def timestamp(time_ns: int) -> bytes:
    """A google.protobuf.Timestamp, from nanoseconds since 1970."""
    seconds, nanoseconds = divmod(time_ns, NANOSECONDS)
    return integer(1, seconds) + integer(2, nanoseconds)


def delimited(content: bytes) -> bytes:
    """A message after its length, as signatures are made over it."""
    return varint(len(content)) + content

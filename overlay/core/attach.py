"""Taking up a running answer over a new path, in place of one that was lost.

    attach    = 0 and i 1 | attach number 1 | next frame 4 | zeros, 1,884 bytes together

An attach is sealed to the model node in the place of a clove (`overlay.core.request`), behind the
message id, and as long as one of a request of one cell. So a last relay that carries it sees what
it sees of any short question, and nothing that the last relay before it saw. Only who made the
request knows its message id, which never was in clear: by it the model node believes the attach.
It takes each number of a clove once and in rising order; some may be lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from planetserve.errors import RemoteProtocolError

HEADER_BYTES = 6
ATTACH_BYTES = 1_884
MAX_ATTACHES = 8
"""How often the frames of one clove are taken up again; each time costs a window of frames."""
MAX_INDEX = 15


class AttachError(RemoteProtocolError):
    """An attach that is malformed."""


@dataclass(frozen=True, slots=True)
class Attach:
    """The owner of clove `index` wants the frames from `next_frame` on; its attaches are numbered
    from 0."""

    index: int
    number: int
    next_frame: int


def is_attach(content: bytes) -> bool:
    """Whether what is behind a message id is an attach and no clove, which has a version."""
    return content[:1] != b"" and content[0] <= MAX_INDEX


def encode(attach: Attach) -> bytes:
    head = bytes((attach.index, attach.number)) + attach.next_frame.to_bytes(4, "big")
    return head.ljust(ATTACH_BYTES, b"\0")


def decode(content: bytes) -> Attach:
    """Raises `AttachError`; every accepted attach encodes to the same bytes again."""
    if len(content) != ATTACH_BYTES or not is_attach(content):
        raise AttachError("these bytes are not an attach")
    if content[1] >= MAX_ATTACHES or content[HEADER_BYTES:] != bytes(ATTACH_BYTES - HEADER_BYTES):
        raise AttachError("an attach with too high a number, or that is not padded with zeros")
    return Attach(content[0], content[1], int.from_bytes(content[2:HEADER_BYTES], "big"))

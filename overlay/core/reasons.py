"""Why a path, a stream or a set-up ended: one table for CLOSE, ERROR and END.

    CLOSE body   reason 1 | length of detail 1 | detail | zeros
    ERROR data   reason 1 | detail
    END data     reason 1

The detail of a reason has one length; what it says is for the client to act on:

    PERIOD        the relay's own period 4
    UNKNOWN_NEXT  height of the relay's route set 8 | first 8 bytes of its hash
    PUZZLE        seed 16 | difficulty 1
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from overlay.core.wire import BODY_BYTES, CellError


class Reason(IntEnum):
    NONE = 0
    NOT_OPENED = 1
    """The set-up does not open: it was made for another onion key."""
    PERIOD = 2
    REPLAYED = 3
    UNKNOWN_NEXT = 4
    """The relay's route set does not have the next hop."""
    QUOTA = 5
    PUZZLE = 6
    NEIGHBOUR_GONE = 7
    EXPIRED = 8
    PROTOCOL = 9
    SHED = 10
    """The path filled the relay's queues."""
    TARGET_UNREACHABLE = 11
    TARGET_REFUSED = 12
    SHUTTING_DOWN = 13


_DETAIL_BYTES = {Reason.PERIOD: 4, Reason.UNKNOWN_NEXT: 16, Reason.PUZZLE: 17}


@dataclass(frozen=True, slots=True)
class Report:
    reason: Reason
    detail: bytes = b""

    def close_body(self) -> bytes:
        """The 2,039 bytes of a CLOSE frame's body."""
        head = bytes((self.reason, len(self.detail))) + self.detail
        return head.ljust(BODY_BYTES, b"\0")

    def error_data(self) -> bytes:
        return bytes((self.reason,)) + self.detail

    def __post_init__(self) -> None:
        if len(self.detail) != _DETAIL_BYTES.get(self.reason, 0):
            raise ValueError(f"the detail of {self.reason.name} has the wrong length")


def read_close_body(body: bytes) -> Report:
    """Raises `CellError` for anything but what `Report.close_body` makes."""
    if len(body) != BODY_BYTES:
        raise CellError("a CLOSE has the wrong size")
    report = read_error_data(body[:1] + body[2 : 2 + body[1]])
    if report.close_body() != body:
        raise CellError("a CLOSE is not padded with zeros")
    return report


def read_end_data(data: bytes) -> Reason:
    """Raises `CellError`. A stream's end has no room for the detail of its reason."""
    try:
        (number,) = data
        return Reason(number)
    except ValueError as error:
        raise CellError("an unknown reason of an end") from error


def read_error_data(data: bytes) -> Report:
    """Raises `CellError`."""
    try:
        return Report(Reason(data[0]), data[1:])
    except (IndexError, ValueError) as error:
        raise CellError("an unknown reason, or one with a detail of the wrong length") from error

"""What the overlay's state machines ask their shell to do, and whom they talk to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Entropy: TypeAlias = Callable[[int], bytes]
"""Returns that many fresh random bytes; the shell gives the system's, tests a seeded one."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One end of a link: `dialled` is true for a node that we connect to (its 20-byte id), false
    for a connection that came to us (the socket's routing id)."""

    dialled: bool
    name: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Put one frame on the link to `peer`."""

    peer: Peer
    frame: bytes


@dataclass(frozen=True, slots=True)
class Count:
    """Add one to the counter of `event`, a word of the fixed sets below."""

    event: str


Effect: TypeAlias = Send | Count

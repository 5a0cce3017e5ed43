"""What the overlay's state machines ask their shell to do, and whom they talk to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Entropy: TypeAlias = Callable[[int], bytes]
"""Returns that many fresh random bytes; the shell gives the system's, tests a seeded one."""


class Peer(NamedTuple):
    """One end of a link: `dialled` is true for a node that we connect to (its 20-byte id), false
    for a connection that came to us (the socket's routing id)."""

    dialled: bool
    name: bytes


class Neighbour(NamedTuple):
    """Who is at the other end of a link, as far as the shell can tell without believing it: a node
    of the ledger by the transport key that it proved (`name` is its id), or a stranger by the
    prefix of its address; `is_local` if that is this machine's own."""

    is_node: bool
    name: bytes
    is_local: bool = False


class Send(NamedTuple):
    """Put one frame on the link to `peer`."""

    peer: Peer
    frame: bytes


Passed: TypeAlias = tuple[Peer, bytes]
"""As a `Send`, which takes as long to make as all lookups of a cell."""


class Tell(Send):
    """A frame for a neighbour that holds no path by it, as a refusal is: it is dropped when the
    neighbour has much to read already, so that nobody fills queues by what is refused."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Count:
    """Add one to the counter of `event`, a word of a fixed set."""

    event: str


@dataclass(frozen=True, slots=True)
class Purge:
    """Drop what waits for `peer` under `link_id`: its path is no more."""

    peer: Peer
    link_id: bytes


@dataclass(frozen=True, slots=True)
class Remember:
    """Write down that a set-up of `period` was taken, before anything that comes of it is sent.

    `entry` is the first half of its ephemeral key; see `overlay.core.replay_filter`.
    """

    period: int
    entry: bytes


Effect: TypeAlias = Send | Count | Purge | Remember

"""One path at its owner.

state      event                             next       effects
─────────  ────────────────────────────────  ─────────  ───────────────────────────
(none)     build                             BUILDING   SETUP to the first hop
BUILDING   ESTABLISHED under every layer     OPEN
BUILDING   CLOSE, time-out, neighbour gone   CLOSED
OPEN       send                              OPEN       DATA to the first hop
OPEN       DATA that opens, in order         OPEN       the payload is handed out
OPEN       CLOSE, DATA that does not open    CLOSED
any        close                             CLOSED     CLOSE to the first hop
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from overlay.core import exit_payload, layers
from overlay.core.cells import (
    BODY_BYTES,
    CLOSE,
    DATA,
    LINK_ID_BYTES,
    SETUP,
    Cell,
    CellError,
    backward_id,
)
from overlay.core.effects import Entropy, Peer, Send
from overlay.core.exit_payload import ExitPayload
from overlay.core.onion import SETUP_VALID_S, HopKeys, HopSpec, build_onion

BUILDING = "building"
OPEN = "open"
CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ClientPath:
    """`hops` are node ids from the nearest on; `forward_id` names the path on the first link."""

    hops: tuple[bytes, ...]
    keys: tuple[HopKeys, ...]
    first: Peer
    forward_id: bytes
    phase: str = BUILDING
    sent: int = 0
    seen: int = -1

    @property
    def backward_id(self) -> bytes:
        return backward_id(self.forward_id)

    @property
    def chunk_bytes(self) -> int:
        """How many bytes of an exchange one cell of this path carries."""
        return exit_payload.chunk_bytes(layers.payload_bytes(len(self.keys)))


def build(
    hops: Sequence[tuple[bytes, bytes]], unix_s: float, entropy: Entropy
) -> tuple[ClientPath, list[Send]]:
    """Start a path through `hops`, each a node id with its onion public key, at time `unix_s`."""
    # Raises ValueError for an onion key of low order, which no honest node has.
    specs = [HopSpec(node, onion_key, entropy(32)) for node, onion_key in hops]
    body, keys = build_onion(specs, int(unix_s) + SETUP_VALID_S, entropy(BODY_BYTES))
    first = Peer(True, hops[0][0])
    path = ClientPath(tuple(node for node, _ in hops), keys, first, entropy(LINK_ID_BYTES))
    noise = int.from_bytes(entropy(8), "big")
    return path, [Send(first, Cell(path.forward_id, SETUP, noise, body).encode())]


def send(path: ClientPath, payload: ExitPayload, entropy: Entropy) -> tuple[ClientPath, list[Send]]:
    """Send `payload` to the last relay of an open path."""
    if path.phase != OPEN:
        raise ValueError("the path is not open")
    size = layers.payload_bytes(len(path.keys))
    body = layers.wrap_forward(path.keys, path.sent, payload.encode(size, entropy(size)))
    cell = Cell(path.forward_id, DATA, path.sent ^ path.keys[0].forward_mask, body)
    return replace(path, sent=path.sent + 1), [Send(path.first, cell.encode())]


def cell_arrived(path: ClientPath, cell: Cell) -> tuple[ClientPath, ExitPayload | None]:
    """A cell under the path's backward id; the payload in it, if it is for the owner's user.

    Never raises: whatever is not in order closes the path.
    """
    if path.phase == CLOSED:
        return path, None
    if cell.command != DATA:
        return replace(path, phase=CLOSED), None
    try:
        counter = layers.next_counter(path.seen, cell.counter, path.keys[0].backward_mask)
        inner = layers.peel_backward(path.keys, counter, cell.body)
        payload = exit_payload.decode_payload(inner)
    except CellError:
        return replace(path, phase=CLOSED), None
    path = replace(path, seen=counter)
    if payload.command == exit_payload.ESTABLISHED:
        return replace(path, phase=OPEN), None
    if path.phase == OPEN and payload.command in (exit_payload.REPLY, exit_payload.END):
        return path, payload
    if payload.command == exit_payload.PADDING:
        return path, None
    return replace(path, phase=CLOSED), None


def close(path: ClientPath, entropy: Entropy) -> tuple[ClientPath, list[Send]]:
    """Give the path up and tell its first relay."""
    if path.phase == CLOSED:
        return path, []
    noise = int.from_bytes(entropy(8), "big")
    cell = Cell(path.forward_id, CLOSE, noise, entropy(BODY_BYTES))
    return replace(path, phase=CLOSED), [Send(path.first, cell.encode())]

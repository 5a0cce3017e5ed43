"""One path at one relay.

    state          event                          next          effects
    ─────────────  ─────────────────────────────  ────────────  ──────────────────────────────
    MIDDLE         DATA from previous, opens      MIDDLE        DATA to following, a layer less
    MIDDLE         DATA from following, in order  MIDDLE        DATA to previous, a layer more
    LAST           DATA from previous: DELIVER    LAST          EXCHANGE to the target
    LAST           DATA from previous: END        LAST          EXCHANGE_END to the target
    LAST           EXCHANGE from a target         LAST          DATA to previous (REPLY)
    LAST           EXCHANGE_END, target gone      LAST          DATA to previous (END)
    any            does not open, out of order,   closed        CLOSE both ways,
                   CLOSE, neighbour gone, expired               EXCHANGE_END to every target

A closed path is no state: the caller forgets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from overlay.core import exit_payload, layers
from overlay.core.cells import (
    BODY_BYTES,
    CLOSE,
    DATA,
    EXCHANGE,
    EXCHANGE_END,
    LINK_ID_BYTES,
    Cell,
    CellError,
    backward_id,
    chunk_body,
    read_chunk,
)
from overlay.core.effects import Entropy, Peer, Send
from overlay.core.exit_payload import ExitPayload
from overlay.core.onion import HopKeys

MAX_EXCHANGES = 16


@dataclass(frozen=True, slots=True)
class Link:
    """A neighbour on the path, the id that names the path on the way there (forward), and the
    mask of its counters, forward and backward."""

    peer: Peer
    forward_id: bytes
    forward_mask: int
    backward_mask: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """A stream to one model node, named `link_id` on the link to it."""

    target: Peer
    link_id: bytes


@dataclass(frozen=True, slots=True)
class RelayPath:
    """`following` is None at the last relay. Counters are the last ones accepted or sent."""

    keys: HopKeys
    position: int
    previous: Link
    following: Link | None
    expires_s: float
    forward_seen: int = -1
    backward_seen: int = -1
    exchanges: Mapping[bytes, Exchange] = field(default_factory=lambda: MappingProxyType({}))


def establish(path: RelayPath, entropy: Entropy) -> tuple[RelayPath, list[Send]]:
    """What the last relay does when its path is built: tell the owner."""
    return _answer(path, ExitPayload(exit_payload.ESTABLISHED), entropy)


def forward(path: RelayPath, cell: Cell, entropy: Entropy) -> tuple[RelayPath, list[Send]]:
    """A DATA cell from the owner's side. Raises `CellError` when the path must close."""
    counter = layers.next_counter(path.forward_seen, cell.counter, path.previous.forward_mask)
    inner = layers.peel_forward(path.keys, path.position, counter, cell.body)
    path = replace(path, forward_seen=counter)
    if path.following is not None:
        link = path.following
        body = inner + entropy(BODY_BYTES - len(inner))
        onward = Cell(link.forward_id, DATA, counter ^ link.forward_mask, body)
        return path, [Send(link.peer, onward.encode())]
    payload = exit_payload.decode_payload(inner)
    if payload.command == exit_payload.DELIVER:
        return _deliver(path, payload, entropy)
    if payload.command == exit_payload.END:
        return _end(path, payload.exchange, entropy)
    if payload.command == exit_payload.PADDING:
        return path, []
    raise CellError("the owner of a path sent a command that only relays send")


def backward(path: RelayPath, cell: Cell, entropy: Entropy) -> tuple[RelayPath, list[Send]]:
    """A DATA cell from the following relay. Raises `CellError` when the path must close."""
    if path.following is None:
        raise CellError("no relay follows the last one")
    counter = layers.next_counter(path.backward_seen, cell.counter, path.following.backward_mask)
    path = replace(path, backward_seen=counter)
    return path, [_send_back(path, counter, cell.body, entropy)]


def from_target(
    path: RelayPath, exchange: bytes, cell: Cell, entropy: Entropy
) -> tuple[RelayPath, list[Send]]:
    """A cell of an exchange from its model node. Raises `CellError` when the path must close."""
    if cell.command == EXCHANGE_END:
        return target_gone(path, exchange, entropy)
    chunk = read_chunk(cell.body)
    if len(chunk) > exit_payload.chunk_bytes(layers.payload_bytes(path.position + 1)):
        raise CellError("a model node sent a chunk that does not fit the path")
    return _answer(path, ExitPayload(exit_payload.REPLY, exchange, chunk=chunk), entropy)


def target_gone(path: RelayPath, exchange: bytes, entropy: Entropy) -> tuple[RelayPath, list[Send]]:
    """The model node of `exchange` ended it or cannot be reached."""
    remaining = {name: value for name, value in path.exchanges.items() if name != exchange}
    path = replace(path, exchanges=MappingProxyType(remaining))
    return _answer(path, ExitPayload(exit_payload.END, exchange), entropy)


def close(path: RelayPath, entropy: Entropy) -> list[Send]:
    """Tell both neighbours and every model node that the path is no more."""
    sends = [
        Send(link.peer, Cell(name, CLOSE, _noise(entropy), entropy(BODY_BYTES)).encode())
        for link, name in (
            (path.previous, backward_id(path.previous.forward_id)),
            *([(path.following, path.following.forward_id)] if path.following else []),
        )
    ]
    return sends + [_end_cell(exchange, entropy) for exchange in path.exchanges.values()]


def _deliver(
    path: RelayPath, payload: ExitPayload, entropy: Entropy
) -> tuple[RelayPath, list[Send]]:
    exchange = path.exchanges.get(payload.exchange)
    if exchange is None:
        if len(path.exchanges) >= MAX_EXCHANGES:
            raise CellError("a path has too many exchanges at once")
        exchange = Exchange(Peer(True, payload.target), entropy(LINK_ID_BYTES))
        opened = {**path.exchanges, payload.exchange: exchange}
        path = replace(path, exchanges=MappingProxyType(opened))
    elif exchange.target.name != payload.target:
        raise CellError("an exchange changed its target")
    body = chunk_body(payload.chunk, entropy(BODY_BYTES))
    cell = Cell(exchange.link_id, EXCHANGE, _noise(entropy), body)
    return path, [Send(exchange.target, cell.encode())]


def _end(path: RelayPath, name: bytes, entropy: Entropy) -> tuple[RelayPath, list[Send]]:
    exchange = path.exchanges.get(name)
    if exchange is None:  # it ended at the other side meanwhile
        return path, []
    remaining = {other: value for other, value in path.exchanges.items() if other != name}
    path = replace(path, exchanges=MappingProxyType(remaining))
    return path, [_end_cell(exchange, entropy)]


def _end_cell(exchange: Exchange, entropy: Entropy) -> Send:
    cell = Cell(exchange.link_id, EXCHANGE_END, _noise(entropy), entropy(BODY_BYTES))
    return Send(exchange.target, cell.encode())


def _answer(
    path: RelayPath, payload: ExitPayload, entropy: Entropy
) -> tuple[RelayPath, list[Send]]:
    counter = path.backward_seen + 1
    path = replace(path, backward_seen=counter)
    size = layers.payload_bytes(path.position + 1)
    return path, [_send_back(path, counter, payload.encode(size, entropy(size)), entropy)]


def _send_back(path: RelayPath, counter: int, inner: bytes, entropy: Entropy) -> Send:
    sealed = layers.wrap_backward(path.keys, path.position, counter, inner)
    link = path.previous
    cell = Cell(
        backward_id(link.forward_id),
        DATA,
        counter ^ link.backward_mask,
        sealed + entropy(BODY_BYTES - len(sealed)),
    )
    return Send(link.peer, cell.encode())


def _noise(entropy: Entropy) -> int:
    """A counter field that says nothing, for cells that have no counter."""
    return int.from_bytes(entropy(8), "big")

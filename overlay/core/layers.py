"""Layers of a DATA cell: every hop authenticates the whole of what it passes on, both ways.

The owner of a path seals a payload for the last hop first, the first hop last; each layer adds
a tag of 16 bytes. The layer of the hop at position p covers the first BODY_BYTES - 16 p bytes of
the body, and the hop that removed a layer fills the freed bytes with random ones. Backwards each
hop adds its layer. Nonces are the cell's counter. Links are ordered and lose nothing while they
live, so each cell must have exactly the counter after its predecessor's: an altered, repeated,
reordered or left-out cell closes its path, and no hop can speak to another by its choice of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.core.cells import BODY_BYTES, CellError
from overlay.core.onion import HopKeys

TAG_BYTES = 16
MAX_COUNTER = 1 << 48


def covered_bytes(position: int) -> int:
    """How many bytes of a body the layer of the hop at `position` covers, tag included."""
    return BODY_BYTES - TAG_BYTES * position


def payload_bytes(hops: int) -> int:
    """How many bytes the owner and the last of `hops` relays can exchange in one cell."""
    return BODY_BYTES - TAG_BYTES * hops


def seal(key: bytes, counter: int, plaintext: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_nonce(counter), plaintext, None)


def unseal(key: bytes, counter: int, sealed: bytes) -> bytes:
    """Raises `CellError` when `sealed` was altered or belongs to another counter."""
    try:
        return ChaCha20Poly1305(key).decrypt(_nonce(counter), sealed, None)
    except InvalidTag as error:
        raise CellError("a cell does not authenticate") from error


def wrap_forward(keys: Sequence[HopKeys], counter: int, payload: bytes) -> bytes:
    """The body that the owner sends to the first hop; `payload` has `payload_bytes` bytes."""
    for hop in reversed(keys):
        payload = seal(hop.forward, counter, payload)
    return payload


def peel_forward(keys: HopKeys, position: int, counter: int, body: bytes) -> bytes:
    """What a relay finds under its forward layer: 16 bytes less than it covers."""
    return unseal(keys.forward, counter, body[: covered_bytes(position)])


def wrap_backward(keys: HopKeys, position: int, counter: int, inner: bytes) -> bytes:
    """A relay's layer over the part of `inner` that later layers leave it."""
    return seal(keys.backward, counter, inner[: covered_bytes(position) - TAG_BYTES])


def peel_backward(keys: Sequence[HopKeys], counter: int, body: bytes) -> bytes:
    """The payload under all layers of a cell that came back to the path's owner."""
    for position, hop in enumerate(keys):
        body = unseal(hop.backward, counter, body[: covered_bytes(position)])
    return body


def next_counter(last_seen: int, masked: int, mask: int) -> int:
    """The counter of a cell whose wire field is `masked`, given the last one accepted (-1 at
    first). Raises `CellError` unless it is the next."""
    counter = masked ^ mask
    if counter != last_seen + 1 or counter >= MAX_COUNTER:
        raise CellError("a cell is repeated, missing or out of order")
    return counter


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")

"""The layer that each hop of a path puts on or takes off: 2,039 bytes in, 2,039 bytes out.

    body     = tag 16 | c 2,023
    peel       AEAD.decrypt(key, counter, c | 16 zeros, tag): the next hop's body
    seal_back  AEAD.encrypt(key, counter, body) = C 2,039, tag: tag | C without its last 16 bytes

The relay lengthens the ciphertext by zeros before it opens it, so that the tag it took off
leaves no gap; the zeros are part of what the tag covers and need not be sent. Each byte that came
over the link is authenticated, the filler of earlier hops too, and a body looks the same at each
position of a path. The owner chooses the end of each plaintext so that the ciphertext ends as the
hops before will have made it: the filler of Sphinx (Danezis and Goldberg 2009, section 3.2) with
an ordinary AEAD (RFC 8439) in place of its MAC.

Counters are implicit: a hop's n-th cell in a direction opens under nonce n and no other.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.core.wire import BODY_BYTES, CellError

TAG_BYTES = 16
KEY_BYTES = 32
NONCE_BYTES = 12
MAX_HOPS = 4
PAYLOAD_BYTES = BODY_BYTES - MAX_HOPS * TAG_BYTES
MAX_CELLS = 1 << 40
"""How many cells a path carries in one direction before it must be closed."""

_BLOCK_BYTES = 64
_GROWN = bytes(TAG_BYTES)
_BACKWARD_END = bytes(MAX_HOPS * TAG_BYTES)


def xor(a: bytes, b: bytes) -> bytes:
    """Both have one length."""
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def key_stream_end(key: bytes, nonce: bytes, size: int, count: int) -> bytes:
    """The last `count` bytes of what ChaCha20-Poly1305 adds to a plaintext of `size` bytes."""
    block = (size - count) // _BLOCK_BYTES
    # Block 0 of the stream is the key of Poly1305 (RFC 8439, section 2.6).
    counter = (1 + block).to_bytes(4, "little")
    encryptor = Cipher(algorithms.ChaCha20(key, counter + nonce), None).encryptor()
    return encryptor.update(bytes(size - block * _BLOCK_BYTES))[-count:]


def forced_ends(keys: Sequence[bytes], nonce: bytes, size: int, grown: int) -> list[bytes]:
    """For each hop the bytes that its body ends in, whatever was sealed for it.

    Each hop opens `size` bytes, the last `grown` of which it has added as zeros. Hop 0 is
    forced to nothing; each later one to `grown` bytes more than the hop before.
    """
    ends = [b""]
    for key in keys[:-1]:
        completed = ends[-1] + bytes(grown)
        ends.append(xor(completed, key_stream_end(key, nonce, size, len(completed))))
    return ends


def wrap(keys: Sequence[bytes], counter: int, payload: bytes, filler: bytes) -> bytes:
    """The body that the hops of `keys`, nearest first, peel to one that begins with `payload`.

    `payload` has 1,975 bytes. `filler` fills what shorter paths leave free behind it with
    fresh random bytes (at least 48), so that the last hop does not see how many came before.
    """
    free_bytes = (MAX_HOPS - len(keys)) * TAG_BYTES
    if not 1 <= len(keys) <= MAX_HOPS or len(payload) != PAYLOAD_BYTES or len(filler) < free_bytes:
        raise ValueError("wrong number of keys or bytes")
    nonce = _nonce(counter)
    ends = forced_ends(keys, nonce, BODY_BYTES, TAG_BYTES)
    body = payload + filler[:free_bytes]
    for key, end in zip(reversed(keys), reversed(ends), strict=True):
        completed = end + _GROWN
        plain_end = xor(completed, key_stream_end(key, nonce, BODY_BYTES, len(completed)))
        plain = body[: BODY_BYTES - len(completed)] + plain_end
        sealed = ChaCha20Poly1305(key).encrypt(nonce, plain, None)
        body = sealed[BODY_BYTES:] + sealed[: BODY_BYTES - TAG_BYTES]
    return body


def peel(key: bytes, counter: int, body: bytes) -> bytes:
    """A relay's step outwards. The last relay reads the first 1,975 bytes of the result.

    Raises `CellError` unless `body` is the cell of this key and counter, to the bit.
    """
    return peel_with(ChaCha20Poly1305(key), counter, body)


def peel_with(aead: ChaCha20Poly1305, counter: int, frame: bytes, start: int = 0) -> bytes:
    """`peel` with the key's cipher; to make one takes as long as to use it. The body begins at
    `start` of `frame`."""
    if len(frame) - start != BODY_BYTES:
        raise CellError("a cell's body has the wrong size")
    end = start + TAG_BYTES
    sealed = b"".join((frame[end:], _GROWN, frame[start:end]))
    try:
        return aead.decrypt(_nonce(counter), sealed, None)
    except InvalidTag as error:
        raise CellError("a cell does not open") from error


def originate(key: bytes, counter: int, payload: bytes) -> bytes:
    """The first step of the way back, by the relay that speaks: 1,975 bytes of `payload`."""
    if len(payload) != PAYLOAD_BYTES:
        raise ValueError("a payload has the wrong size")
    return seal_back(key, counter, payload + _BACKWARD_END)


def seal_back(key: bytes, counter: int, body: bytes) -> bytes:
    """A relay's step towards the owner. Raises `CellError` for a body of the wrong size."""
    return seal_back_with(ChaCha20Poly1305(key), counter, body)


def seal_back_with(aead: ChaCha20Poly1305, counter: int, body: bytes) -> bytes:
    """`seal_back` with the key's cipher."""
    if len(body) != BODY_BYTES:
        raise CellError("a cell's body has the wrong size")
    sealed = aead.encrypt(_nonce(counter), body, None)
    return sealed[BODY_BYTES:] + sealed[: BODY_BYTES - TAG_BYTES]


def unwrap(keys: Sequence[bytes], counter: int, body: bytes) -> bytes:
    """The payload that the hop of the last key originated, at the path's owner.

    Raises `CellError` if any hop's tag is wrong; fewer keys ask whether a nearer hop spoke.
    """
    if not 1 <= len(keys) <= MAX_HOPS:
        raise ValueError("a path has one to four hops")
    if len(body) != BODY_BYTES:
        raise CellError("a cell's body has the wrong size")
    nonce = _nonce(counter)
    end = bytes(len(keys) * TAG_BYTES)  # of what each hop sealed, from the speaker to the nearest
    dropped = []
    for key in reversed(keys):
        end = xor(end, key_stream_end(key, nonce, BODY_BYTES, len(end)))
        dropped.append(end[-TAG_BYTES:])
        end = end[:-TAG_BYTES]
    for key, lost in zip(keys, reversed(dropped), strict=True):
        body = _decrypt(key, nonce, body, lost)
    if body[PAYLOAD_BYTES:] != _BACKWARD_END:
        raise CellError("a payload does not end in zeros")
    return body[:PAYLOAD_BYTES]


def _nonce(counter: int) -> bytes:
    if not 0 <= counter < MAX_CELLS:
        raise CellError("a path has carried as many cells as its keys may")
    return counter.to_bytes(NONCE_BYTES, "big")


def _decrypt(key: bytes, nonce: bytes, body: bytes, missing: bytes) -> bytes:
    sealed = b"".join((body[TAG_BYTES:], missing, body[:TAG_BYTES]))
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, sealed, None)
    except InvalidTag as error:
        raise CellError("a cell does not open") from error

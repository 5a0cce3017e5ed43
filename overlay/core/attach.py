"""Taking up a running answer over a new path, in place of one that was lost.

    attach    = zeros 2 | attach id 16 | sealed 20
    key 32 | attach ids 8 x 16 = HKDF-SHA256(path key i, "planetserve/attach/v2", 160 bytes)
    sealed    = ChaCha20-Poly1305(key, nonce = attach number, next frame 4, ad = attach id)

The path key is the one that clove i's seal exported, so only who made the request can attach. The
attach numbered a = 0, 1, ... 7 of a clove bears its id number a, so that what the last relays of
one clove's paths see, one after the other, has nothing in common, and tells neither that an answer
runs already nor how far it is. A stream that begins with two zero bytes is an attach: no clove
fills no cells. The model node takes each number once and in rising order; some may be lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from planetserve.errors import RemoteProtocolError

PREFIX = bytes(2)
ID_BYTES = 16
KEY_BYTES = 32
NUMBER_BYTES = 4
TAG_BYTES = 16
SEALED_BYTES = NUMBER_BYTES + TAG_BYTES
ATTACH_BYTES = len(PREFIX) + ID_BYTES + SEALED_BYTES
MAX_ATTACHES = 8
"""How often the frames of one clove are taken up again; each time costs a window of frames."""


class AttachError(RemoteProtocolError):
    """An attach that is malformed, forged, or was used before."""


@dataclass(frozen=True, slots=True)
class AttachKeys:
    """What client and model node hold for one clove: an id for each attach, and the key."""

    ids: tuple[bytes, ...]
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Attach:
    """An attach as it arrived; what it says is for `verify` to open."""

    id: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """`next_frame` is the first that its sender wants; `number` is that of the attach."""

    number: int
    next_frame: int


def derive(path_key: bytes) -> AttachKeys:
    size = KEY_BYTES + MAX_ATTACHES * ID_BYTES
    hkdf = HKDF(algorithm=SHA256(), length=size, salt=None, info=b"planetserve/attach/v2")
    derived = hkdf.derive(path_key)
    starts = range(KEY_BYTES, size, ID_BYTES)
    return AttachKeys(tuple(derived[at : at + ID_BYTES] for at in starts), derived[:KEY_BYTES])


def encode(keys: AttachKeys, attach_number: int, next_frame: int) -> bytes:
    """The stream that takes the answer up from `next_frame` on; use each number below
    `MAX_ATTACHES` once."""
    attach_id = keys.ids[attach_number]
    sealed = ChaCha20Poly1305(keys.key).encrypt(
        _nonce(attach_number), next_frame.to_bytes(NUMBER_BYTES, "big"), attach_id
    )
    return PREFIX + attach_id + sealed


def decode(data: bytes) -> Attach:
    """Raises `AttachError`. Nothing of it is authenticated until `verify`."""
    if len(data) != ATTACH_BYTES or not data.startswith(PREFIX):
        raise AttachError("these bytes are not an attach")
    return Attach(data[len(PREFIX) : -SEALED_BYTES], data[-SEALED_BYTES:])


def verify(keys: AttachKeys, attach: Attach, expected_number: int) -> Verified:
    """What `attach` says, if it is one of `keys` and has `expected_number` or a later one. Raises
    `AttachError`."""
    for number in range(expected_number, MAX_ATTACHES):
        if keys.ids[number] == attach.id:
            break
    else:
        raise AttachError("an attach of another clove, or one that was used before")
    try:
        plain = ChaCha20Poly1305(keys.key).decrypt(_nonce(number), attach.sealed, attach.id)
    except InvalidTag as error:
        raise AttachError("an attach does not authenticate") from error
    return Verified(number, int.from_bytes(plain, "big"))


def _nonce(attach_number: int) -> bytes:
    return attach_number.to_bytes(12, "big")

"""Taking up a running answer over a new path, in place of one that was lost.

    attach = zeros 2 | attach id 16 | next frame 4 | tag 16
    attach id | key = HKDF-SHA256(path key i, "planetserve/attach/v2", 48 bytes)
    tag    = ChaCha20-Poly1305(key, nonce = attach number, nothing, ad = attach id | next frame)

The path key is the one that clove i's seal exported, so only who made the request can attach, and
ids of two paths have nothing in common. A stream that begins with two zero bytes is an attach: no
clove fills no cells. Attach numbers count 0, 1, ... for each clove; the model node takes each once
and in rising order, and a few may be lost on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from planetserve.errors import RemoteProtocolError

PREFIX = bytes(2)
ID_BYTES = 16
NUMBER_BYTES = 4
TAG_BYTES = 16
ATTACH_BYTES = len(PREFIX) + ID_BYTES + NUMBER_BYTES + TAG_BYTES
MAX_LOST = 16
"""How many attaches in a row may be lost on the way before the path is not taken up again."""


class AttachError(RemoteProtocolError):
    """An attach that is malformed, forged, or was used before."""


@dataclass(frozen=True, slots=True)
class AttachKeys:
    """What client and model node hold for one clove: the public `id` and the secret `key`."""

    id: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Attach:
    """An attach as it arrived; `next_frame` is the first that its sender wants."""

    id: bytes
    next_frame: int
    tag: bytes


def derive(path_key: bytes) -> AttachKeys:
    hkdf = HKDF(algorithm=SHA256(), length=48, salt=None, info=b"planetserve/attach/v2")
    derived = hkdf.derive(path_key)
    return AttachKeys(derived[:ID_BYTES], derived[ID_BYTES:])


def encode(keys: AttachKeys, attach_number: int, next_frame: int) -> bytes:
    """The stream that takes the answer up from `next_frame` on; use each number once."""
    wanted = next_frame.to_bytes(NUMBER_BYTES, "big")
    tag = ChaCha20Poly1305(keys.key).encrypt(
        attach_number.to_bytes(12, "big"), b"", keys.id + wanted
    )
    return PREFIX + keys.id + wanted + tag


def decode(data: bytes) -> Attach:
    """Raises `AttachError`. What it says is not authenticated until `verify`."""
    if len(data) != ATTACH_BYTES or not data.startswith(PREFIX):
        raise AttachError("these bytes are not an attach")
    tag_start = ATTACH_BYTES - TAG_BYTES
    number_start = tag_start - NUMBER_BYTES
    return Attach(
        data[len(PREFIX) : number_start],
        int.from_bytes(data[number_start:tag_start], "big"),
        data[tag_start:],
    )


def verify(keys: AttachKeys, attach: Attach, expected_number: int) -> int:
    """The number to expect after `attach`, which has `expected_number` or one of the `MAX_LOST`
    after it. Raises `AttachError`."""
    wanted = attach.next_frame.to_bytes(NUMBER_BYTES, "big")
    cipher = ChaCha20Poly1305(keys.key)
    for number in range(expected_number, expected_number + MAX_LOST + 1):
        try:
            cipher.decrypt(number.to_bytes(12, "big"), attach.tag, attach.id + wanted)
        except InvalidTag:
            continue
        return number + 1
    raise AttachError("an attach does not authenticate")

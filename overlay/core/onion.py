"""The set-up onion: one packet that gives every relay of a path its keys and its successor.

    body   = SLOTS x slot, then random bytes to the end of the cell
    slot   = 32 bytes ephemeral X25519 key | AEAD(plaintext, the slots behind it) of 64 + 16 bytes
    plaintext = version | position | last | 20 bytes next node id |
                8 + 8 bytes counter masks of the next link, forward and backward |
                4 bytes expiry in Unix seconds | 21 zero bytes

A relay opens the first slot, removes it, decrypts the others with a stream cipher and appends
one slot of key stream, so that the packet it passes on has the size and look of the one it got.
Each slot authenticates all that stands behind it, the appended key streams of earlier hops
included, which the builder computes beforehand (the filler of Sphinx, Danezis
and Goldberg 2009).
The keys of a hop come from X25519(ephemeral, relay's onion key) by HKDF-SHA256 (RFC 5869).
After this packet no public-key operation happens on the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.core.cells import BODY_BYTES, CellError
from planetserve.keys import NODE_ID_BYTES

VERSION = 1
SLOTS = 5
PLAINTEXT_BYTES = 64
SLOT_BYTES = 32 + PLAINTEXT_BYTES + 16
ONION_BYTES = SLOTS * SLOT_BYTES
ZERO_NONCE = bytes(12)
SETUP_VALID_S = 120
"""How long after it was made a set-up packet may arrive; clocks may differ by about as much."""


@dataclass(frozen=True, slots=True)
class HopKeys:
    """What one hop and the path's owner share. The masks belong to the link that leads to this
    hop; its predecessor learns them too. They keep a counter from looking alike on two links."""

    forward: bytes
    backward: bytes
    forward_mask: int
    backward_mask: int


@dataclass(frozen=True, slots=True)
class HopInstructions:
    """What a relay reads in its slot: its position (0 is nearest to the owner), the next relay
    (None at the last) and the masks of the link to it."""

    position: int
    next_node: bytes | None
    next_forward_mask: int
    next_backward_mask: int
    expires_s: int


@dataclass(frozen=True, slots=True)
class OpenedOnion:
    keys: HopKeys
    instructions: HopInstructions
    ephemeral: bytes
    forward_onion: bytes


@dataclass(frozen=True, slots=True)
class HopSpec:
    """A relay to build through: its id and onion public key from the ledger, and 32 fresh
    random bytes for the ephemeral key."""

    node: bytes
    onion_key: bytes
    ephemeral_secret: bytes


def build_onion(
    hops: Sequence[HopSpec], expires_s: int, filler: bytes
) -> tuple[bytes, tuple[HopKeys, ...]]:
    """The onion body for a path through `hops`, and the keys of each hop.

    `expires_s` is the Unix time after which relays refuse it; `filler` is at least `BODY_BYTES`
    of fresh random bytes for the unused slots and the tail.
    """
    if not 1 <= len(hops) <= SLOTS:
        raise ValueError(f"a path has 1 to {SLOTS} hops")
    if len(filler) < BODY_BYTES:
        raise ValueError("the filler is shorter than a cell's body")
    shared = [_share(hop) for hop in hops]
    appended = b""  # what the hops so far will have put at the end of the packet
    for _, secrets in shared[:-1]:
        stream = _stream(secrets.stream_key, bytes(ONION_BYTES))
        appended = _xor(appended + bytes(SLOT_BYTES), stream[-len(appended) - SLOT_BYTES :])
    unused = ONION_BYTES - SLOT_BYTES - len(appended)
    rest = filler[:unused] + appended
    onion = b""
    for position in reversed(range(len(hops))):
        ephemeral, secrets = shared[position]
        last = position + 1 == len(hops)
        if not last:
            rest = _stream(secrets.stream_key, onion)[: ONION_BYTES - SLOT_BYTES]
        plaintext = bytes((VERSION, position, last))
        if last:
            plaintext += bytes(NODE_ID_BYTES + 16)
        else:
            following = shared[position + 1][1].hop
            plaintext += hops[position + 1].node
            plaintext += following.forward_mask.to_bytes(8, "big")
            plaintext += following.backward_mask.to_bytes(8, "big")
        plaintext += expires_s.to_bytes(4, "big")
        sealed = ChaCha20Poly1305(secrets.slot_key).encrypt(
            ZERO_NONCE, plaintext.ljust(PLAINTEXT_BYTES, b"\0"), rest
        )
        onion = ephemeral + sealed + rest
    return onion + filler[ONION_BYTES:BODY_BYTES], tuple(secrets.hop for _, secrets in shared)


def open_onion(body: bytes, onion_secret: bytes, filler: bytes) -> OpenedOnion:
    """Take the first slot off with the relay's `onion_secret`; the tail is replaced by `filler`.

    Raises `CellError` when the slot does not authenticate or says something impossible.
    """
    ephemeral, sealed = body[:32], body[32:SLOT_BYTES]
    secret = X25519PrivateKey.from_private_bytes(onion_secret)
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(ephemeral))
    except ValueError as error:  # a point of low order
        raise CellError("the set-up packet's ephemeral key is not usable") from error
    own_key = secret.public_key().public_bytes_raw()
    secrets = _derive(shared, ephemeral, own_key)
    rest = body[SLOT_BYTES:ONION_BYTES]
    try:
        plaintext = ChaCha20Poly1305(secrets.slot_key).decrypt(ZERO_NONCE, sealed, rest)
    except InvalidTag as error:
        raise CellError("the set-up packet is not for this relay, or was altered") from error
    version, position, last = plaintext[:3]
    if version != VERSION or position >= SLOTS or last not in (0, 1):
        raise CellError("the set-up packet has an unknown version or position")
    instructions = HopInstructions(
        position,
        None if last else plaintext[3:23],
        int.from_bytes(plaintext[23:31], "big"),
        int.from_bytes(plaintext[31:39], "big"),
        int.from_bytes(plaintext[39:43], "big"),
    )
    onion = _stream(secrets.stream_key, rest + bytes(SLOT_BYTES))
    forward_onion = onion + filler[: BODY_BYTES - ONION_BYTES]
    return OpenedOnion(secrets.hop, instructions, ephemeral, forward_onion)


@dataclass(frozen=True, slots=True)
class _Secrets:
    """All that comes of one Diffie-Hellman exchange."""

    slot_key: bytes
    stream_key: bytes
    hop: HopKeys


def _share(hop: HopSpec) -> tuple[bytes, _Secrets]:
    """The ephemeral public key for `hop` and what the owner shares with it."""
    secret = X25519PrivateKey.from_private_bytes(hop.ephemeral_secret)
    ephemeral = secret.public_key().public_bytes_raw()
    shared = secret.exchange(X25519PublicKey.from_public_bytes(hop.onion_key))
    return ephemeral, _derive(shared, ephemeral, hop.onion_key)


def _derive(shared: bytes, ephemeral: bytes, onion_key: bytes) -> _Secrets:
    material = HKDF(
        algorithm=SHA256(),
        length=4 * 32 + 16,
        salt=ephemeral + onion_key,
        info=b"planetserve/path/v1",
    ).derive(shared)
    keys = HopKeys(
        forward=material[64:96],
        backward=material[96:128],
        forward_mask=int.from_bytes(material[128:136], "big"),
        backward_mask=int.from_bytes(material[136:144], "big"),
    )
    return _Secrets(material[:32], material[32:64], keys)


def _xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def _stream(key: bytes, data: bytes) -> bytes:
    """XOR with the ChaCha20 key stream of a one-use key."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(data)

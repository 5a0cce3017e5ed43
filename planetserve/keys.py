"""Identities: an Ed25519 signing key, an X25519 onion key and a CURVE transport key.

The signing key is who a participant is on the ledger, the onion key opens layers and sealed
requests meant for it, the transport key authenticates its ZeroMQ sockets. One key file holds
all three as hex in JSON, readable by its owner only.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NewType

from nacl.bindings import crypto_scalarmult_base, crypto_sign_open
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey

from planetserve.errors import KeyFileError

NodeId = NewType("NodeId", bytes)
"""First 20 bytes of SHA-256 of the Ed25519 public key; hex wherever people read it."""

NODE_ID_BYTES = 20
KEY_BYTES, SIGNATURE_BYTES = 32, 64
KEY_FORMAT = "planetserve/identity/v1"


@lru_cache(maxsize=4096)
def node_id(public_key: bytes) -> NodeId:
    """The id of the participant that signs with `public_key` (32 bytes)."""
    return NodeId(hashlib.sha256(public_key).digest()[:NODE_ID_BYTES])


@lru_cache(maxsize=64)
def _signing_key(seed: bytes) -> SigningKey:
    """Made once: it costs as much as a signature."""
    return SigningKey(seed)


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """The three secrets of a participant, 32 bytes each. Its repr shows no secret."""

    seed: bytes
    onion_secret: bytes
    transport_secret: bytes

    def __repr__(self) -> str:
        return f"Identity({self.id.hex()})"

    @property
    def public_key(self) -> bytes:
        return bytes(_signing_key(self.seed).verify_key)

    @property
    def id(self) -> NodeId:
        return node_id(self.public_key)

    @property
    def onion_public(self) -> bytes:
        return bytes(crypto_scalarmult_base(self.onion_secret))

    @property
    def transport_public(self) -> bytes:
        return bytes(crypto_scalarmult_base(self.transport_secret))

    def sign(self, domain: str, message: bytes) -> bytes:
        """Ed25519 signature of 64 bytes over `domain`, a zero byte and `message`."""
        return _signing_key(self.seed).sign(domain.encode() + b"\0" + message).signature


def verify(public_key: bytes, domain: str, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is `public_key`'s over `message` in `domain`; never raises."""
    try:
        if len(public_key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
            return False
        crypto_sign_open(signature + domain.encode() + b"\0" + message, public_key)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def identity_from(random_bytes: bytes) -> Identity:
    """Make an identity of 96 random bytes."""
    if len(random_bytes) != 96:
        raise ValueError("an identity is made of 96 random bytes")
    return Identity(random_bytes[:32], random_bytes[32:64], random_bytes[64:])


def write_identity(path: Path, identity: Identity) -> None:
    """Write a new key file with mode 0600. Raises `KeyFileError` when `path` exists."""
    text = json.dumps(
        {
            "format": KEY_FORMAT,
            "ed25519_seed": identity.seed.hex(),
            "x25519_onion": identity.onion_secret.hex(),
            "curve_transport": identity.transport_secret.hex(),
        },
        indent=2,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise KeyFileError(f"{path} exists; a key file is never overwritten") from error
    except OSError as error:
        raise KeyFileError(f"cannot write the key file {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")


def read_identity(path: Path) -> Identity:
    """Read a key file. Raises `KeyFileError` when it is missing, malformed or too open."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise KeyFileError(f"cannot read the key file {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        content = json.loads(path.read_text())
        if content["format"] != KEY_FORMAT:
            raise ValueError(content["format"])
        names = ("ed25519_seed", "x25519_onion", "curve_transport")
        return identity_from(b"".join(bytes.fromhex(content[name]) for name in names))
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path} is not a key file of format {KEY_FORMAT}") from error


def read_or_create_identity(path: Path) -> Identity:
    """Read the key file, or make one from the system's randomness when there is none."""
    if not path.exists():
        write_identity(path, identity_from(os.urandom(96)))
    return read_identity(path)

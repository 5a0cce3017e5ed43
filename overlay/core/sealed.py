"""HPKE to a model node (RFC 9180, X25519 / HKDF-SHA256 / ChaCha20-Poly1305).

The key for the way back is exported from the same context, as in Oblivious HTTP (RFC 9458): who
can open the message can answer it, and nobody else, the relays together included.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, KEMKeyPair
from pyhpke.exceptions import PyHPKEError

from planetserve.errors import RemoteProtocolError

_SUITE = CipherSuite.new(
    KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305
)
ENCAPSULATED_BYTES = 32
TAG_BYTES = 16
REPLY_KEY_BYTES = 32
_REPLY_CONTEXT = b"planetserve/reply-key/v2"


class SealedError(RemoteProtocolError):
    """A sealed message that is not for this key, or was altered."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """`data` is 32 bytes of encapsulated key and the ciphertext; `reply_key` stays here."""

    data: bytes
    reply_key: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    plaintext: bytes
    reply_key: bytes


def seal(public_key: bytes, info: bytes, plaintext: bytes, ephemeral_secret: bytes) -> Sealed:
    """Seal `plaintext` to an X25519 `public_key`; `ephemeral_secret` is 32 fresh random bytes."""
    recipient = KEMKey.from_pyca_cryptography_key(X25519PublicKey.from_public_bytes(public_key))
    secret = X25519PrivateKey.from_private_bytes(ephemeral_secret)
    ephemeral = KEMKeyPair(
        KEMKey.from_pyca_cryptography_key(secret),
        KEMKey.from_pyca_cryptography_key(secret.public_key()),
    )
    encapsulated, context = _SUITE.create_sender_context(recipient, info, eks=ephemeral)
    data = encapsulated + context.seal(plaintext)
    return Sealed(data, context.export(_REPLY_CONTEXT, REPLY_KEY_BYTES))


def open_sealed(secret_key: bytes, info: bytes, data: bytes) -> Opened:
    """Open what `seal` made for the key of `secret_key`. Raises `SealedError`."""
    recipient = KEMKey.from_pyca_cryptography_key(X25519PrivateKey.from_private_bytes(secret_key))
    try:
        context = _SUITE.create_recipient_context(data[:ENCAPSULATED_BYTES], recipient, info)
        plaintext = context.open(data[ENCAPSULATED_BYTES:])
        return Opened(plaintext, context.export(_REPLY_CONTEXT, REPLY_KEY_BYTES))
    except (PyHPKEError, ValueError) as error:
        raise SealedError("a sealed message does not open with this key") from error

"""Ed25519 signatures as CometBFT accepts them (ZIP 215), over libsodium's group operations.

Verifiers of Ed25519 differ at the edges: libsodium refuses keys and points of small order and ones
in another form than the shortest, and compares without the cofactor. CometBFT accepts all of these
(crypto/ed25519, ZIP-215 options of curve25519-voi). A validator could sign such that the chain
goes on and a stricter reader stops, so a reader has to accept exactly what the chain does.
"""

from __future__ import annotations

import hashlib

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import VerifyKey

KEY_BYTES = 32
SIGNATURE_BYTES = 64

_ORDER = (1 << 252) + 27742317777372353535851937790883648493
_IDENTITY = b"\x01" + bytes(31)
_ZERO = bytes(32)


def verifies(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes: R, s) of `message` is `key`'s (32 bytes) by ZIP 215: s is
    reduced, and 8 s B = 8 R + 8 k A with k of the bytes of R and A as they are."""
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        VerifyKey(key).verify(message, signature)
    except BadSignatureError:
        return _verifies_with_cofactor(key, message, signature)
    return True


def _verifies_with_cofactor(key: bytes, message: bytes, signature: bytes) -> bool:
    commitment, scalar = signature[:32], signature[32:]
    if int.from_bytes(scalar, "little") >= _ORDER:
        return False
    digest = hashlib.sha512(commitment + key + message).digest()
    challenge = crypto_core_ed25519_scalar_reduce(digest)
    try:
        public = _times_cofactor(key)
        expected = crypto_core_ed25519_add(_times_cofactor(commitment), _times(challenge, public))
    except CryptoError:  # the key or R is no point of the curve
        return False
    base = _IDENTITY if scalar == _ZERO else crypto_scalarmult_ed25519_base_noclamp(scalar)
    return bool(_times_cofactor(base) == expected)


def _times_cofactor(point: bytes) -> bytes:
    """8 times a point in any of its encodings, in its shortest: of the prime-order group."""
    for _ in range(3):
        point = crypto_core_ed25519_add(point, point)
    return point


def _times(scalar: bytes, point: bytes) -> bytes:
    """A multiple of a point of the prime-order group; libsodium refuses to give the identity."""
    if scalar == _ZERO or point == _IDENTITY:
        return _IDENTITY
    return crypto_scalarmult_ed25519_noclamp(scalar, point)

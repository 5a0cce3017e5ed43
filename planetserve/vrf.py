"""ECVRF-EDWARDS25519-SHA512-TAI (RFC 9381, suite 0x03) over libsodium's group operations.

A prover with an Ed25519 seed turns any input into 64 bytes that look random to everyone else and
that it cannot choose, with a proof that they are right. Proofs are 80 bytes:

    32 bytes Gamma | 16 bytes challenge c | 32 bytes scalar s, little endian

Stricter than the RFC in one point: a Gamma outside the prime-order group is refused, since
libsodium multiplies no such point. No honest prover makes one.
"""

from __future__ import annotations

import hashlib

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)
from nacl.exceptions import CryptoError

PROOF_BYTES = 80
OUTPUT_BYTES = 64

_SUITE = b"\x03"
_ENCODE, _CHALLENGE, _HASH = b"\x01", b"\x02", b"\x03"
_END = b"\x00"
_IDENTITY = b"\x01" + bytes(31)
_FIELD = (1 << 255) - 19
_ORDER = (1 << 252) + 27742317777372353535851937790883648493
_CHALLENGE_BYTES = 16


class VrfError(ValueError):
    """A proof that does not verify, or a key that is none."""


def prove(seed: bytes, alpha: bytes) -> bytes:
    """The proof for input `alpha` by the Ed25519 key of `seed` (32 bytes). RFC 9381, 5.1."""
    expanded = hashlib.sha512(seed).digest()
    clamped = bytearray(expanded[:32])
    clamped[0] &= 248
    clamped[31] &= 127
    clamped[31] |= 64
    secret = crypto_core_ed25519_scalar_reduce(bytes(clamped) + bytes(32))
    public_key = crypto_scalarmult_ed25519_base_noclamp(secret)
    point = _encode_to_curve(public_key, alpha)
    gamma = crypto_scalarmult_ed25519_noclamp(secret, point)
    nonce = crypto_core_ed25519_scalar_reduce(hashlib.sha512(expanded[32:] + point).digest())
    challenge = _challenge(
        public_key,
        point,
        gamma,
        crypto_scalarmult_ed25519_base_noclamp(nonce),
        crypto_scalarmult_ed25519_noclamp(nonce, point),
    )
    product = crypto_core_ed25519_scalar_mul(_scalar(challenge), secret)
    return gamma + challenge + crypto_core_ed25519_scalar_add(nonce, product)


def verify(public_key: bytes, alpha: bytes, proof: bytes) -> bytes:
    """The output of 64 bytes that `proof` shows to be `public_key`'s for `alpha`. RFC 9381, 5.3.

    Raises `VrfError`.
    """
    if len(proof) != PROOF_BYTES or len(public_key) != 32:
        raise VrfError("a proof has 80 bytes and a key 32")
    gamma, challenge, scalar = proof[:32], proof[32:48], proof[48:]
    if int.from_bytes(scalar, "little") >= _ORDER:
        raise VrfError("a proof's scalar is not reduced")
    point = _encode_to_curve(public_key, alpha)
    try:
        # The multiplications refuse points of small order and outside the prime-order group.
        u = crypto_core_ed25519_sub(
            crypto_scalarmult_ed25519_base_noclamp(scalar),
            crypto_scalarmult_ed25519_noclamp(_scalar(challenge), public_key),
        )
        v = crypto_core_ed25519_sub(
            crypto_scalarmult_ed25519_noclamp(scalar, point),
            crypto_scalarmult_ed25519_noclamp(_scalar(challenge), gamma),
        )
    except (CryptoError, ValueError) as error:
        raise VrfError("a proof or key holds no usable point") from error
    if _challenge(public_key, point, gamma, u, v) != challenge:
        raise VrfError("the proof does not verify")
    return output(proof)


def output(proof: bytes) -> bytes:
    """The output of a proof that is known to be right. RFC 9381, 5.2."""
    return hashlib.sha512(_SUITE + _HASH + _times_cofactor(proof[:32]) + _END).digest()


def _encode_to_curve(public_key: bytes, alpha: bytes) -> bytes:
    """Try-and-increment: the first hash that is a point, moved into the prime-order group."""
    for counter in range(256):
        digest = hashlib.sha512(
            _SUITE + _ENCODE + public_key + alpha + bytes((counter,)) + _END
        ).digest()[:32]
        if not _is_canonical(digest):
            continue
        try:
            point = _times_cofactor(digest)
        except (CryptoError, ValueError):  # not on the curve
            continue
        if point != _IDENTITY:
            return point
    raise VrfError("no point found for this input")  # one input in 2^256


def _is_canonical(encoded: bytes) -> bool:
    """Whether the y coordinate is reduced and the sign of an x of zero is not set (RFC 8032)."""
    y = int.from_bytes(encoded, "little") & ((1 << 255) - 1)
    return y < _FIELD and not (y in (1, _FIELD - 1) and encoded[31] & 128)


def _times_cofactor(point: bytes) -> bytes:
    """8 times a point of the curve, in the prime-order group or not."""
    for _ in range(3):
        point = crypto_core_ed25519_add(point, point)
    return point


def _challenge(*points: bytes) -> bytes:
    return hashlib.sha512(_SUITE + _CHALLENGE + b"".join(points) + _END).digest()[:_CHALLENGE_BYTES]


def _scalar(challenge: bytes) -> bytes:
    return challenge + bytes(32 - len(challenge))

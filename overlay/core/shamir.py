"""Shamir's secret sharing over GF(2^8), byte by byte (Shamir 1979).

The field is that of AES (polynomial 0x11b). Shares are points at x = 1..n of polynomials whose
constant terms are the secret's bytes; the coefficients are the caller's random bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_SHARES = 255


def _tables() -> tuple[list[int], list[int]]:
    exponents, logarithms = [0] * 510, [0] * 256
    value = 1
    for power in range(255):
        exponents[power] = exponents[power + 255] = value
        logarithms[value] = power
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)
        value &= 0xFF
    return exponents, logarithms


_EXP, _LOG = _tables()


def _multiply(a: int, b: int) -> int:
    return 0 if a == 0 or b == 0 else _EXP[_LOG[a] + _LOG[b]]


_TIMES = [bytes(_multiply(factor, value) for value in range(256)) for factor in range(256)]
"""_TIMES[f] maps every byte to its product with f, for `bytes.translate`."""


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def split(secret: bytes, n: int, k: int, coefficients: bytes) -> tuple[bytes, ...]:
    """n shares of `secret`, any k of which give it back and any k - 1 of which say nothing.

    `coefficients` are (k - 1) x len(secret) fresh random bytes.
    """
    if not 1 <= k <= n <= MAX_SHARES:
        raise ValueError("shares need 1 <= k <= n <= 255")
    size = len(secret)
    if len(coefficients) != (k - 1) * size:
        raise ValueError("coefficients must be k - 1 times as long as the secret")
    terms = [coefficients[i * size : (i + 1) * size] for i in range(k - 1)]
    shares = []
    for x in range(1, n + 1):
        value = bytes(size)
        for term in reversed(terms):  # Horner's rule
            value = _xor(value, term).translate(_TIMES[x])
        shares.append(_xor(value, secret))
    return tuple(shares)


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret from exactly k shares, keyed by their x (1..255), by Lagrange interpolation."""
    points = list(shares)
    if not points or not all(1 <= x <= MAX_SHARES for x in points):
        raise ValueError("shares are numbered from 1 to 255")
    size = len(shares[points[0]])
    if any(len(share) != size for share in shares.values()):
        raise ValueError("shares of one secret have one length")
    secret = bytes(size)
    for x in points:
        exponent = 0  # of the Lagrange coefficient at 0: product of other / (other - x)
        for other in points:
            if other != x:
                exponent += _LOG[other] - _LOG[other ^ x]
        secret = _xor(secret, shares[x].translate(_TIMES[_EXP[exponent % 255]]))
    return secret

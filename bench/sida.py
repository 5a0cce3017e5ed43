"""S-IDA beside the sum of its primitives: what our own code adds to them.

Splitting is signing a message and dispersing it, combining is restoring it from three of four
cloves, one of which is parity, and verifying. As in the product, a signature covers the SHA-256
of a message. Each primitive is called as the code calls it, in the same rounds. Times are of the
processor, which are those of the clock on an idle machine.
"""

from __future__ import annotations

import gc
import hashlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.signing import SigningKey
from pyeclib.ec_iface import ECDriver

from bench.figures import Figure, Report
from overlay.core import shamir, sida

N, K = 4, 3
SIZES = (200, 1_000, 4_000, 16_384, 65_536, 262_144)
LIMITED_SIZE = 65_536
LIMIT_US = 160.0
LIMIT_RATIO = 1.5
AUTHORS_US = {"split": 3_260.0, "combine": 3_470.0}
"""The authors' C++ at -O2 on 65,536 bytes, two cores of an AMD EPYC, with a cheaper signature."""
ROUND_BYTES = 64 << 20
MOST_ROUNDS = 3_000


@dataclass(frozen=True, slots=True)
class Work:
    """Ours, and the primitives that it is made of."""

    ours: Callable[[], object]
    primitives: tuple[Callable[[], object], ...]


def run() -> Report:
    figures: list[Figure] = []
    for size in SIZES:
        for name, work in _works(size).items():
            ours_us, primitives_us = _measure(work, min(MOST_ROUNDS, ROUND_BYTES // size))
            label = f"{name}, signed, {size} bytes"
            figures.append(Figure(label, ours_us, "us", limit=LIMIT_RATIO, peer=primitives_us))
            if size == LIMITED_SIZE:
                figures.append(Figure(f"{label}, alone", ours_us, "us", limit=LIMIT_US))
                authors_us = AUTHORS_US[name]
                figures.append(Figure(f"{label}, beside C++", ours_us, "us", peer=authors_us))
    wire_bytes = sum(len(clove.encode()) for clove in _cloves(LIMITED_SIZE))
    figures.append(
        Figure(f"wire cost of {LIMITED_SIZE} bytes", wire_bytes, "B", limit=1.5, peer=LIMITED_SIZE)
    )
    return Report("sida", tuple(figures))


def _cloves(size: int) -> tuple[sida.Clove, ...]:
    return sida.split(os.urandom(size), N, K, os.urandom(sida.random_bytes_needed(K)))


def _works(size: int) -> dict[str, Work]:
    signer = SigningKey.generate()
    verifier = signer.verify_key
    code = ECDriver(k=K, m=N - K, ec_type="isa_l_rs_cauchy")
    message = os.urandom(size)
    randomness = os.urandom(sida.random_bytes_needed(K))
    key, coefficients = randomness[: sida.KEY_BYTES], randomness[sida.KEY_BYTES :]
    ad, nonce = bytes((sida.VERSION, N, K)), bytes(12)
    ciphertext = ChaCha20Poly1305(key).encrypt(nonce, message, ad)
    fragments = code.encode(ciphertext)[1:]
    cloves = sida.split(message, N, K, randomness)[1:]
    shares = {clove.index + 1: clove.key_share for clove in cloves}

    def sign() -> bytes:
        return signer.sign(hashlib.sha256(message).digest()).signature

    def verify() -> bytes:
        return verifier.verify(hashlib.sha256(message).digest(), signature)

    def split() -> object:
        sign()
        return sida.split(message, N, K, randomness)

    def combine() -> bytes:
        restored = sida.combine(cloves)
        return verifier.verify(hashlib.sha256(restored).digest(), signature)

    signature = sign()
    return {
        "split": Work(
            split,
            (
                sign,
                lambda: ChaCha20Poly1305(key).encrypt(nonce, message, ad),
                lambda: code.encode(ciphertext),
                lambda: shamir.split(key, N, K, coefficients),
            ),
        ),
        "combine": Work(
            combine,
            (
                verify,
                lambda: ChaCha20Poly1305(key).decrypt(nonce, ciphertext, ad),
                lambda: code.decode(fragments),
                lambda: shamir.combine(shares),
            ),
        ),
    }


def _measure(work: Work, rounds: int) -> tuple[float, float]:
    """Median microseconds of ours, and the sum of the primitives' medians."""
    calls = (work.ours, *work.primitives)
    taken: list[list[int]] = [[] for _ in calls]
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for call, times in zip(calls, taken, strict=True):
                started_ns = time.thread_time_ns()
                call()
                times.append(time.thread_time_ns() - started_ns)
    finally:
        gc.enable()
    ours_ns, *primitives_ns = (statistics.median(times) for times in taken)
    return ours_ns / 1e3, sum(primitives_ns) / 1e3

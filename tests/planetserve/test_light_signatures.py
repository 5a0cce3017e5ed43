"""Signatures at the edges of Ed25519: accepted exactly when CometBFT accepts them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from planetserve.errors import ForgedHeader
from planetserve.light.blocks import light_block
from planetserve.light.signatures import verifies
from planetserve.light.verifier import Rules, check_signed
from tests.planetserve.light_chain import CHAIN_ID, header_at, key_of, sign, signers

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "ed25519_cometbft.json").read_text()
)["vectors"]
SMALL_ORDER = [
    bytes.fromhex(item)
    for item in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
]
"""Every encoding of the points of small order, those that are not reduced included (ZIP 215)."""


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["what"])
def test_what_cometbft_accepts_is_accepted_and_nothing_else(vector: dict[str, Any]) -> None:
    key, message, signature = (
        bytes.fromhex(vector[name]) for name in ("key", "message", "signature")
    )
    assert verifies(key, message, signature) is vector["accepted"]


def test_the_196_cases_of_zip_215() -> None:
    """All of them are valid there, and libsodium refuses every one."""
    for key, commitment in product(SMALL_ORDER, SMALL_ORDER):
        signature = commitment + bytes(32)
        assert verifies(key, b"Zcash", signature)
        with pytest.raises(BadSignatureError):
            VerifyKey(key).verify(b"Zcash", signature)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=100), st.integers(0, 511))
def test_a_changed_bit_is_refused(secret: bytes, message: bytes, place: int) -> None:
    signer = SigningKey(secret)
    key, signature = bytes(signer.verify_key), signer.sign(message).signature
    assert verifies(key, message, signature)
    changed = bytearray(signature)
    changed[place // 8] ^= 1 << place % 8
    assert not verifies(key, message, bytes(changed))
    assert not verifies(key, message + b"!", signature)


@given(st.binary(max_size=40), st.binary(max_size=100), st.binary(max_size=70))
def test_any_bytes_are_judged(key: bytes, message: bytes, signature: bytes) -> None:
    verifies(key, message, signature)


def test_a_commit_may_hold_what_only_the_cofactor_lets_pass() -> None:
    """A vote whose R has a part of order 8, as the chain accepts it, and one that it refuses."""
    powers = signers(range(4))
    block = sign(header_at(5, powers, powers), powers)
    rules = Rules(CHAIN_ID, 1 << 40)
    key = block.validators.validators[0].key
    secret = next(item for item in powers if bytes(key_of(item).verify_key) == key)
    vote = _with_torsion(secret, block.commit.signed_bytes(CHAIN_ID, 0))
    with pytest.raises(BadSignatureError):
        VerifyKey(key).verify(block.commit.signed_bytes(CHAIN_ID, 0), vote)
    for signature, believed in ((vote, True), (vote[:32] + bytes(32), False)):
        votes = (replace(block.commit.votes[0], signature=signature), *block.commit.votes[1:])
        changed = light_block(block.header, replace(block.commit, votes=votes), block.validators)
        if believed:
            check_signed(changed, rules)
        else:
            with pytest.raises(ForgedHeader):
                check_signed(changed, rules)


def _with_torsion(secret: bytes, message: bytes) -> bytes:
    order = (1 << 252) + 27742317777372353535851937790883648493
    expanded = bytearray(hashlib.sha512(secret).digest()[:32])
    expanded[0] &= 248
    expanded[31] = expanded[31] & 127 | 64
    scalar = int.from_bytes(expanded, "little")
    nonce = int.from_bytes(hashlib.sha512(b"nonce" + message).digest(), "little") % order
    point = crypto_scalarmult_ed25519_base_noclamp(nonce.to_bytes(32, "little"))
    commitment = crypto_core_ed25519_add(point, SMALL_ORDER[-2])
    key = bytes(key_of(secret).verify_key)
    digest = hashlib.sha512(commitment + key + message).digest()
    challenge = int.from_bytes(digest, "little") % order
    return commitment + ((nonce + challenge * scalar) % order).to_bytes(32, "little")

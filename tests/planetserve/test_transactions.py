"""Signed transactions: what is signed, and what is refused before any rule looks at it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.encoding import EncodingError, decode, encode
from planetserve.keys import identity_from
from planetserve.transactions import (
    MAX_TRANSACTION_BYTES,
    decode_transaction,
    endorse,
    reveal,
    score_commitment,
    sign_transaction,
)

IDENTITY = identity_from(bytes(range(96)))
RAW = sign_transaction(
    IDENTITY, "chain", 3, "endorse", endorse(node=b"n" * 20, role="relay", expires=99)
)


def test_it_reads_as_it_was_signed() -> None:
    transaction = decode_transaction(RAW)
    assert transaction.signed_for("chain")
    assert not transaction.signed_for("other")
    assert (transaction.kind, transaction.nonce, transaction.key) == (
        "endorse",
        3,
        IDENTITY.public_key,
    )
    assert transaction.data == {"node": b"n" * 20, "role": "relay", "expires": 99}


@pytest.mark.parametrize("length", range(len(RAW)))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(EncodingError):
        decode_transaction(RAW[:length])


@given(st.integers(0, len(RAW) * 8 - 1))
def test_every_flipped_bit_is_refused_or_breaks_the_signature(bit: int) -> None:
    damaged = bytearray(RAW)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        transaction = decode_transaction(bytes(damaged))
    except EncodingError:
        return
    assert not transaction.signed_for("chain")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("v", 2),
        ("v", True),
        ("nonce", -1),
        ("nonce", True),
        ("key", b"short"),
        ("kind", b"bytes"),
        ("data", []),
        ("extra", 1),
    ],
)
def test_a_field_that_is_wrong_is_refused(field: str, value: object) -> None:
    envelope = decode(RAW)
    body = {**decode(envelope["body"]), field: value}
    with pytest.raises(EncodingError):
        decode_transaction(encode({**envelope, "body": encode(body)}))


def test_one_too_large_is_refused() -> None:
    raw = sign_transaction(IDENTITY, "chain", 0, "x" * MAX_TRANSACTION_BYTES, {})
    with pytest.raises(EncodingError, match="more than"):
        decode_transaction(raw)


def test_a_commitment_binds_chain_prober_and_every_field() -> None:
    data = reveal(epoch=1, node=b"n" * 20, score_ppm=7, samples=1, digest=bytes(32), salt=bytes(32))
    base = score_commitment("chain", b"k" * 32, data)
    others = {
        score_commitment("chain2", b"k" * 32, data),
        score_commitment("chain", b"l" * 32, data),
        *(
            score_commitment("chain", b"k" * 32, {**data, name: value})
            for name, value in (
                ("epoch", 2),
                ("node", b"m" * 20),
                ("score_ppm", 8),
                ("samples", 2),
                ("digest", b"d" * 32),
                ("salt", b"s" * 32),
            )
        ),
    }
    assert len(others) == 8
    assert base not in others

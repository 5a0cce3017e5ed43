"""Signed transactions: what is signed, and what is refused before any rule looks at it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.encoding import EncodingError, decode, encode
from planetserve.keys import identity_from, verify
from planetserve.transactions import (
    COMMIT,
    MAX_ELEMENTS,
    MAX_TRANSACTION_BYTES,
    MODEL,
    RETIRE,
    REVOKE,
    ROTATION_DOMAIN,
    VOTE,
    commit,
    decode_transaction,
    endorse,
    evidence,
    model,
    propose,
    register,
    retire,
    reveal,
    revoke,
    rotate,
    rotation_message,
    score_commitment,
    sign_transaction,
    vote,
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
    data = reveal(
        epoch=1,
        node=b"n" * 20,
        score_ppm=7,
        samples=1,
        digest=bytes(32),
        salt=bytes(32),
        proof=bytes(80),
    )
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
    # The proof need not be covered: a key has one for an epoch.
    assert score_commitment("chain", b"k" * 32, {**data, "proof": b"p" * 80}) == base


def test_a_rotation_is_agreed_to_for_one_chain_and_one_pair_of_keys() -> None:
    new = identity_from(bytes(96))
    data = rotate("chain", IDENTITY.public_key, new)
    assert data["new_key"] == new.public_key

    def agreed(chain_id: str, old: bytes, key: bytes) -> bool:
        message = rotation_message(chain_id, old, key)
        return verify(new.public_key, ROTATION_DOMAIN, message, data["proof"])

    assert agreed("chain", IDENTITY.public_key, new.public_key)
    assert not agreed("chain2", IDENTITY.public_key, new.public_key)
    assert not agreed("chain", new.public_key, new.public_key)
    assert not agreed("chain", IDENTITY.public_key, IDENTITY.public_key)


def test_builders_copy_what_they_are_given() -> None:
    change = {"kind": "leave", "verifier": bytes(20)}
    statement = {"statement": b"s", "signature": bytes(64)}
    endpoints = {"overlay": "tcp://127.0.0.1:1"}
    proposal = propose(change=change)
    shown = evidence(
        accused=bytes(20), key=bytes(32), kind="forbidden", request=b"", statements=[statement]
    )
    announced = register(
        name="n", roles=("relay", "model"), onion_key=b"", transport_key=b"", endpoints=endpoints
    )
    change.clear()
    statement.clear()
    endpoints.clear()
    assert proposal == {"change": {"kind": "leave", "verifier": bytes(20)}}
    assert shown["statements"] == [{"statement": b"s", "signature": bytes(64)}]
    assert announced["endpoints"] == {"overlay": "tcp://127.0.0.1:1"}
    assert announced["roles"] == ["model", "relay"]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (RETIRE, retire()),
        (REVOKE, revoke(node=bytes(20), role="relay")),
        (VOTE, vote(proposal=1, approve=False)),
        (COMMIT, commit(epoch=1, node=bytes(20), commitment=bytes(32))),
        (
            MODEL,
            model(
                name="tiny",
                weights_digest=bytes(32),
                quantization="F16",
                context_tokens=8,
                deterministic=True,
            ),
        ),
    ],
)
def test_what_a_builder_makes_is_read_as_it_was(kind: str, data: dict[str, object]) -> None:
    transaction = decode_transaction(sign_transaction(IDENTITY, "chain", 0, kind, data))
    assert (transaction.kind, transaction.data) == (kind, data)
    assert transaction.signed_for("chain")


@pytest.mark.parametrize(
    "data",
    [
        {"x": [{}] * MAX_ELEMENTS},
        {"x": [[None] * 16] * 16},
        {"x": {f"{n:03}": n for n in range(MAX_ELEMENTS // 2)}},
        {f"{n:03}": {"a": [n]} for n in range(MAX_ELEMENTS // 4)},
    ],
)
def test_what_takes_much_more_memory_than_bytes_is_refused(data: dict[str, object]) -> None:
    raw = sign_transaction(IDENTITY, "chain", 0, "update", data)
    assert len(raw) < MAX_TRANSACTION_BYTES
    with pytest.raises(EncodingError, match="elements"):
        decode_transaction(raw)
    some = {"x": [b"y"] * (MAX_ELEMENTS - 3)}
    assert decode_transaction(sign_transaction(IDENTITY, "chain", 0, "update", some)).data == some

"""The golden vectors of requests and answers are what this implementation makes, and what
docs/protocol.md says: they are opened here a second time, by the page's formulas and libraries."""

from __future__ import annotations

import json
from functools import lru_cache, reduce
from itertools import combinations
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from overlay.core import sida
from tests.vectors.answers import PATH, vectors

GOLDEN: dict[str, Any] = json.loads(PATH.read_text())
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)


@lru_cache(maxsize=1)
def made() -> dict[str, Any]:
    """What this implementation makes now, as JSON reads it."""
    read: dict[str, Any] = json.loads(json.dumps(vectors()))
    return read


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


def times(a: int, b: int) -> int:
    """In GF(2^8) with x^8 + x^4 + x^3 + x + 1."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def over(a: int, b: int) -> int:
    return times(a, reduce(times, [b] * 254))


def key_of(shares: dict[int, bytes]) -> bytes:
    """Lagrange's polynomial at 0; share i belongs to x = i + 1."""
    key = bytearray(32)
    for index, share in shares.items():
        factor = 1
        for other in shares:
            if other != index:
                factor = times(factor, over(other + 1, (other + 1) ^ (index + 1)))
        for place, value in enumerate(share):
            key[place] ^= times(factor, value)
    return bytes(key)


def message_of(cloves: list[bytes]) -> bytes:
    """From the first k cloves, whose fragments are the ciphertext itself."""
    n, k = (cloves[0][1] >> 4) + 1, (cloves[0][1] & 15) + 1
    assert [clove[0] for clove in cloves] == [2 << 4 | index for index in range(len(cloves))]
    length = int.from_bytes(cloves[0][2:5], "big")
    key = key_of({index: cloves[index][5:37] for index in range(k)})
    ciphertext = b"".join(clove[37:] for clove in cloves[:k])[:length]
    return ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, bytes((2, n, k)))


def unsealed(secret: bytes, info: bytes, data: bytes) -> tuple[bytes, bytes]:
    """The plaintext and the exported key."""
    recipient = KEMKey.from_pyca_cryptography_key(X25519PrivateKey.from_private_bytes(secret))
    context = SUITE.create_recipient_context(data[:32], recipient, info)
    plaintext = context.open(data[32:])
    return plaintext, context.export(b"planetserve/reply-key/v2", 32)


@pytest.mark.parametrize("topic", sorted(GOLDEN))
def test_nothing_has_changed(topic: str) -> None:
    """Who changes a format means to: `python -m tests.vectors.make`, and say so in CHANGELOG."""
    assert made()[topic] == GOLDEN[topic]


@pytest.mark.parametrize(
    "vector", GOLDEN["cloves"], ids=lambda vector: f"{vector['k']} of {vector['n']}"
)
def test_cloves_make_their_message(vector: dict[str, Any]) -> None:
    cloves, n, k = [raw(clove) for clove in vector["cloves"]], vector["n"], vector["k"]
    assert message_of(cloves) == raw(vector["message"])
    coefficients = [raw(vector["key"]), *(raw(vector["coefficients"])[32 * i :] for i in range(k))]
    for index, clove in enumerate(cloves):
        value = 0
        for coefficient in reversed(coefficients[:k]):
            value = times(value, index + 1) ^ coefficient[0]
        assert clove[5] == value
    for chosen in list(combinations(cloves, k))[-20:]:  # with parity
        assert sida.combine(sida.decode_clove(item) for item in chosen) == raw(vector["message"])
    assert len(cloves) == n


@pytest.mark.parametrize("name", sorted(GOLDEN["requests"]))
def test_the_model_node_opens_a_request(name: str) -> None:
    vector = GOLDEN["requests"][name]
    secret, target = raw(vector["onion_secret"]), raw(vector["target"])
    ids, cloves, cells = [], [], raw(vector["streams"][0])[:2]
    for stream, path_key in zip(vector["streams"], vector["path_keys"], strict=True):
        assert raw(stream)[:2] == cells
        assert len(raw(stream)) == 1970 * int.from_bytes(cells, "big") - 20
        info = b"planetserve/clove/v2\0" + target
        opened, exported = unsealed(secret, info, raw(stream)[2:])
        assert exported == raw(path_key)
        ids.append(opened[:16])
        cloves.append(opened[16:])
    assert len(set(ids)) == 1
    assert int.from_bytes(ids[0][:4], "big") == vector["period"]
    info = b"planetserve/request/v2\0" + target
    message, exported = unsealed(secret, info, message_of(cloves))
    assert exported == raw(vector["reply_key"])
    head = bytes((vector["kind"],)) + vector["least_frames"].to_bytes(2, "big")
    payload = raw(vector["payload"])
    assert message.rstrip(b"\0") == (head + len(payload).to_bytes(4, "big") + payload).rstrip(b"\0")
    assert len(message) == vector["k"] * (1970 * int.from_bytes(cells, "big") - 123) - 64


@pytest.mark.parametrize("vector", GOLDEN["frames"], ids=lambda vector: f"frame {vector['number']}")
def test_the_client_opens_a_frame(vector: dict[str, Any]) -> None:
    number, cloves = vector["number"].to_bytes(4, "big"), []
    for chunk, path_key, chunk_nonce in zip(
        vector["chunks"], vector["path_keys"], vector["chunk_nonces"], strict=True
    ):
        sent = raw(chunk)
        assert sent[:12] == raw(chunk_nonce)
        assert len(sent) == 1970
        hkdf = HKDF(SHA256(), 32, None, b"planetserve/answer/v2")
        cipher = ChaCha20Poly1305(hkdf.derive(raw(path_key)))
        opened = cipher.decrypt(sent[:12], sent[12:], None)
        assert opened[:4] == number
        cloves.append(opened[4:])
    inner = message_of(cloves)
    assert inner[:12] == raw(vector["nonce"])
    frame = ChaCha20Poly1305(raw(vector["reply_key"])).decrypt(inner[:12], inner[12:], number)
    data = raw(vector["data"])
    head = bytes((vector["kind"],)) + len(data).to_bytes(2, "big")
    assert frame == (head + data).ljust(1901 * 3 - 44, b"\0")


@pytest.mark.parametrize("vector", GOLDEN["attaches"], ids=lambda vector: str(vector["number"]))
def test_the_model_node_takes_an_attach(vector: dict[str, Any]) -> None:
    stream = raw(vector["stream"])
    assert (stream[:2], len(stream)) == (b"\0\1", 1950)
    info = b"planetserve/clove/v2\0" + raw(vector["target"])
    opened, exported = unsealed(raw(vector["onion_secret"]), info, stream[2:])
    assert exported == raw(vector["path_key"])
    head = bytes((vector["clove"], vector["number"])) + vector["next_frame"].to_bytes(4, "big")
    assert opened == raw(vector["message_id"]) + head + bytes(1878)

"""The golden vectors of the overlay are what this implementation makes, and what docs/protocol.md
says: they are opened here a second time, by the page's formulas and the library's primitives."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.core import payload as payloads
from overlay.core.layer import unwrap
from overlay.core.payload import decode_payload
from overlay.core.reasons import Reason, read_close_body, read_error_data
from overlay.core.wire import CELL, KINDS, SETUP, STREAM, STREAM_END, read_chunk
from tests.vectors.overlay import PATH, vectors

GOLDEN: dict[str, Any] = json.loads(PATH.read_text())
BODY, PAYLOAD, FRAME = 2039, 1975, 2048


@lru_cache(maxsize=1)
def made() -> dict[str, Any]:
    """What this implementation makes now, as JSON reads it."""
    read: dict[str, Any] = json.loads(json.dumps(vectors()))
    return read


def raw(text: str, size: int = 0) -> bytes:
    """Bytes in hex, with the zeros that were left out at their end."""
    return bytes.fromhex(text).ljust(size, b"\0")


def nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def peeled(key: bytes, counter: int, body: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(nonce(counter), body[16:] + bytes(16) + body[:16], None)


def stream_end(key: bytes, counter: int, count: int) -> bytes:
    """The end of a hop's key stream for 2,039 bytes, made whole as the simplest way."""
    cipher = Cipher(algorithms.ChaCha20(key, (1).to_bytes(4, "little") + nonce(counter)), None)
    return cipher.encryptor().update(bytes(BODY))[-count:]


def opened_back(keys: list[bytes], counter: int, body: bytes) -> bytes:
    """What the hop of the last of `keys` said, as the page tells owners to open it."""
    end, lost = bytes(16 * len(keys)), list[bytes]()
    for key in reversed(keys):
        stream = stream_end(key, counter, len(end))
        end = bytes(a ^ b for a, b in zip(end, stream, strict=True))
        lost.insert(0, end[-16:])
        end = end[:-16]
    for key, missing in zip(keys, lost, strict=True):
        sealed = body[16:] + missing + body[:16]
        body = ChaCha20Poly1305(key).decrypt(nonce(counter), sealed, None)
    return body


@pytest.mark.parametrize("topic", sorted(GOLDEN))
def test_nothing_has_changed(topic: str) -> None:
    """Who changes a format means to: `python -m tests.vectors.make`, and say so in CHANGELOG."""
    assert made()[topic] == GOLDEN[topic]


def test_there_is_one_of_each() -> None:
    assert set(GOLDEN) >= set(vectors())
    assert set(GOLDEN["reasons"]) == {reason.name for reason in Reason}
    commands = {item["command"] for item in GOLDEN["payloads"].values()}
    assert commands == payloads.OUTWARD | payloads.BACKWARD
    kinds = {raw(item["frame"])[8] for item in GOLDEN["transcript"]["frames"]}
    assert kinds == KINDS
    assert [len(item["hops"]) for item in GOLDEN["setups"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("vector", GOLDEN["ids"])
def test_ids(vector: dict[str, str]) -> None:
    digest = hashlib.sha256(b"planetserve/backward/v2\0" + raw(vector["outwards"])).hexdigest()
    assert digest[:16] == vector["back"]


@pytest.mark.parametrize("name", sorted(GOLDEN["reasons"]))
def test_reasons_are_read(name: str) -> None:
    vector = GOLDEN["reasons"][name]
    report = read_close_body(raw(vector["close_body"], BODY))
    assert report == read_error_data(raw(vector["error_data"]))
    assert (report.reason, report.detail) == (vector["value"], raw(vector["detail"]))


@pytest.mark.parametrize("name", sorted(GOLDEN["payloads"]))
def test_payloads_are_read(name: str) -> None:
    vector = GOLDEN["payloads"][name]
    payload = decode_payload(raw(vector["encoded"], PAYLOAD))
    assert payload.command == vector["command"] == getattr(payloads, name)
    assert (payload.stream, payload.data) == (vector["stream"], raw(vector["data"]))


@pytest.mark.parametrize("vector", GOLDEN["streams"], ids=lambda v: f"{len(v['chunk']) // 2} bytes")
def test_chunks_are_read(vector: dict[str, str]) -> None:
    assert read_chunk(raw(vector["body"], BODY)) == raw(vector["chunk"])


@pytest.mark.parametrize("solved", [True, False])
def test_the_puzzle(solved: bool) -> None:
    vector = GOLDEN["puzzle"]
    answer = raw(vector["nonce" if solved else "no_solution"])
    digest = hashlib.blake2b(
        raw(vector["seed"]) + raw(vector["ephemeral"]) + answer,
        digest_size=8,
        person=b"ps/puzzle/v2",
    ).digest()
    zeros = 64 - int.from_bytes(digest, "big").bit_length()
    assert (zeros >= vector["difficulty"]) == solved


@pytest.mark.parametrize("vector", GOLDEN["setups"], ids=lambda v: f"{len(v['hops'])} hops")
def test_each_hop_opens_its_set_up(vector: dict[str, Any]) -> None:
    hops, bodies = vector["hops"], [raw(body) for body in vector["bodies"]]
    for index, hop in enumerate(hops):
        body, node = bodies[index], raw(hop["node"])
        ephemeral = X25519PrivateKey.from_private_bytes(raw(hop["ephemeral_secret"])).public_key()
        assert body[:32] == ephemeral.public_bytes_raw()
        assert body[32:40] == raw(hop["puzzle_nonce"])
        secret = X25519PrivateKey.from_private_bytes(raw(hop["onion_secret"]))
        assert secret.public_key().public_bytes_raw() == raw(hop["onion_key"])
        shared = secret.exchange(X25519PublicKey.from_public_bytes(body[:32]))
        info = b"planetserve/path/v2\0" + node
        derived = HKDF(SHA256(), 96, body[:32] + raw(hop["onion_key"]), info).derive(shared)
        assert derived[32:] == raw(hop["forward_key"]) + raw(hop["backward_key"])
        sealed = body[56:] + bytes(88) + body[40:56]
        plain = ChaCha20Poly1305(derived[:32]).decrypt(bytes(12), sealed, body[:40])
        following = raw(hops[index + 1]["node"]) if index + 1 < len(hops) else bytes(20)
        last = index + 1 == len(hops)
        period = vector["period"].to_bytes(4, "big")
        assert plain[:32] == bytes((2, last)) + following + period + bytes(6)
        assert plain[32:] == bodies[index + 1]
    # Nothing but the end of what the last hop would send on is not the owner's filler.
    grown = 88 * len(hops)
    assert bodies[-1][: BODY - grown] == raw(vector["filler"])[: BODY - grown]


@pytest.mark.parametrize(
    "vector", GOLDEN["cells_out"], ids=lambda v: f"{len(v['bodies']) - 1} hops"
)
def test_each_hop_peels_its_cell(vector: dict[str, Any]) -> None:
    keys, bodies = vector["forward_keys"], [raw(body) for body in vector["bodies"]]
    for key, body, following in zip(keys, bodies, bodies[1:], strict=False):
        assert peeled(raw(key), vector["counter"], body) == following
        with pytest.raises(InvalidTag):
            peeled(raw(key), vector["counter"] + 1, body)
    free = 16 * (4 - len(keys))
    assert bodies[-1][:PAYLOAD] == raw(vector["payload"], PAYLOAD)
    assert bodies[-1][PAYLOAD : PAYLOAD + free] == raw(vector["filler"])[:free]


@pytest.mark.parametrize(
    "vector",
    GOLDEN["cells_back"],
    ids=lambda v: f"hop {v['speaker']} of {len(v['backward_keys'])}",
)
def test_the_owner_opens_what_a_hop_said(vector: dict[str, Any]) -> None:
    keys, speaker = [raw(key) for key in vector["backward_keys"]], vector["speaker"]
    bodies = [raw(body) for body in vector["bodies"]]
    said = raw(vector["payload"], PAYLOAD) + bytes(64)
    for key, body, plain in zip(reversed(keys[:speaker]), bodies, [said, *bodies], strict=False):
        sealed = ChaCha20Poly1305(key).encrypt(nonce(vector["counter"]), plain, None)
        assert body == sealed[BODY:] + sealed[: BODY - 16]
    assert opened_back(keys[:speaker], vector["counter"], bodies[-1]) == said
    assert unwrap(keys[:speaker], vector["counter"], bodies[-1]) == said[:PAYLOAD]


def test_the_transcript_is_a_path_from_set_up_to_end() -> None:
    """Everything in it is opened with the hops' keys, and it says what such a path says."""
    hops = GOLDEN["transcript"]["hops"]
    forward = [raw(hop["forward_key"]) for hop in hops]
    backward = [raw(hop["backward_key"]) for hop in hops]
    places = ["owner", "relay 1", "relay 2", "relay 3", "target"]
    sent, heard, told = 0, 0, list[str]()
    for item in GOLDEN["transcript"]["frames"]:
        frame = raw(item["frame"], FRAME)
        kind, body = frame[8], frame[9:]
        assert abs(places.index(item["from"]) - places.index(item["to"])) == 1
        if kind == SETUP:
            told.append(f"set-up to {item['to']}")
        elif kind == CELL and item["from"] == "owner":
            for key in forward:
                body = peeled(key, sent, body)
            sent += 1
            told.append(f"out {decode_payload(body[:PAYLOAD]).command}")
        elif kind == CELL and item["to"] == "owner":
            payload = decode_payload(opened_back(backward, heard, body)[:PAYLOAD])
            heard += 1
            told.append(f"back {payload.command}")
        elif kind in (STREAM, STREAM_END):
            shown = read_chunk(body).decode() if kind == STREAM else read_close_body(body).reason
            told.append(f"{item['from']}: {shown}")
    assert told == [
        *(f"set-up to relay {number}" for number in (1, 2, 3)),
        f"back {payloads.ESTABLISHED}",
        f"out {payloads.OPEN}",
        "relay 3: question",
        "target: answer",
        f"back {payloads.DATA}",
        "target: 0",
        f"back {payloads.END}",
        f"out {payloads.PING}",
        f"back {payloads.PONG}",
        f"back {payloads.ERROR}",
    ]

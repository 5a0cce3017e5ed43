"""A question from docs/protocol.md alone: asked over three of four paths, the answer printed.

Standard input: msgpack of {"paths": three paths of [node id, onion key, transport key, endpoint],
nearest first, "target": [node id, onion key, Ed25519 key], "chain_id", "model", "question"}. The
paths carry cloves 1, 2 and 3 of four, so that both the question and the answer need the parity.
"""

import hashlib
import json
import os
import sys
import time
from typing import Any

import msgpack
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey
from zmq.utils import z85

N, K, INDICES = 4, 3, (1, 2, 3)
SHAMIR, DISPERSAL = 0x11B, 0x11D
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)
context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()


# Layers and paths, as in independent_path.py.


def masked(end: bytes, key: bytes, nonce: bytes, size: int) -> bytes:
    """`end` XOR the end of the key's stream for `size` bytes."""
    stream = Cipher(algorithms.ChaCha20(key, b"\1\0\0\0" + nonce), None).encryptor()
    return xor(end, stream.update(bytes(size))[-len(end) :])


def xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def wrap(
    keys: list[bytes], nonce: bytes, size: int, grown: int, body: bytes, heads: list[bytes]
) -> bytes:
    """All layers over `body`; a head is what stands before a hop's tag and, from 40 bytes on, what
    the hop reads first."""
    ends = [b""]
    for key in keys:
        ends.append(masked(ends[-1] + bytes(grown), key, nonce, size))
    for key, end, head in reversed(list(zip(keys, ends[1:], heads, strict=True))):
        plain = (head[40:] + body)[: size - len(end)] + end
        sealed = ChaCha20Poly1305(key).encrypt(nonce, plain, head[:40])
        body = head[:40] + sealed[size:] + sealed[: size - grown]
    return body


class Path:
    """`keys` are set-up, forward and backward keys of each hop; cells are counted."""

    def __init__(self, hops: list[list[Any]]) -> None:
        keys, heads = [], []
        period = (int(time.time()) // 300).to_bytes(4, "big")
        afters: list[list[Any] | None] = [*hops[1:], None]
        for (node, onion_key, *_), after in zip(hops, afters, strict=True):
            secret = X25519PrivateKey.generate()
            ephemeral = secret.public_key().public_bytes_raw()
            shared = secret.exchange(X25519PublicKey.from_public_bytes(onion_key))
            info = b"planetserve/path/v2\0" + node
            okm = HKDF(SHA256(), 96, ephemeral + onion_key, info).derive(shared)
            keys.append((okm[:32], okm[32:64], okm[64:]))
            step = b"\2\0" + after[0] if after else b"\2\1" + bytes(20)
            heads.append(ephemeral + os.urandom(8) + step + period + bytes(6))
        setup_keys, self.forward, self.backward = ([hop[part] for hop in keys] for part in range(3))
        self.sent, self.received, self.id = 0, 0, os.urandom(8)
        self.socket = context.socket(zmq.DEALER)
        self.socket.curve_publickey, self.socket.curve_secretkey = zmq.curve_keypair()
        self.socket.curve_serverkey = z85.encode(hops[0][2])
        self.socket.linger, self.socket.rcvtimeo = 1000, 10_000
        self.socket.connect(hops[0][3])
        body = wrap(setup_keys, bytes(12), 2071, 88, os.urandom(2039), heads)
        self.socket.send(self.id + b"\1" + body)
        assert self.receive() == (16, 0, b"\2\0\x80\1\0")

    def send(self, command: int, stream: int, data: bytes) -> None:
        payload = bytes((command,)) + stream.to_bytes(2, "big") + len(data).to_bytes(2, "big")
        body = (payload + data).ljust(1975, b"\0") + os.urandom(16 * (4 - len(self.forward)))
        nonce = self.sent.to_bytes(12, "big")
        self.sent += 1
        cell = wrap(self.forward, nonce, 2039, 16, body, [b""] * len(self.forward))
        self.socket.send(self.id + b"\2" + cell)

    def receive(self) -> tuple[int, int, bytes]:
        """Command, stream and data of the next cell."""
        frame, nonce = self.socket.recv(), self.received.to_bytes(12, "big")
        self.received += 1
        back = hashlib.sha256(b"planetserve/backward/v2\0" + self.id).digest()[:8]
        assert frame[:9] == back + b"\2", frame[8:20]
        end, lost = bytes(16 * len(self.backward)), list[bytes]()
        for key in reversed(self.backward):
            end = masked(end, key, nonce, 2039)
            lost.insert(0, end[-16:])
            end = end[:-16]
        body = frame[9:]
        for key, missing in zip(self.backward, lost, strict=True):
            body = ChaCha20Poly1305(key).decrypt(nonce, body[16:] + missing + body[:16], None)
        size = int.from_bytes(body[3:5], "big")
        return body[0], int.from_bytes(body[1:3], "big"), body[5 : 5 + size]

    def close(self) -> None:
        self.socket.send(self.id + b"\3" + bytes(2039))
        self.socket.close()


# Cloves.


def times(a: int, b: int, polynomial: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a, b = a << 1 ^ (polynomial if a & 0x80 else 0), b >> 1
    return product


def over(a: int, b: int, polynomial: int) -> int:
    return next(x for x in range(256) if times(x, b, polynomial) == a)


def scaled(data: bytes, factor: int, polynomial: int) -> bytes:
    return data.translate(bytes(times(factor, byte, polynomial) for byte in range(256)))


def split(message: bytes) -> list[bytes]:
    """Cloves 0 to 3 of the message."""
    key, terms = os.urandom(32), [os.urandom(32) for _ in range(K - 1)]
    ciphertext = ChaCha20Poly1305(key).encrypt(bytes(12), message, bytes((2, N, K)))
    size = -(-len(ciphertext) // K)
    padded = ciphertext.ljust(size * K, b"\0")
    parts = [padded[size * j : size * (j + 1)] for j in range(K)]
    parity = bytes(size)
    for j, part in enumerate(parts):
        parity = xor(parity, scaled(part, over(1, K ^ j, DISPERSAL), DISPERSAL))
    cloves = []
    for i, fragment in enumerate([*parts, parity]):
        share, power = key, 1
        for term in terms:
            power = times(power, i + 1, SHAMIR)
            share = xor(share, scaled(term, power, SHAMIR))
        head = bytes((2 << 4 | i, N - 1 << 4 | K - 1)) + len(ciphertext).to_bytes(3, "big")
        cloves.append(head + share + fragment)
    return cloves


def combine(cloves: dict[int, bytes]) -> bytes:
    """The message from cloves 1, 2 and 3."""
    key = bytes(32)
    for i, clove in cloves.items():
        assert clove[:2] == bytes((2 << 4 | i, N - 1 << 4 | K - 1))
        factor = 1
        for other in cloves:
            if other != i:
                quotient = over(other + 1, (other + 1) ^ (i + 1), SHAMIR)
                factor = times(factor, quotient, SHAMIR)
        key = xor(key, scaled(clove[5:37], factor, SHAMIR))
    first = cloves[3][37:]
    for j in (1, 2):
        first = xor(first, scaled(cloves[j][37:], over(1, 3 ^ j, DISPERSAL), DISPERSAL))
    first = scaled(first, 3, DISPERSAL)  # its factor in the parity is 1 / (3 XOR 0)
    length = int.from_bytes(cloves[1][2:5], "big")
    ciphertext = (first + cloves[1][37:] + cloves[2][37:])[:length]
    return ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, bytes((2, N, K)))


# The question and its answer.


def sealed(label: bytes, node: bytes, onion_key: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Sealed to the model node, and the exported key."""
    recipient = KEMKey.from_pyca_cryptography_key(X25519PublicKey.from_public_bytes(onion_key))
    info = b"planetserve/" + label + b"/v2\0" + node
    encapsulated, sender = SUITE.create_sender_context(recipient, info)
    return encapsulated + sender.seal(message), sender.export(b"planetserve/reply-key/v2", 32)


def main() -> None:
    given = msgpack.unpackb(sys.stdin.buffer.read())
    node, onion_key, signing_key = given["target"]
    question = {"role": "user", "content": given["question"]}
    body = json.dumps({"model": given["model"], "messages": [question]}).encode()
    payload = msgpack.packb({"body": body, "prefer": None, "v": 1})
    size = K * (1970 - 123) - 64
    message = b"\0" + bytes(2) + len(payload).to_bytes(4, "big") + payload
    request, reply_key = sealed(b"request", node, onion_key, message.ljust(size, b"\0"))
    message_id = (int(time.time()) // 300).to_bytes(4, "big") + os.urandom(12)
    cloves, answer_keys, paths = split(request), {}, {}
    for i, hops in zip(INDICES, given["paths"], strict=True):
        clove, path_key = sealed(b"clove", node, onion_key, message_id + cloves[i])
        answer_keys[i] = HKDF(SHA256(), 32, None, b"planetserve/answer/v2").derive(path_key)
        paths[i] = Path(hops)
        paths[i].send(1, 1, node + b"\0\1" + clove)
    print("asked")
    kind, number, reply = 0, 0, b""
    while kind != 4:
        gathered = {i: chunk(paths[i], answer_keys[i], number) for i in INDICES}
        inner = combine(gathered)
        associated = number.to_bytes(4, "big")
        frame = ChaCha20Poly1305(reply_key).decrypt(inner[:12], inner[12:], associated)
        kind, reply = frame[0], reply + frame[3 : 3 + int.from_bytes(frame[1:3], "big")]
        number += 1
    for path in paths.values():
        path.send(3, 1, b"\0")
        path.close()
    events = [json.loads(line) for line in reply.splitlines()]
    text, end = "".join(event.get("delta", "") for event in events), events[-1]["end"]
    statement = {
        "chain_id": given["chain_id"],
        "finish_reason": end["finish_reason"],
        "model": end["model"],
        "request": hashlib.sha256(body).digest(),
        "text": hashlib.sha256(text.encode()).digest(),
        "usage": dict(sorted(end["usage"].items())),
    }
    signed = b"planetserve/reply/v1\0" + msgpack.packb(statement)
    signature = bytes.fromhex(end["signature"])
    Ed25519PublicKey.from_public_bytes(signing_key).verify(signature, signed)
    print("frames", number)
    print("answered", text)


def chunk(path: Path, key: bytes, number: int) -> bytes:
    """The clove of frame `number` on the path."""
    command, stream, data = path.receive()
    while command != 2:
        assert command == 4, command  # credits
        command, stream, data = path.receive()
    plain = ChaCha20Poly1305(key).decrypt(data[:12], data[12:], None)
    assert (stream, plain[:4]) == (1, number.to_bytes(4, "big"))
    return plain[4:]


main()

"""A path from docs/protocol.md alone: builds it, pings its last relay, prints what comes back.

Standard input: msgpack of [[node id, onion key, transport key, endpoint], ...], nearest first.
"""

import hashlib
import os
import sys
import time

import msgpack
import zmq
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from zmq.utils import z85


def masked(end: bytes, key: bytes, nonce: bytes, size: int) -> bytes:
    """`end` XOR the end of the key's stream for `size` bytes."""
    stream = Cipher(algorithms.ChaCha20(key, b"\1\0\0\0" + nonce), None).encryptor()
    return bytes(a ^ b for a, b in zip(end, stream.update(bytes(size))[-len(end) :], strict=True))


def wrap(keys: list[bytes], size: int, grown: int, body: bytes, heads: list[bytes]) -> bytes:
    """All layers over `body`; a head is what stands before a hop's tag and, from 40 bytes on, what
    the hop reads first."""
    ends = [b""]
    for key in keys:
        ends.append(masked(ends[-1] + bytes(grown), key, bytes(12), size))
    for key, end, head in reversed(list(zip(keys, ends[1:], heads, strict=True))):
        plain = (head[40:] + body)[: size - len(end)] + end
        sealed = ChaCha20Poly1305(key).encrypt(bytes(12), plain, head[:40])
        body = head[:40] + sealed[size:] + sealed[: size - grown]
    return body


hops, keys, heads = msgpack.unpackb(sys.stdin.buffer.read()), [], []
period = (int(time.time()) // 300).to_bytes(4, "big")
for (node, onion_key, _, _), after in zip(hops, [*hops[1:], None], strict=True):
    secret = X25519PrivateKey.generate()
    ephemeral = secret.public_key().public_bytes_raw()
    shared = secret.exchange(X25519PublicKey.from_public_bytes(onion_key))
    info = b"planetserve/path/v2\0" + node
    okm = HKDF(SHA256(), 96, ephemeral + onion_key, info).derive(shared)
    keys.append((okm[:32], okm[32:64], okm[64:]))
    step = b"\2\0" + after[0] if after else b"\2\1" + bytes(20)
    heads.append(ephemeral + os.urandom(8) + step + period + bytes(6))
setup_keys, forward, backward = ([hop[part] for hop in keys] for part in range(3))
link_id = os.urandom(8)
context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
socket = context.socket(zmq.DEALER)
socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
socket.curve_serverkey = z85.encode(hops[0][2])
socket.linger, socket.rcvtimeo = 0, 5000
socket.connect(hops[0][3])
socket.send(link_id + b"\1" + wrap(setup_keys, 2071, 88, os.urandom(2039), heads))


def receive(counter: int) -> tuple[int, bytes]:
    """Command and data of the next cell, which the last relay says."""
    frame, nonce, end = socket.recv(), counter.to_bytes(12, "big"), bytes(16 * len(hops))
    assert frame[:8] == hashlib.sha256(b"planetserve/backward/v2\0" + link_id).digest()[:8]
    lost: list[bytes] = []
    for key in reversed(backward):
        end = masked(end, key, nonce, 2039)
        lost.insert(0, end[-16:])
        end = end[:-16]
    body = frame[9:]
    for key, missing in zip(backward, lost, strict=True):
        body = ChaCha20Poly1305(key).decrypt(nonce, body[16:] + missing + body[:16], None)
    return body[0], body[5 : 5 + int.from_bytes(body[3:5], "big")]


print("established", receive(0) == (16, b"\2\0\x80\1\0"))
ping = (b"\5\0\0\0\x08" + b"pingpong").ljust(1975, b"\0") + os.urandom(16 * (4 - len(hops)))
socket.send(link_id + b"\2" + wrap(forward, 2039, 16, ping, [b""] * len(hops)))
print("pong", receive(1) == (6, b"pingpong"))

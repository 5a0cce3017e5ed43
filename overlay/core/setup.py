"""The set-up packet of a path: 2,039 bytes at each hop, whatever the number of hops.

    body    = ephemeral key 32 | puzzle nonce 8 | tag 16 | c 1,983
    opened  = info 32 | the next hop's body 2,039
    info    = version 1 | last 1 | next node id 20 | period 4 | zeros 6

A relay opens it like a cell (`overlay.core.layer`), with 88 zeros in place of 16 and with the
ephemeral key and the puzzle nonce as associated data. The keys of a hop come from X25519 of its
own ephemeral key and its onion key:

    HKDF-SHA256(shared, salt = ephemeral | onion key, info = label | node id, 96 bytes)
        = set-up key | forward key | backward key

An ephemeral key a hop, in place of Sphinx's one that is blinded on its way, costs 32 bytes and
needs no assumption beyond Gap Diffie-Hellman (Scherer, Weis and Strufe 2023). A key is used for
one packet, so that its nonce is zero; who takes a packet twice would use the path's keys twice,
which `overlay.core.replay_filter` prevents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.core.layer import (
    KEY_BYTES,
    MAX_HOPS,
    NONCE_BYTES,
    TAG_BYTES,
    forced_ends,
    key_stream_end,
    xor,
)
from overlay.core.wire import BODY_BYTES, CellError
from planetserve.keys import NODE_ID_BYTES

VERSION = 2
PERIOD_S = 300
"""A set-up tells each of its relays the time of its owner's clock in periods of five minutes, and a
relay takes its own period and the ones beside it. Clients whose clocks are right look alike. One
whose clock is d seconds off, less than 300, names another period in d of 300 set-ups."""
EPHEMERAL_BYTES = 32
PUZZLE_NONCE_BYTES = 8
HEAD_BYTES = EPHEMERAL_BYTES + PUZZLE_NONCE_BYTES
INFO_BYTES = 32
GROWN_BYTES = HEAD_BYTES + TAG_BYTES + INFO_BYTES
PLAIN_BYTES = INFO_BYTES + BODY_BYTES

_LABEL = b"planetserve/path/v2\0"
_NONCE = bytes(NONCE_BYTES)
_NO_NODE = bytes(NODE_ID_BYTES)
_INFO_END = bytes(6)


@dataclass(frozen=True, slots=True)
class HopSpec:
    """A hop to be: its node id and onion key, and 32 fresh random bytes for it alone."""

    node: bytes
    onion_key: bytes
    ephemeral_secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class HopKeys:
    forward: bytes = field(repr=False)
    backward: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OnionSecrets:
    """A relay's onion key as the library's objects: making them anew costs half a set-up."""

    secret: X25519PrivateKey = field(repr=False)
    public: bytes

    @classmethod
    def from_bytes(cls, secret: bytes) -> OnionSecrets:
        key = X25519PrivateKey.from_private_bytes(secret)
        return cls(key, key.public_key().public_bytes_raw())


@dataclass(frozen=True, slots=True)
class OpenedSetup:
    """What a relay learns: `next_node` is None at the last; `body` goes to the next."""

    ephemeral: bytes
    next_node: bytes | None
    period: int
    body: bytes
    keys: HopKeys


def period_of(unix_s: float) -> int:
    return int(unix_s) // PERIOD_S


def build_setup(
    hops: Sequence[HopSpec], period: int, puzzle_nonces: Sequence[bytes], filler: bytes
) -> tuple[bytes, tuple[HopKeys, ...]]:
    """The packet for the first of `hops` and each hop's keys.

    `puzzle_nonces` has 8 bytes a hop, random where no puzzle was set; `filler` is 2,039 fresh
    random bytes. Raises `ValueError` for wrong sizes and for an onion key of low order.
    """
    if not 1 <= len(hops) <= MAX_HOPS or len(puzzle_nonces) != len(hops):
        raise ValueError("a path has one to four hops, and a puzzle nonce for each")
    if len(filler) != BODY_BYTES or any(len(n) != PUZZLE_NONCE_BYTES for n in puzzle_nonces):
        raise ValueError("filler or a puzzle nonce has the wrong size")
    ephemerals, setup_keys, path_keys = [], [], []
    for hop in hops:
        secret = X25519PrivateKey.from_private_bytes(hop.ephemeral_secret)
        ephemeral = secret.public_key().public_bytes_raw()
        shared = secret.exchange(X25519PublicKey.from_public_bytes(hop.onion_key))
        setup_key, keys = _derive(shared, ephemeral, hop.onion_key, hop.node)
        ephemerals.append(ephemeral)
        setup_keys.append(setup_key)
        path_keys.append(keys)
    ends = forced_ends(setup_keys, _NONCE, PLAIN_BYTES, GROWN_BYTES)
    next_nodes = [*(hop.node for hop in hops[1:]), None]
    body = filler
    for index in reversed(range(len(hops))):
        head = ephemerals[index] + puzzle_nonces[index]
        completed = ends[index] + bytes(GROWN_BYTES)
        end = key_stream_end(setup_keys[index], _NONCE, PLAIN_BYTES, len(completed))
        inner = _encode_info(next_nodes[index], period) + body
        plain = inner[: PLAIN_BYTES - len(completed)] + xor(completed, end)
        sealed = ChaCha20Poly1305(setup_keys[index]).encrypt(_NONCE, plain, head)
        body = head + sealed[PLAIN_BYTES:] + sealed[: PLAIN_BYTES - GROWN_BYTES]
    return body, tuple(path_keys)


def ephemeral_of(body: bytes) -> bytes:
    """The ephemeral key of a set-up's body; a puzzle is bound to it."""
    return body[:EPHEMERAL_BYTES]


def puzzle_nonce_of(body: bytes) -> bytes:
    return body[EPHEMERAL_BYTES:HEAD_BYTES]


def open_setup(body: bytes, secrets: OnionSecrets, node: bytes) -> OpenedSetup:
    """Open a set-up's `body` at the relay whose id is `node`.

    Raises `CellError` unless it was made for this relay and came unchanged. Its period, and
    whether it came before, are for the caller to judge.
    """
    if len(body) != BODY_BYTES:
        raise CellError("a set-up has the wrong size")
    head, ephemeral = body[:HEAD_BYTES], body[:EPHEMERAL_BYTES]
    tag_end = HEAD_BYTES + TAG_BYTES
    sealed = body[tag_end:] + bytes(GROWN_BYTES) + body[HEAD_BYTES:tag_end]
    try:
        shared = secrets.secret.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        setup_key, keys = _derive(shared, ephemeral, secrets.public, node)
        plain = ChaCha20Poly1305(setup_key).decrypt(_NONCE, sealed, head)
    except (InvalidTag, ValueError) as error:
        raise CellError("a set-up does not open") from error
    next_node, period = _decode_info(plain[:INFO_BYTES])
    return OpenedSetup(ephemeral, next_node, period, plain[INFO_BYTES:], keys)


def _derive(
    shared: bytes, ephemeral: bytes, onion_key: bytes, node: bytes
) -> tuple[bytes, HopKeys]:
    okm = HKDF(SHA256(), 3 * KEY_BYTES, ephemeral + onion_key, _LABEL + node).derive(shared)
    return okm[:KEY_BYTES], HopKeys(okm[KEY_BYTES : 2 * KEY_BYTES], okm[2 * KEY_BYTES :])


def _encode_info(next_node: bytes | None, period: int) -> bytes:
    head = bytes((VERSION, next_node is None)) + (next_node or _NO_NODE)
    return head + period.to_bytes(4, "big") + _INFO_END


def _decode_info(info: bytes) -> tuple[bytes | None, int]:
    node_end = 2 + NODE_ID_BYTES
    node, period = info[2:node_end], info[node_end : node_end + 4]
    if info[0] != VERSION or info[1] > 1 or info[node_end + 4 :] != _INFO_END:
        raise CellError("a set-up of another version")
    if info[1] == (node != _NO_NODE):
        raise CellError("a set-up names a next hop where none may be, or none where one must")
    return (None if info[1] else node), int.from_bytes(period, "big")

"""A prompt as a chain of fingerprints: what entry nodes compare to find who holds its prefix.

A prompt is cut into chunks of equal size, the last part that fills none is left out. Each chunk
is hashed with the hash of all before it, and two bytes of each hash are kept:

    h_0 = BLAKE2b-8("planetserve/chunks/v1" NUL scheme)
    h_i = BLAKE2b-8(h_{i-1} || chunk_i)          fingerprint_i = first two bytes of h_i

So a fingerprint stands for a whole prefix. Two prompts that differ agree at a place by chance once
in 65,536; as their hashes differ in 64 bits, they do so at the next place no more often. Nobody can
make two prompts agree from a place on with less work than a collision of 64 bits takes.

How to cut is a group's "scheme": `tokens/16` is 16 token ids of four bytes each, least significant
byte first, as the engine counts them (its KV block); `text/64` is 64 bytes of `render`, for engines
that cannot tell ids cheaply.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from planetserve.chat import Message

Path = bytes
"""Two bytes a chunk, from the prompt's beginning."""

FINGERPRINT_BYTES = 2
TOKENS, TEXT = "tokens", "text"
MAX_CHUNK = 4096
_DOMAIN = b"planetserve/chunks/v1\0"
_HASH_BYTES = 8
_TOKEN_BYTES = 4
# Bytes that UTF-8 has no use for: no content can be taken for another message's role.
_AFTER_ROLE, _AFTER_CONTENT = b"\xff", b"\xfe"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a group cuts prompts: `unit` "tokens" or "text", `size` token ids or bytes a chunk."""

    unit: str
    size: int

    def __post_init__(self) -> None:
        if self.unit not in (TOKENS, TEXT) or not 1 <= self.size <= MAX_CHUNK:
            raise ValueError(f"no scheme cuts by {self.size} {self.unit}")

    def __str__(self) -> str:
        return f"{self.unit}/{self.size}"

    @property
    def chunk_bytes(self) -> int:
        return self.size * _TOKEN_BYTES if self.unit == TOKENS else self.size


def parse_scheme(name: str) -> Scheme:
    """Read `tokens/16` or `text/64`. Raises `ValueError`."""
    match = re.fullmatch(r"(tokens|text)/([1-9][0-9]{0,3})", name, re.ASCII)
    if match is None:
        raise ValueError("a scheme is tokens/N or text/N")
    return Scheme(match[1], int(match[2]))


def render(messages: Iterable[Message]) -> bytes:
    """The messages as text to cut; what is appended to a conversation only adds to its end."""
    parts: list[bytes] = []
    for message in messages:
        parts += (_bytes(message.role), _AFTER_ROLE, _bytes(message.content), _AFTER_CONTENT)
    return b"".join(parts)


def render_tokens(ids: Sequence[int]) -> bytes:
    """Token ids as bytes to cut. Raises `OverflowError` for an id that is not of 32 bits."""
    packed = array("I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


class Chain:
    """The fingerprints of a text that grows: first the prompt, then its reply, each hashed once."""

    __slots__ = ("_chunk_bytes", "_hash", "_path", "_rest")

    def __init__(self, scheme: Scheme) -> None:
        self._chunk_bytes = scheme.chunk_bytes
        self._hash = blake2b(_DOMAIN + str(scheme).encode(), digest_size=_HASH_BYTES).digest()
        self._rest = b""
        self._path = bytearray()

    @property
    def path(self) -> Path:
        """The fingerprints of the whole chunks so far."""
        return bytes(self._path)

    def extend(self, data: bytes) -> None:
        """Append what `render` or `render_tokens` gave."""
        data = self._rest + data
        size, path, parent = self._chunk_bytes, self._path, self._hash
        whole = len(data) - len(data) % size
        for start in range(0, whole, size):
            parent = blake2b(parent + data[start : start + size], digest_size=8).digest()
            path += parent[:2]
        self._hash = parent
        self._rest = data[whole:]

    def copy(self) -> Chain:
        """A chain that goes on from here by itself: one prompt, several replies."""
        other = Chain.__new__(Chain)
        other._chunk_bytes, other._hash, other._rest = self._chunk_bytes, self._hash, self._rest
        other._path = bytearray(self._path)
        return other


def path_of(data: bytes, scheme: Scheme) -> Path:
    """The fingerprints of a whole text."""
    chain = Chain(scheme)
    chain.extend(data)
    return chain.path


def common_chunks(one: Path, other: Path) -> int:
    """How many chunks two paths begin with alike."""
    low, high = 0, min(len(one), len(other)) // FINGERPRINT_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        start, end = low * FINGERPRINT_BYTES, middle * FINGERPRINT_BYTES
        if one[start:end] == other[start:end]:
            low = middle
        else:
            high = middle - 1
    return low


def _bytes(text: str) -> bytes:
    # JSON may hold half of a surrogate pair; it is text like any other here.
    return text.encode("utf-8", "surrogatepass")

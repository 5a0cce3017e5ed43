"""S-IDA: the Secure Information Dispersal Algorithm (paper section 4; Krawczyk 1993).

A message is encrypted under a fresh key, the ciphertext dispersed by Rabin's IDA (a systematic
Reed-Solomon code) and the key by Shamir's scheme. Any k of the n cloves restore the message; fewer
than k learn nothing about it.

    clove      = version 2 and index 1 | n - 1 and k - 1 1 | ciphertext length 3 | key share 32 |
                 fragment
    ciphertext = ChaCha20-Poly1305(key, nonce 0, message, ad = version 1 | n 1 | k 1)

Of two numbers in one byte the first has the upper four bits. A fragment has the ciphertext's length
over k, rounded up; so the ciphertext's length says how many zeros the last of k ends with.

Cloves carry no authentication of their own: each travels under the AEAD of its path and its
recipient, which finds a polluted one. The AEAD of the whole message finds whatever is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pyeclib.ec_iface import ECDriver, ECDriverError

from overlay.core import shamir
from overlay.core.choices import Choices
from planetserve.errors import RemoteProtocolError

VERSION = 2
MAX_CLOVES = 16
KEY_BYTES = 32
HEADER_BYTES = 5
MAX_MESSAGE_BYTES = 4 << 20
TAG_BYTES = 16
MAX_SUBSETS = 20
"""How many choices of k cloves are tried: all of them up to 3 of 6."""
FRAGMENT_HEADER_BYTES = 80
"""What the erasure-coding library puts in front of a fragment."""

_Kind: TypeAlias = tuple[int, int, int]
"""n, k and length, which all cloves of a message have alike."""


class SidaError(RemoteProtocolError):
    """Bytes that are not a clove, or cloves that do not belong together."""


@dataclass(frozen=True, slots=True)
class Clove:
    """One of `n` parts, of which `k` suffice; `length` is the ciphertext's."""

    n: int
    k: int
    index: int
    length: int
    key_share: bytes
    fragment: bytes

    def encode(self) -> bytes:
        head = bytes((VERSION << 4 | self.index, (self.n - 1) << 4 | (self.k - 1)))
        return head + self.length.to_bytes(3, "big") + self.key_share + self.fragment


def random_bytes_needed(k: int) -> int:
    """How many random bytes `split` takes: a key and the coefficients that share it."""
    return KEY_BYTES * k


def split(message: bytes, n: int, k: int, randomness: bytes) -> tuple[Clove, ...]:
    """Cloves of `message` (at most 4 MiB); `randomness` has `random_bytes_needed(k)` bytes."""
    if not 1 <= k <= n <= MAX_CLOVES:
        raise ValueError(f"cloves need 1 <= k <= n <= {MAX_CLOVES}")
    if len(message) > MAX_MESSAGE_BYTES:
        raise ValueError("the message is longer than S-IDA takes")
    if len(randomness) != random_bytes_needed(k):
        raise ValueError("wrong number of random bytes")
    key, coefficients = randomness[:KEY_BYTES], randomness[KEY_BYTES:]
    ciphertext = ChaCha20Poly1305(key).encrypt(bytes(12), message, bytes((VERSION, n, k)))
    shares = shamir.split(key, n, k, coefficients)
    fragments = _disperse(ciphertext, n, k)
    return tuple(
        Clove(n, k, index, len(ciphertext), shares[index], fragments[index]) for index in range(n)
    )


def decode_clove(data: bytes) -> Clove:
    """Raises `SidaError`."""
    if len(data) < HEADER_BYTES + KEY_BYTES or data[0] >> 4 != VERSION:
        raise SidaError("these bytes are not a clove")
    index, n, k = data[0] & 15, (data[1] >> 4) + 1, (data[1] & 15) + 1
    length = int.from_bytes(data[2:HEADER_BYTES], "big")
    if k > n or index >= n:
        raise SidaError("a clove with impossible n, k or index")
    if not TAG_BYTES <= length <= MAX_MESSAGE_BYTES + TAG_BYTES:
        raise SidaError("a clove with an impossible length")
    share_end = HEADER_BYTES + KEY_BYTES
    if len(data) - share_end != -(-length // k):
        raise SidaError("a fragment has the wrong size")
    return Clove(n, k, index, length, data[HEADER_BYTES:share_end], data[share_end:])


def combine(cloves: Iterable[Clove]) -> bytes:
    """The message from any k or more cloves of it.

    Raises `SidaError` when there are fewer, they differ in kind, or do not authenticate.
    """
    by_index = {clove.index: clove for clove in cloves}
    if not by_index:
        raise SidaError("no cloves")
    chosen = [by_index[index] for index in sorted(by_index)]
    n, k, length = chosen[0].n, chosen[0].k, chosen[0].length
    if any((c.n, c.k, c.length) != (n, k, length) for c in chosen):
        raise SidaError("cloves of different messages")
    if len(chosen) < k:
        raise SidaError("fewer cloves than are needed")
    return _open(chosen[:k])[0]


@dataclass(frozen=True, slots=True)
class Combined:
    """A message and the indices of cloves that are not of it.

    Polluters who know each other can change their key shares so that the changes cancel out. They
    are not told from the others then, and did no harm. As long as k cloves are good none of these
    is named; with fewer, what two or more such polluters agree on stands against the rest.
    """

    message: bytes
    polluted: frozenset[int]


class Search:
    """Looks for k good cloves among some that may be anything, one choice at a time, and for which
    those are; `MAX_SUBSETS` choices at most, in the order of `overlay.core.choices`."""

    def __init__(self) -> None:
        self._cloves: dict[int, Clove] = {}
        self._kinds: dict[_Kind, Choices] = {}
        self.tries = 0
        self._next: tuple[Clove, ...] = ()

    def __len__(self) -> int:
        return len(self._cloves)

    @property
    def is_spent(self) -> bool:
        """Whether it is over, however many cloves come."""
        return self.tries >= MAX_SUBSETS

    @property
    def next_bytes(self) -> int:
        """What the fragments of the next choice have; 0 while there is nothing to try."""
        return sum(len(clove.fragment) for clove in self._next)

    def add(self, clove: Clove) -> None:
        """One more clove is here, the first with its index."""
        kind = clove.n, clove.k, clove.length
        self._cloves[clove.index] = clove
        self._kinds.setdefault(kind, Choices(clove.k)).add(clove.index)
        if not self._next:
            self._choose()

    def attempt(self) -> Combined:
        """Try the next choice. Raises `SidaError` when it does not open, or there is none."""
        chosen = self._next
        if not chosen:
            raise SidaError("fewer cloves than are needed")
        self.tries += 1
        kind = chosen[0].n, chosen[0].k, chosen[0].length
        try:
            message, key, ciphertext = _open(chosen)
        except SidaError:
            self._kinds[kind].failed(frozenset(clove.index for clove in chosen))
            self._choose()
            raise
        here = self._cloves.values()
        alike = [clove for clove in here if (clove.n, clove.k, clove.length) == kind]
        good = _unsuspected(alike, chosen, key, ciphertext)
        return Combined(message, frozenset(self._cloves.keys() - good))

    def _choose(self) -> None:
        """Of the kind of which most are here."""
        self._next = ()
        if self.is_spent:
            return
        for choices in sorted(self._kinds.values(), key=len, reverse=True):
            best = choices.best()
            if best is not None:
                self._next = tuple(self._cloves[index] for index in sorted(best))
                return


def combine_any(cloves: Iterable[Clove]) -> Combined:
    """The message from k good cloves among some that may be anything, and which those are.

    Raises `SidaError` when no choice of k opens, or none of the `MAX_SUBSETS` that are tried: one
    polluted clove is found wherever it is.
    """
    search = Search()
    for clove in {clove.index: clove for clove in cloves}.values():
        search.add(clove)
    while search.next_bytes:
        try:
            return search.attempt()
        except SidaError:
            continue
    if search.is_spent:
        raise SidaError("too many cloves do not belong together")
    raise SidaError("no choice of cloves authenticates")


def _open(chosen: Sequence[Clove]) -> tuple[bytes, bytes, bytes]:
    """Message, key and ciphertext from exactly k cloves of one kind."""
    n, k = chosen[0].n, chosen[0].k
    key = shamir.combine({clove.index + 1: clove.key_share for clove in chosen})
    ciphertext = _gather(chosen, n, k, chosen[0].length)
    try:
        message = ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, bytes((VERSION, n, k)))
    except InvalidTag as error:
        raise SidaError("the cloves do not authenticate") from error
    return message, key, ciphertext


def _unsuspected(
    cloves: Sequence[Clove], opened: Sequence[Clove], key: bytes, ciphertext: bytes
) -> set[int]:
    """Indices of the cloves with the right fragment whose share, with some k - 1 others, gives the
    key. Where these are too many choices to try, a share that is alone against the polynomial of
    all others is a bad one; where more stand against it, none is suspected."""
    n, k = opened[0].n, opened[0].k
    fragments = _disperse(ciphertext, n, k)
    fitting = [clove for clove in cloves if clove.fragment == fragments[clove.index]]
    good = {clove.index for clove in opened if clove in fitting}
    if comb(len(fitting), k) > MAX_SUBSETS:
        others = {clove.index + 1: clove.key_share for clove in opened[1:]}
        alone = {
            clove.index
            for clove in fitting
            if clove not in opened
            and shamir.combine(others | {clove.index + 1: clove.key_share}) != key
        }
        here = {clove.index for clove in fitting}
        return here - alone if len(alone) == 1 else here
    for chosen in combinations(fitting, k):
        if shamir.combine({clove.index + 1: clove.key_share for clove in chosen}) == key:
            good.update(clove.index for clove in chosen)
    return good


@lru_cache(maxsize=MAX_CLOVES * MAX_CLOVES)
def _code(n: int, k: int) -> ECDriver:
    return ECDriver(k=k, m=n - k, ec_type="isa_l_rs_cauchy")


@lru_cache(maxsize=64)
def _fragment_headers(n: int, k: int, length: int) -> tuple[bytes, ...]:
    """The library's headers for a ciphertext of `length` bytes.

    They depend on nothing else, so they need not travel, and no bytes of a peer's choosing
    reach the library's header parser.
    """
    return tuple(f[:FRAGMENT_HEADER_BYTES] for f in _code(n, k).encode(bytes(length)))


def _disperse(ciphertext: bytes, n: int, k: int) -> list[bytes]:
    if k == 1:
        return [ciphertext] * n
    if k == n:  # no parity: the code would have nothing to do
        size = -(-len(ciphertext) // k)
        padded = ciphertext.ljust(size * k, b"\0")
        return [padded[i * size : (i + 1) * size] for i in range(n)]
    return [f[FRAGMENT_HEADER_BYTES:] for f in _code(n, k).encode(ciphertext)]


def _gather(cloves: Sequence[Clove], n: int, k: int, length: int) -> bytes:
    size = -(-length // k)  # before any work whose amount a peer only claims
    if any(len(clove.fragment) != size for clove in cloves):
        raise SidaError("a fragment has the wrong size")
    if k == 1:
        return cloves[0].fragment
    if all(clove.index < k for clove in cloves):  # the code is systematic: they are the ciphertext
        return b"".join(clove.fragment for clove in cloves)[:length]
    headers = _fragment_headers(n, k, length)
    fragments = [headers[clove.index] + clove.fragment for clove in cloves]
    try:
        return bytes(_code(n, k).decode(fragments))
    except ECDriverError as error:
        raise SidaError("the fragments do not fit together") from error

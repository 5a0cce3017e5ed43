"""An answer's frames: all of one size, dispersed over the paths, and in order at the end.

    frame   = kind 1 | length 2 | data | zeros                    1,901 k - 44 bytes
    inner   = nonce 12 | AEAD(reply key, nonce, frame, ad = frame number 4)
    clove i = clove i of S-IDA(inner), with a fragment of         1,901 bytes
    chunk i = nonce 12 | AEAD(answer key i, nonce, frame number 4 | clove i)
    answer key i = HKDF-SHA256(path key i, "planetserve/answer/v2")

The reply key and the path keys are those that the seals of the request exported. A chunk fills one
cell: four paths, any three of which suffice, carry 1.448 bytes for each of a frame, all headers
counted. A chunk's nonce is drawn anew whenever it is sent: to who has no key all chunks are random
bytes, on two paths, on the old and the new path of a clove, and of a node that is made to answer
twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.core import sida
from overlay.core.effects import Entropy
from overlay.core.wire import MAX_CHUNK_BYTES
from planetserve.errors import RemoteProtocolError

HEADER_BYTES = 3
NONCE_BYTES = 12
NUMBER_BYTES = 4
FRAGMENT_BYTES = MAX_CHUNK_BYTES - (
    NONCE_BYTES + NUMBER_BYTES + sida.TAG_BYTES + sida.HEADER_BYTES + sida.KEY_BYTES
)
WINDOW_FRAMES = 128
"""How far beyond the next expected frame one may be, which bounds what is kept."""

DATA = 0
END = 1
"""The answer is whole with this frame; only padding comes after it."""
NOTHING = 2
PADDING = 3
LAST = 4
"""The last padding frame."""


class FrameError(RemoteProtocolError):
    """An answer that does not authenticate or breaks the frame rules."""


def frame_bytes(k: int) -> int:
    return FRAGMENT_BYTES * k - NONCE_BYTES - 2 * sida.TAG_BYTES


def max_data_bytes(k: int) -> int:
    """How many bytes of the answer one frame carries; 5,656 for k = 3."""
    return frame_bytes(k) - HEADER_BYTES


def random_bytes_needed(k: int) -> int:
    """How many random bytes `disperse` asks for, all in all."""
    return NONCE_BYTES + sida.random_bytes_needed(k)


def answer_key(path_key: bytes) -> bytes:
    """The key of what is sent over the path of one clove."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"planetserve/answer/v2")
    return hkdf.derive(path_key)


def disperse(
    kind: int, data: bytes, number: int, reply_key: bytes, n: int, k: int, entropy: Entropy
) -> tuple[bytes, ...]:
    """The n cloves of frame `number` (below 2^32), to be sealed for their paths.

    Raises `ValueError` when the data do not fit.
    """
    if len(data) > max_data_bytes(k):
        raise ValueError("the data do not fit a frame")
    frame = (bytes((kind,)) + len(data).to_bytes(2, "big") + data).ljust(frame_bytes(k), b"\0")
    nonce = entropy(NONCE_BYTES)
    inner = nonce + ChaCha20Poly1305(reply_key).encrypt(nonce, frame, _number(number))
    cloves = sida.split(inner, n, k, entropy(sida.random_bytes_needed(k)))
    return tuple(clove.encode() for clove in cloves)


def seal_clove(key: bytes, nonce: bytes, number: int, clove: bytes) -> bytes:
    """The chunk of a clove for the path with this answer `key`; `nonce` is fresh."""
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, _number(number) + clove, None)


@dataclass(slots=True)
class AnswerAssembler:
    """Collects chunks and gives the answer's data in order; mutable, because it sees every chunk.

    `polluted[i]` counts what came over path i and did not authenticate there, `heard[i]` is the
    highest frame of which path i brought a clove.
    """

    reply_key: bytes
    path_keys: tuple[bytes, ...]
    n: int
    k: int
    next_number: int = 0
    ended: bool = False
    """END was given out: the answer is whole."""
    complete: bool = False
    """LAST was seen, or what may not follow END: nothing more comes."""
    polluted: dict[int, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    _keys: list[bytes] = field(init=False)
    _partial: dict[int, dict[int, sida.Clove]] = field(default_factory=dict)
    _whole: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keys = [answer_key(key) for key in self.path_keys]

    def rekey(self, index: int, path_key: bytes) -> None:
        """Clove `index` goes over a stream of its own from now on, with another path key."""
        self._keys[index] = answer_key(path_key)

    def feed(self, index: int, chunk: bytes) -> list[bytes]:
        """A chunk that came over path `index`; the data that it completes, in order.

        Every chunk is authenticated, those too that are not needed any more. Raises `FrameError`
        when k cloves that each authenticate do not make a valid frame, which only the model node
        itself can bring about.
        """
        try:
            plain = ChaCha20Poly1305(self._keys[index]).decrypt(
                chunk[:NONCE_BYTES], chunk[NONCE_BYTES:], None
            )
            clove = sida.decode_clove(plain[NUMBER_BYTES:])
        except (InvalidTag, ValueError, sida.SidaError):
            return self._pollute(index)
        if (clove.index, clove.n, clove.k) != (index, self.n, self.k):
            return self._pollute(index)
        number = int.from_bytes(plain[:NUMBER_BYTES], "big")
        self.heard[index] = max(number, self.heard.get(index, -1))
        ahead = number - self.next_number
        if not 0 <= ahead <= WINDOW_FRAMES or number in self._whole or self.complete:
            return []
        cloves = self._partial.setdefault(number, {})
        cloves[index] = clove
        if len(cloves) < self.k:
            return []
        del self._partial[number]
        self._whole[number] = self._open(number, cloves)
        return self._in_order()

    def _pollute(self, index: int) -> list[bytes]:
        self.polluted[index] = self.polluted.get(index, 0) + 1
        return []

    def _open(self, number: int, cloves: dict[int, sida.Clove]) -> tuple[int, bytes]:
        try:
            inner = sida.combine(cloves.values())
            frame = ChaCha20Poly1305(self.reply_key).decrypt(
                inner[:NONCE_BYTES], inner[NONCE_BYTES:], _number(number)
            )
        except (InvalidTag, ValueError, sida.SidaError) as error:
            raise FrameError("a frame of the answer does not authenticate") from error
        length = int.from_bytes(frame[1:HEADER_BYTES], "big")
        if len(frame) != frame_bytes(self.k) or length > max_data_bytes(self.k):
            raise FrameError("a frame of the answer is malformed")
        return frame[0], frame[HEADER_BYTES : HEADER_BYTES + length]

    def _in_order(self) -> list[bytes]:
        data: list[bytes] = []
        while not self.complete and self.next_number in self._whole:
            kind, content = self._whole.pop(self.next_number)
            expected = (PADDING, LAST) if self.ended else (DATA, END, NOTHING)
            if kind not in expected or (content and kind not in (DATA, END)):
                if self.ended:  # in the same breath: what was whole before stays so
                    self.complete = True
                    return data
                raise FrameError("a frame of the answer is out of its place")
            self.next_number += 1
            if content:
                data.append(content)
            self.ended = self.ended or kind == END
            self.complete = kind == LAST
        return data


def _number(number: int) -> bytes:
    return number.to_bytes(NUMBER_BYTES, "big")

"""The answer's way back: fixed-size frames, dispersed over the paths, in order at the end.

frame   = kind | 2 bytes length | data | zeros, always FRAME_BYTES
inner   = AEAD under the request's reply key, nonce = frame number
clove i = clove i of S-IDA(inner), AEAD under path i's key, nonce = frame number
on path i, one cell: 4 bytes frame number | clove i
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from overlay.core import sida
from overlay.core.effects import Entropy
from planetserve.errors import RemoteProtocolError

FRAME_BYTES = 1024
FRAME_HEADER_BYTES = 3
MAX_DATA_BYTES = FRAME_BYTES - FRAME_HEADER_BYTES
NUMBER_BYTES = 4
MAX_FRAMES_AHEAD = 1024
"""How far beyond the next expected frame one may be, which bounds what is kept."""

SALT_BYTES = 16

DATA = 0
END = 1
KEEP_ALIVE = 2


class ReplyError(RemoteProtocolError):
    """An answer that does not authenticate or breaks the frame rules."""


def disperse(
    kind: int, data: bytes, number: int, reply_key: bytes, n: int, k: int, entropy: Entropy
) -> tuple[bytes, ...]:
    """The n cloves of frame `number`, to be sealed for their paths."""
    if len(data) > MAX_DATA_BYTES:
        raise ValueError("the data do not fit a frame")
    frame = (bytes((kind,)) + len(data).to_bytes(2, "big") + data).ljust(FRAME_BYTES, b"\0")
    inner = ChaCha20Poly1305(reply_key).encrypt(_nonce(number), frame, None)
    cloves = sida.split(inner, n, k, entropy(sida.random_bytes_needed(k)))
    return tuple(clove.encode() for clove in cloves)


def seal_clove(path_key: bytes, salt: bytes, number: int, clove: bytes) -> bytes:
    """What goes over a path whose answer key is `path_key`."""
    sealed = ChaCha20Poly1305(path_key).encrypt(_nonce(number), clove, None)
    return salt + number.to_bytes(NUMBER_BYTES, "big") + sealed


def answer_key(exported: bytes, salt: bytes) -> bytes:
    """The key of one answer from an exported key and the answer's salt."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"planetserve/answer/v1")
    return hkdf.derive(exported)


@dataclass(slots=True)
class ReplyAssembler:
    """Collects cloves of frames and gives their data in order; keys are those that the seals
    exported.

    `polluted[i]` counts what came over path i and did not authenticate there.
    """

    reply_key: bytes
    path_keys: tuple[bytes, ...]
    k: int
    next_number: int = 0
    ended: bool = False
    polluted: dict[int, int] = field(default_factory=dict)
    _salt: bytes = b""
    _answer_keys: dict[int, bytes] = field(default_factory=dict)
    _answer_reply_key: bytes = b""
    _partial: dict[int, dict[int, sida.Clove]] = field(default_factory=dict)
    _complete: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def feed(self, index: int, chunk: bytes) -> list[bytes]:
        """A chunk that came over path `index`; the data that it completes, in order.

        Raises `ReplyError` when k cloves that each authenticate do not make a valid frame, which
        only the model node itself can bring about.
        """
        salt, sealed = chunk[:SALT_BYTES], chunk[SALT_BYTES + NUMBER_BYTES :]
        number = int.from_bytes(chunk[SALT_BYTES : SALT_BYTES + NUMBER_BYTES], "big")
        if self._salt and salt != self._salt:
            return self._pollute(index)
        ahead = number - self.next_number
        if self.ended or ahead < 0 or number in self._complete:
            return []  # the clove that was not needed
        if ahead > MAX_FRAMES_AHEAD:
            return self._pollute(index)
        key = self._answer_keys.get(index) or answer_key(self.path_keys[index], salt)
        try:
            plain = ChaCha20Poly1305(key).decrypt(_nonce(number), sealed, None)
            clove = sida.decode_clove(plain)
        except (InvalidTag, sida.SidaError):
            return self._pollute(index)
        if not self._salt:  # the first that authenticates; all others must have the same
            self._salt = salt
            self._answer_reply_key = answer_key(self.reply_key, salt)
        self._answer_keys[index] = key
        if clove.index != index or clove.k != self.k:
            return self._pollute(index)
        cloves = self._partial.setdefault(number, {})
        cloves[index] = clove
        if len(cloves) < self.k:
            return []
        del self._partial[number]
        self._complete[number] = self._open(number, cloves)
        return self._in_order()

    def _pollute(self, index: int) -> list[bytes]:
        self.polluted[index] = self.polluted.get(index, 0) + 1
        return []

    def _open(self, number: int, cloves: dict[int, sida.Clove]) -> tuple[int, bytes]:
        try:
            inner = sida.combine(cloves.values())
            frame = ChaCha20Poly1305(self._answer_reply_key).decrypt(_nonce(number), inner, None)
        except (InvalidTag, sida.SidaError) as error:
            raise ReplyError("a frame of the answer does not authenticate") from error
        length = int.from_bytes(frame[1:FRAME_HEADER_BYTES], "big")
        if len(frame) != FRAME_BYTES or length > MAX_DATA_BYTES or frame[0] > KEEP_ALIVE:
            raise ReplyError("a frame of the answer is malformed")
        return frame[0], frame[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + length]

    def _in_order(self) -> list[bytes]:
        data = []
        while self.next_number in self._complete and not self.ended:
            kind, content = self._complete.pop(self.next_number)
            self.next_number += 1
            if content:
                data.append(content)
            self.ended = kind == END
        return data


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")

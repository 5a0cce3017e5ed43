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

from overlay.core import sida
from overlay.core.effects import Entropy
from planetserve.errors import RemoteProtocolError

FRAME_BYTES = 1024
FRAME_HEADER_BYTES = 3
MAX_DATA_BYTES = FRAME_BYTES - FRAME_HEADER_BYTES
NUMBER_BYTES = 4
MAX_FRAMES_AHEAD = 1024
"""How far beyond the next expected frame one may be, which bounds what is kept."""

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


def seal_clove(path_key: bytes, number: int, clove: bytes) -> bytes:
    """What goes over a path: the frame's number and the clove under the path's key."""
    sealed = ChaCha20Poly1305(path_key).encrypt(_nonce(number), clove, None)
    return number.to_bytes(NUMBER_BYTES, "big") + sealed


@dataclass(slots=True)
class ReplyAssembler:
    """Collects cloves of frames and gives their data in order.

    `polluted[i]` counts what came over path i and did not authenticate there.
    """

    reply_key: bytes
    path_keys: tuple[bytes, ...]
    k: int
    next_number: int = 0
    ended: bool = False
    polluted: dict[int, int] = field(default_factory=dict)
    _partial: dict[int, dict[int, sida.Clove]] = field(default_factory=dict)
    _complete: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    def feed(self, index: int, chunk: bytes) -> list[bytes]:
        """A chunk that came over path `index`; the data that it completes, in order.

        Raises `ReplyError` when k cloves that each authenticate do not make a valid frame, which
        only the model node itself can bring about.
        """
        number = int.from_bytes(chunk[:NUMBER_BYTES], "big")
        ahead = number - self.next_number
        if self.ended or ahead < 0 or number in self._complete:
            return []  # the clove that was not needed
        if ahead > MAX_FRAMES_AHEAD:
            return self._pollute(index)
        try:
            plain = ChaCha20Poly1305(self.path_keys[index]).decrypt(
                _nonce(number), chunk[NUMBER_BYTES:], None
            )
            clove = sida.decode_clove(plain)
        except (InvalidTag, sida.SidaError):
            return self._pollute(index)
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
            frame = ChaCha20Poly1305(self.reply_key).decrypt(_nonce(number), inner, None)
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

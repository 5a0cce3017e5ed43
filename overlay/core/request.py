"""A request from its first byte to the cloves on the paths, and their way back together.

    request = HPKE to the target of  4 bytes length | payload | zeros to a power-of-two bucket
    clove i = HPKE to the target of  16 bytes message id | clove i of S-IDA(request)
    on path i: 4 bytes length | clove i, cut into chunks that fit its cells

The second seal hides from the last relays that their cloves belong together. Both are bound to
the target by HPKE's info. The model node needs any k cloves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from overlay.core import sealed, sida
from overlay.core.effects import Entropy
from planetserve.errors import RemoteProtocolError

MESSAGE_ID_BYTES = 16
LENGTH_BYTES = 4
MIN_BUCKET_BYTES = 1024
MAX_PAYLOAD_BYTES = 1 << 20
_REQUEST_INFO = b"planetserve/request/v1\0"
_CLOVE_INFO = b"planetserve/clove/v1\0"


class RequestError(RemoteProtocolError):
    """Bytes that are not a request, or not one that is acceptable now."""


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """`streams[i]` goes over path i; `reply_key` opens the answer, `path_keys[i]` the outer seal
    of what comes back over path i."""

    streams: tuple[bytes, ...]
    reply_key: bytes
    path_keys: tuple[bytes, ...]
    n: int
    k: int


def prepare(
    payload: bytes, target: bytes, onion_key: bytes, n: int, k: int, entropy: Entropy
) -> OutgoingRequest:
    """Seal and disperse `payload` for the model node `target` whose public key is `onion_key`."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError("the request is too large")
    padded = (len(payload).to_bytes(LENGTH_BYTES, "big") + payload).ljust(
        _bucket(len(payload) + LENGTH_BYTES), b"\0"
    )
    request = sealed.seal(onion_key, _REQUEST_INFO + target, padded, entropy(32))
    message_id = entropy(MESSAGE_ID_BYTES)
    cloves = sida.split(request.data, n, k, entropy(sida.random_bytes_needed(k)))
    wrapped = [
        sealed.seal(onion_key, _CLOVE_INFO + target, message_id + clove.encode(), entropy(32))
        for clove in cloves
    ]
    streams = tuple(len(item.data).to_bytes(LENGTH_BYTES, "big") + item.data for item in wrapped)
    return OutgoingRequest(
        streams, request.reply_key, tuple(item.reply_key for item in wrapped), n, k
    )


def chunks(stream: bytes, size: int) -> list[bytes]:
    """`stream` in pieces of at most `size` bytes."""
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def _bucket(size: int) -> int:
    bucket = MIN_BUCKET_BYTES
    while bucket < size:
        bucket *= 2
    return bucket


@dataclass(slots=True)
class CloveStream:
    """Puts the chunks of one exchange together at the model node."""

    received: bytearray = field(default_factory=bytearray)

    def feed(self, chunk: bytes) -> bytes | None:
        """The sealed clove when complete. Raises `RequestError` on nonsense or excess."""
        self.received += chunk
        if len(self.received) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self.received[:LENGTH_BYTES], "big")
        if length > 4 * MAX_PAYLOAD_BYTES or len(self.received) > LENGTH_BYTES + length:
            raise RequestError("a clove is longer than it may be")
        if len(self.received) < LENGTH_BYTES + length:
            return None
        return bytes(self.received[LENGTH_BYTES:])


@dataclass(frozen=True, slots=True)
class ReceivedClove:
    """A clove at the model node: what it is part of and the key for answers on its path."""

    message_id: bytes
    clove: sida.Clove
    path_key: bytes


def open_clove(target: bytes, onion_secret: bytes, data: bytes) -> ReceivedClove:
    """Raises `SealedError` or `SidaError`."""
    opened = sealed.open_sealed(onion_secret, _CLOVE_INFO + target, data)
    message_id = opened.plaintext[:MESSAGE_ID_BYTES]
    clove = sida.decode_clove(opened.plaintext[MESSAGE_ID_BYTES:])
    return ReceivedClove(message_id, clove, opened.reply_key)


def open_request(target: bytes, onion_secret: bytes, cloves: Sequence[sida.Clove]) -> sealed.Opened:
    """The payload and reply key from any k cloves. Raises `SidaError`, `SealedError`,
    `RequestError`."""
    opened = sealed.open_sealed(onion_secret, _REQUEST_INFO + target, sida.combine(cloves))
    length = int.from_bytes(opened.plaintext[:LENGTH_BYTES], "big")
    if length > len(opened.plaintext) - LENGTH_BYTES:
        raise RequestError("a request claims more bytes than it has")
    payload = opened.plaintext[LENGTH_BYTES : LENGTH_BYTES + length]
    return sealed.Opened(payload, opened.reply_key)

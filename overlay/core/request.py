"""A request from its first byte to the cloves on the paths, and their way back together.

    message    = kind 1 | least frames 2 | length 4 | payload | zeros
    request    = HPKE(target, "planetserve/request/v2" 00 | target id, message)
    clove i    = clove i of S-IDA(request)
    message id = period 4 | random 12
    stream i   = m 2 | HPKE(target, "planetserve/clove/v2" 00 | target id, message id | clove i)
    or         = 1 2 | HPKE(target, "planetserve/clove/v2" 00 | target id, message id | attach)

m is the number of cells on each path (`overlay.core.padding`). A message has k (1,970 m - 123) - 64
bytes and a stream 1,970 m - 20, so that with the 20 bytes that name the target it fills them. The
second seal hides from the last relays that their cloves belong together. The model node needs any k
of them. What is sent again is sealed again, so that no two streams have bytes in common; each seal
exports the key of what comes back over its stream.

The kind is 0 for a question and 1 for a dummy, which is answered without an engine; the answer has
at least so many frames as are wished for. The period (`overlay.core.setup.PERIOD_S`) bounds how
long a model node remembers message ids. It is as coarse as that of set-ups. A clock that is right
tells nothing by it; by one that is wrong the model node learns by how much, to five minutes: four
minutes name another period in four requests of five, and so can join requests to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from overlay.core import attach, padding, sealed, sida
from overlay.core.attach import Attach
from overlay.core.effects import Entropy
from overlay.core.payload import CHUNK_BYTES
from overlay.core.wire import MAX_CHUNK_BYTES
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NODE_ID_BYTES

MESSAGE_ID_BYTES = 16
PERIOD_BYTES = 4
COUNT_BYTES = 2
ATTACH_CELLS = 1
HEADER_BYTES = 7
MAX_PAYLOAD_BYTES = 1 << 20

QUESTION = 0
DUMMY = 1

_REQUEST_INFO = b"planetserve/request/v2\0"
_CLOVE_INFO = b"planetserve/clove/v2\0"


class RequestError(RemoteProtocolError):
    """Bytes that are not a request, or not one that is acceptable now."""


@dataclass(frozen=True, slots=True)
class OutgoingStream:
    """What goes over a path, and the key of the outer seal of what comes back over it."""

    data: bytes
    path_key: bytes = field(repr=False)


class Sealer(Protocol):
    """Seals what belongs to one request, each time anew."""

    def clove(self, index: int, entropy: Entropy) -> OutgoingStream: ...

    def attach(self, item: Attach, entropy: Entropy) -> OutgoingStream: ...


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """`streams[i]` is clove i as it is sent first; `reply_key` opens the answer, `path_keys[i]` the
    outer seal of what comes back over its path. `sealer` makes what is sent later."""

    streams: tuple[bytes, ...]
    reply_key: bytes = field(repr=False)
    path_keys: tuple[bytes, ...] = field(repr=False)
    n: int
    k: int
    sealer: Sealer = field(repr=False)


@dataclass(frozen=True, slots=True)
class RequestSealer:
    target: bytes
    onion_key: bytes
    message_id: bytes = field(repr=False)
    cells: int
    cloves: tuple[bytes, ...] = field(repr=False)

    def clove(self, index: int, entropy: Entropy) -> OutgoingStream:
        return self._sealed(self.cells, self.cloves[index], entropy)

    def attach(self, item: Attach, entropy: Entropy) -> OutgoingStream:
        return self._sealed(ATTACH_CELLS, attach.encode(item), entropy)

    def _sealed(self, cells: int, content: bytes, entropy: Entropy) -> OutgoingStream:
        plain = self.message_id + content
        made = sealed.seal(self.onion_key, _CLOVE_INFO + self.target, plain, entropy(32))
        return OutgoingStream(cells.to_bytes(COUNT_BYTES, "big") + made.data, made.reply_key)


def prepare(
    payload: bytes,
    target: bytes,
    onion_key: bytes,
    n: int,
    k: int,
    period: int,
    entropy: Entropy,
    kind: int = QUESTION,
    least_frames: int = 0,
) -> OutgoingRequest:
    """Seal and disperse `payload` for the model node `target` whose public key is `onion_key`.

    `period` is the present one. Raises `ValueError` for a payload of more than 1 MiB or an onion
    key of low order, where pyhpke does not raise its own `PyHPKEError`.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError("the request is too large")
    cells = padding.request_cells(HEADER_BYTES + len(payload), k)
    head = bytes((kind,)) + least_frames.to_bytes(2, "big") + len(payload).to_bytes(4, "big")
    message = (head + payload).ljust(padding.request_bytes(cells, k), b"\0")
    request = sealed.seal(onion_key, _REQUEST_INFO + target, message, entropy(32))
    message_id = period.to_bytes(PERIOD_BYTES, "big") + entropy(MESSAGE_ID_BYTES - PERIOD_BYTES)
    cloves = sida.split(request.data, n, k, entropy(sida.random_bytes_needed(k)))
    encoded = tuple(clove.encode() for clove in cloves)
    sealer = RequestSealer(target, onion_key, message_id, cells, encoded)
    first = [sealer.clove(index, entropy) for index in range(n)]
    streams = tuple(item.data for item in first)
    path_keys = tuple(item.path_key for item in first)
    return OutgoingRequest(streams, request.reply_key, path_keys, n, k, sealer)


def period_of_message(message_id: bytes) -> int:
    return int.from_bytes(message_id[:PERIOD_BYTES], "big")


@dataclass(slots=True)
class StreamReader:
    """Puts the chunks of one stream together at the model node."""

    received: bytearray = field(default_factory=bytearray)

    def feed(self, chunk: bytes) -> bytes | None:
        """The whole stream when it is complete. Raises `RequestError` on nonsense or excess."""
        if len(chunk) > MAX_CHUNK_BYTES or not chunk:
            raise RequestError("a chunk has the wrong size")
        self.received += chunk
        if len(self.received) < COUNT_BYTES:
            return None
        size = stream_bytes(int.from_bytes(self.received[:COUNT_BYTES], "big"))
        if len(self.received) > size:
            raise RequestError("a stream is longer than it says")
        return bytes(self.received) if len(self.received) == size else None


def stream_bytes(cells: int) -> int:
    """How long a stream is that begins with this number of cells.

    Raises `RequestError` for a number that is no step.
    """
    if not 0 < cells <= padding.MAX_REQUEST_CELLS or padding.step_at_least(cells) != cells:
        raise RequestError("a stream of a length that no request has")
    return cells * CHUNK_BYTES - NODE_ID_BYTES


@dataclass(frozen=True, slots=True)
class ReceivedClove:
    """A clove at the model node: what it is part of and the key for answers on its path."""

    message_id: bytes
    clove: sida.Clove
    path_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReceivedAttach:
    message_id: bytes
    attach: Attach
    path_key: bytes = field(repr=False)


def open_stream(
    target: bytes, onion_secret: bytes, stream: bytes
) -> ReceivedClove | ReceivedAttach:
    """Raises `SealedError`, `SidaError` or `AttachError`."""
    opened = sealed.open_sealed(onion_secret, _CLOVE_INFO + target, stream[COUNT_BYTES:])
    message_id = opened.plaintext[:MESSAGE_ID_BYTES]
    content = opened.plaintext[MESSAGE_ID_BYTES:]
    if attach.is_attach(content):
        return ReceivedAttach(message_id, attach.decode(content), opened.reply_key)
    return ReceivedClove(message_id, sida.decode_clove(content), opened.reply_key)


@dataclass(frozen=True, slots=True)
class OpenedRequest:
    """A request at the model node; `polluted` are the indices of cloves that are not of it."""

    kind: int
    least_frames: int
    payload: bytes = field(repr=False)
    reply_key: bytes = field(repr=False)
    polluted: frozenset[int]


def open_request(target: bytes, onion_secret: bytes, cloves: Iterable[sida.Clove]) -> OpenedRequest:
    """From k or more cloves, some of which may be anything. Raises `SidaError` when no k of them
    belong together, else `SealedError` or `RequestError`."""
    return _opened(target, onion_secret, sida.combine_any(cloves))


def try_to_open(target: bytes, onion_secret: bytes, search: sida.Search) -> OpenedRequest:
    """As `open_request`, with the next choice of the cloves alone."""
    return _opened(target, onion_secret, search.attempt())


def _opened(target: bytes, onion_secret: bytes, combined: sida.Combined) -> OpenedRequest:
    opened = sealed.open_sealed(onion_secret, _REQUEST_INFO + target, combined.message)
    message = opened.plaintext
    if len(message) < HEADER_BYTES or message[0] not in (QUESTION, DUMMY):
        raise RequestError("a request of an unknown kind")
    end = HEADER_BYTES + int.from_bytes(message[3:HEADER_BYTES], "big")
    if end > min(len(message), HEADER_BYTES + MAX_PAYLOAD_BYTES):
        raise RequestError("a request claims more bytes than it has")
    if message[end:] != bytes(len(message) - end):
        raise RequestError("a request is not padded with zeros")
    least_frames = int.from_bytes(message[1:3], "big")
    payload = message[HEADER_BYTES:end]
    return OpenedRequest(message[0], least_frames, payload, opened.reply_key, combined.polluted)

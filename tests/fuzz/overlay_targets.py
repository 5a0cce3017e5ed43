"""What a fuzzer calls with any bytes, for the parsers of the overlay: see `tests.fuzz.targets`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from random import Random

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.core import attach as attaches
from overlay.core import layer, sealed, setup, sida
from overlay.core.attach import Attach, AttachError
from overlay.core.layer import PAYLOAD_BYTES
from overlay.core.payload import decode_payload, encode_payload, established, read_established
from overlay.core.reasons import read_close_body, read_end_data, read_error_data
from overlay.core.request import (
    ReceivedAttach,
    RequestError,
    StreamReader,
    open_request,
    open_stream,
    stream_bytes,
)
from overlay.core.setup import HopSpec, OpenedSetup, build_setup, open_setup
from overlay.core.wire import (
    BODY_BYTES,
    FRAME_BYTES,
    STREAM,
    CellError,
    decode_frame,
    encode_frame,
    read_chunk,
    stream_frame,
)
from overlay.guard_file import NODE_ID_BYTES, read_kept, write_kept
from planetserve.errors import RemoteProtocolError
from tests.fuzz.answer_target import answer
from tests.fuzz.client_path_target import client_path_of
from tests.fuzz.inbox_target import inbox
from tests.fuzz.program import Program
from tests.fuzz.relay_target import NODE, SECRETS, relay
from tests.overlay.door import PUBLIC, SECRET, TARGET

CHAIN = "planetserve-1"
CLOVE_INFO = b"planetserve/clove/v2\0"
REQUEST_INFO = b"planetserve/request/v2\0"


def frame(data: bytes) -> None:
    """A frame, filled up with zeros unless the first byte is 0."""
    program = Program(data)
    raw = program.rest() if program.byte() == 0 else program.rest().ljust(FRAME_BYTES, b"\0")
    try:
        link_id, kind, body = decode_frame(raw)
        assert encode_frame(link_id, kind, body) == raw
        chunk = read_chunk(body)
    except CellError:
        return
    assert stream_frame(link_id, chunk) == encode_frame(link_id, STREAM, body)


def payload(data: bytes) -> None:
    """A payload, filled up with zeros unless the first byte is 0."""
    program = Program(data)
    raw = program.rest() if program.byte() == 0 else program.rest().ljust(PAYLOAD_BYTES, b"\0")
    try:
        read = decode_payload(raw)
        assert encode_payload(read) == raw
        if len(read.data) == 5:
            windows = read_established(read)
            assert established(*windows).data == read.data
    except CellError:
        return


def reasons(data: bytes) -> None:
    """The data of an ERROR and of an END, and the same as the body of a CLOSE."""
    with suppress(CellError):
        report = read_error_data(data)
        assert report.error_data() == data
        assert read_close_body(report.close_body()) == report
    with suppress(CellError):
        assert bytes((read_end_data(data),)) == data
    with suppress(CellError):
        closed = read_close_body(data.ljust(BODY_BYTES, b"\0"))
        assert closed.close_body().startswith(data)


def path_setup(data: bytes) -> None:
    """The first byte chooses: bytes as they come; anything behind the relay's seal; a whole path,
    with a bit of what one of its hops gets changed."""
    program = Program(data)
    choice = program.byte() % 3
    if choice == 0:
        _opened(program.rest())
    elif choice == 1:
        info = program.filled(setup.INFO_BYTES)
        inner = program.filled(BODY_BYTES)
        opened = _opened(_sealed_setup(info + inner, program.filled(32)))
        if opened is not None:
            assert setup._encode_info(opened.next_node, opened.period) == info
            assert opened.body[: -setup.GROWN_BYTES] == inner[: -setup.GROWN_BYTES]
    else:
        _whole_path(program)


def _opened(body: bytes) -> OpenedSetup | None:
    try:
        opened = open_setup(body, SECRETS, NODE)
    except CellError:
        return None
    assert len(opened.body) == BODY_BYTES
    return opened


def _sealed_setup(plain: bytes, secret: bytes) -> bytes:
    """The body that opens to `plain`, but for its end."""
    ephemeral_secret = X25519PrivateKey.from_private_bytes(secret)
    head = ephemeral_secret.public_key().public_bytes_raw() + bytes(8)
    shared = ephemeral_secret.exchange(X25519PublicKey.from_public_bytes(SECRETS.public))
    key, _ = setup._derive(shared, head[:32], SECRETS.public, NODE)
    nonce = bytes(layer.NONCE_BYTES)
    end = layer.key_stream_end(key, nonce, setup.PLAIN_BYTES, setup.GROWN_BYTES)
    sealed = ChaCha20Poly1305(key).encrypt(nonce, plain[: -len(end)] + end, head)
    return head + sealed[setup.PLAIN_BYTES :] + sealed[: setup.PLAIN_BYTES - setup.GROWN_BYTES]


def _whole_path(program: Program) -> None:
    random = Random(program.number())
    names = [NODE, *(bytes((number,)) * NODE_ID_BYTES for number in b"123")]
    hops = names[: program.byte() % layer.MAX_HOPS + 1]
    period = program.number()
    changed_hop, at = program.byte() % 8, program.number() % (8 * BODY_BYTES)
    specs = [HopSpec(node, SECRETS.public, random.randbytes(32)) for node in hops]
    nonces = [random.randbytes(8) for _ in hops]
    body, keys = build_setup(specs, period, nonces, random.randbytes(BODY_BYTES))
    for number, node in enumerate(hops):
        if number == changed_hop:
            body = _with_bit_changed(body, at)
        try:
            opened = open_setup(body, SECRETS, node)
        except CellError:
            assert number == changed_hop
            return
        # X25519 ignores the highest bit of a key (RFC 7748); the key is in the associated data.
        assert number != changed_hop, "a changed bit was not noticed"
        assert (opened.keys, opened.period) == (keys[number], period)
        assert opened.next_node == (None if node == hops[-1] else hops[number + 1])
        body = opened.body


def _with_bit_changed(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


CELL_KEYS = tuple(bytes((number,)) * layer.KEY_BYTES for number in range(layer.MAX_HOPS))


def cell(data: bytes) -> None:
    """A cell out and one back, each with a bit changed on one of its links; and bytes as they
    come at both ends."""
    program = Program(data)
    keys = CELL_KEYS[: program.byte() % layer.MAX_HOPS + 1]
    high = program.byte() % 2
    counter = program.number() + high * (layer.MAX_CELLS - 4)
    changed_hop, at = program.byte() % 8, program.number() % (8 * BODY_BYTES)
    content = program.filled(PAYLOAD_BYTES)
    raw = program.rest()
    with suppress(CellError):
        assert len(layer.peel(keys[0], counter, raw)) == BODY_BYTES
    with suppress(CellError):
        assert len(layer.unwrap(keys, counter, raw)) == PAYLOAD_BYTES
    with suppress(CellError):
        assert len(layer.seal_back(keys[0], counter, raw)) == BODY_BYTES
    if counter >= layer.MAX_CELLS:
        return
    body = content + raw[:64].ljust(64, b"\0")
    with suppress(CellError):
        opened = layer.unwrap(keys[:1], counter, layer.seal_back(keys[0], counter, body))
        assert opened + bytes(64) == body
    _out(keys, counter, content, changed_hop, at)
    _back(keys, counter, content, changed_hop, at)


def _out(keys: tuple[bytes, ...], counter: int, content: bytes, changed_hop: int, at: int) -> None:
    body = layer.wrap(keys, counter, content, bytes(48))
    for number, key in enumerate(keys):
        if number == changed_hop:
            body = _with_bit_changed(body, at)
        try:
            body = layer.peel(key, counter, body)
        except CellError:
            assert number == changed_hop
            return
        assert number != changed_hop, "a changed bit was not noticed"
    assert body[:PAYLOAD_BYTES] == content


def _back(keys: tuple[bytes, ...], counter: int, content: bytes, changed_hop: int, at: int) -> None:
    body = layer.originate(keys[-1], counter, content)
    for number in range(len(keys) - 1, -1, -1):
        if number == changed_hop:
            body = _with_bit_changed(body, at)
        if number:
            body = layer.seal_back(keys[number - 1], counter, body)
    try:
        assert layer.unwrap(keys, counter, body) == content
        assert changed_hop >= len(keys), "a changed bit was not noticed"
    except CellError:
        assert changed_hop < len(keys)


def attach(data: bytes) -> None:
    """Bytes as they come, and an attach with a bit changed: what is taken is canonical."""
    program = Program(data)
    number, index = program.number() % attaches.MAX_ATTACHES, program.number() % 16
    wanted, at = program.take(4), program.number()
    whole = attaches.encode(Attach(index, number, int.from_bytes(wanted, "big")))
    assert attaches.decode(whole) == Attach(index, number, int.from_bytes(wanted, "big"))
    changed = _with_bit_changed(whole, at % (8 * len(whole)))
    rest = program.rest()
    for raw in (rest, rest[:6].ljust(attaches.ATTACH_BYTES, b"\0"), changed):
        with suppress(AttachError):
            assert attaches.encode(attaches.decode(raw)) == raw


@lru_cache(maxsize=256)
def _cloves(n: int, k: int, size: int) -> tuple[bytes, tuple[sida.Clove, ...]]:
    random = Random(size)
    message = random.randbytes(size)
    return message, sida.split(message, n, k, random.randbytes(sida.random_bytes_needed(k)))


ALL_TRIED = 6
"""Of so many cloves `combine_any` tries all choices, whatever k is."""


def clove(data: bytes) -> None:
    """Cloves of which some are lost, changed or something else, put together."""
    program = Program(data)
    n = program.byte() % sida.MAX_CLOVES + 1
    k, size = program.byte() % n + 1, program.number() % 2_000
    message, cloves = _cloves(n, k, size)
    raws = [item.encode() for item in cloves]
    for _ in range(program.byte() % (2 * n)):
        place = program.byte() % n
        raws[place] = _changed(raws[place], program)
    here = {}
    for raw in raws:
        try:
            read = sida.decode_clove(raw)
        except sida.SidaError:
            continue
        assert read.encode() == raw
        here[read.index] = read
    good = {index for index, item in here.items() if item in cloves}
    try:
        combined = sida.combine_any(here.values())
        assert combined.message == message, "a message out of nothing"
        assert len(good) < k or not combined.polluted & good, "a good clove was named"
    except sida.SidaError:
        assert len(good) < k or len(here) > ALL_TRIED
    try:
        assert sida.combine(here.values()) == message
    except sida.SidaError:
        assert len(good) < max(k, len(here))


def _changed(raw: bytes, program: Program) -> bytes:
    match program.byte() % 4:
        case 0:
            return _with_bit_changed(raw, program.number() % (8 * len(raw))) if raw else raw
        case 1:
            return raw[: program.number()]
        case 2:
            return program.take(sida.HEADER_BYTES) + raw[sida.HEADER_BYTES :]
    return program.data()


def request(data: bytes) -> None:
    """The first byte chooses: a stream in chunks; anything in place of a sealed clove, or behind
    its seal; anything behind the seal of a request, or in place of it."""
    program = Program(data)
    choice = program.byte() % 5
    if choice == 0:
        _stream(program)
        return
    try:
        if choice == 1:
            open_stream(TARGET, SECRET, program.rest())
        elif choice == 2:
            message = program.filled(program.number())
            sent = sealed.seal(PUBLIC, REQUEST_INFO + TARGET, message, bytes(32)).data
            opened = open_request(TARGET, SECRET, sida.split(sent, 1, 1, bytes(32)))
            head = bytes((opened.kind,)) + opened.least_frames.to_bytes(2, "big")
            again = head + len(opened.payload).to_bytes(4, "big") + opened.payload
            assert again.ljust(len(message), b"\0") == message
        elif choice == 3:
            open_request(TARGET, SECRET, sida.split(program.rest(), 1, 1, bytes(32)))
        else:
            plain = program.rest()
            sent = sealed.seal(PUBLIC, CLOVE_INFO + TARGET, plain, bytes(32)).data
            received = open_stream(TARGET, SECRET, b"\0\1" + sent)
            if isinstance(received, ReceivedAttach):
                content = attaches.encode(received.attach)
            else:
                content = received.clove.encode()
            assert received.message_id + content == plain
    except RemoteProtocolError:
        pass


def _stream(program: Program) -> None:
    reader, fed = StreamReader(), b""
    while program:
        chunk = program.data() * (program.byte() % 8 + 1)
        try:
            whole = reader.feed(chunk)
        except RequestError:
            return
        fed += chunk
        assert chunk
        assert reader.received == fed
        assert len(fed) < 2 or len(fed) <= stream_bytes(int.from_bytes(fed[:2], "big"))
        if whole is not None:
            assert whole == fed
            assert len(whole) == stream_bytes(int.from_bytes(fed[:2], "big"))
            return


def guard_file(data: bytes) -> None:
    try:
        kept = read_kept(json.loads(data), CHAIN)
    except (ValueError, RecursionError):
        return
    assert all(len(guard.node) == NODE_ID_BYTES for guard in kept.guards.guards)
    assert read_kept(json.loads(json.dumps(write_kept(kept, CHAIN))), CHAIN) == kept


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "relay": relay,
    "client_path": client_path_of,
    "inbox": inbox,
    "setup": path_setup,
    "answer": answer,
    "cell": cell,
    "clove": clove,
    "attach": attach,
    "request": request,
    "frame": frame,
    "payload": payload,
    "reasons": reasons,
    "guard_file": guard_file,
}

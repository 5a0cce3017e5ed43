"""What a fuzzer calls with any bytes; each target raises only when the program is at fault.

They check more than that nothing crashes: what is accepted must be well formed and true.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from google.protobuf.message import DecodeError

from abci_app.application import Application
from abci_app.core.codes import Code
from abci_app.core.state import MapReader
from abci_app.core.transactions import RULES, next_nonce, read_transaction
from abci_app.core.transition import Block, transition
from abci_app.handlers import Handlers
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.store import Store, open_store
from abci_app.wire import FrameDecoder, FramingError, encode_frame
from planetserve.encoding import EncodingError, decode, encode
from planetserve.errors import PlanetServeError
from planetserve.keys import node_id
from planetserve.light.blocks import Header, LightBlock
from planetserve.light.proven import check_results, check_state, check_transaction
from planetserve.light.reading import read_header, read_light_block, read_signed_header
from planetserve.light.verifier import Rules, verify
from planetserve.statekeys import STORES
from planetserve.transactions import MAX_TRANSACTION_BYTES, Transaction, decode_transaction
from tests.abci_app.operations import PARAMS
from tests.abci_app.world import CHAIN_ID, World, app_state
from tests.fuzz import overlay_targets
from tests.fuzz.state import POWERS, blocks, worlds
from tests.planetserve import light_chain

Target = Callable[[bytes], None]

KINDS = tuple(RULES)
MAX_READ = 1 << 20


def transactions(data: bytes) -> None:
    """The first byte chooses: 0 a whole transaction as it came, else the data of one of the
    kinds, from a sender and at a place in the epoch that the second byte chooses."""
    if len(data) < 2:
        return
    choice, where, rest = data[0], data[1], data[2:]
    world = worlds()[where % 3]
    if choice % (len(KINDS) + 1) == 0:
        _read(rest)
        _execute(world, rest, read_transaction)
        return
    try:
        fields = decode(rest, max_bytes=MAX_TRANSACTION_BYTES)
    except EncodingError:
        return
    if not isinstance(fields, dict):
        return
    senders = _senders(where % 3)
    key = senders[where // 3 % len(senders)]
    nonce = next_nonce(world.state, node_id(key))
    kind = KINDS[choice % (len(KINDS) + 1) - 1]
    made = Transaction(kind, key, nonce, fields, b"", bytes(64))
    _execute(world, b"", lambda raw, chain_id: made)


@lru_cache(maxsize=3)
def _senders(place: int) -> list[bytes]:
    """Keys of verifiers, nodes and one stranger."""
    items = worlds()[place].items
    records = [decode(value) for key, value in sorted(items.items()) if key.startswith(NODES)]
    return [*(record["key"] for record in records if isinstance(record, dict)), bytes(32)]


NODES = (b"verifiers/", b"nodes/")


def _read(raw: bytes) -> None:
    try:
        transaction = decode_transaction(raw)
    except EncodingError:
        return
    envelope = encode({"body": transaction.body, "signature": transaction.signature})
    assert envelope == raw, "two encodings of one transaction"


def _execute(world: World, raw: bytes, read: Callable[[bytes, str], Transaction]) -> None:
    reader = MapReader(world.items)
    result = transition(reader, Block(world.height + 1, (raw,)), read=read)
    (outcome,) = result.results
    for key, value in result.writes.items():
        store, _, rest = key.partition(b"/")
        assert store.decode() in STORES, key
        assert rest
        if value is not None:
            decode(value)
    if outcome.code is Code.OK:
        assert outcome.events, "a change without an event"
        after = {**world.items, **{k: v for k, v in result.writes.items() if v is not None}}
        transition(MapReader(after), Block(world.height + 2, ()))
    else:
        assert outcome.log


ASKED = frozenset(
    {"echo", "flush", "info", "query", "check_tx", "prepare_proposal", "process_proposal"}
)
"""What the framing's target passes on: the rest changes the state it works on."""


@lru_cache(maxsize=1)
def store() -> Store:
    """A node's, after `blocks`."""
    folder = TemporaryDirectory(prefix="planetserve-fuzz-")
    opened = open_store(Path(folder.name) / "ledger", CHAIN_ID)

    def close() -> None:
        handlers.cache_clear()
        store.cache_clear()
        opened.close()
        folder.cleanup()

    atexit.register(close)
    application = Application(opened, CHAIN_ID)
    application.init_chain(CHAIN_ID, app_state(PARAMS, POWERS))
    for height, raws in enumerate(blocks(), start=1):
        application.finalize(height, raws)
        application.commit()
    return opened


@lru_cache(maxsize=1)
def handlers() -> Handlers:
    return Handlers(Application(store(), CHAIN_ID), LedgerMetrics())


def framing(data: bytes) -> None:
    """A stream of ABCI requests in two reads; the first byte says where it is cut."""
    if not data:
        return
    stream = data[1:]
    cut = data[0] * len(stream) // 256
    decoder, whole = FrameDecoder(MAX_READ), FrameDecoder(MAX_READ)
    try:
        messages = decoder.feed(stream[:cut]) + decoder.feed(stream[cut:])
    except FramingError:
        return
    assert messages == whole.feed(stream), "where a read ends must not matter"
    framed = b"".join(map(encode_frame, messages))
    assert len(framed) + decoder.pending_bytes <= len(stream)
    for message in messages:
        try:
            request = abci.Request.FromString(message)
        except DecodeError:
            return
        name = request.WhichOneof("value")
        if name in ASKED:
            response = handlers().handle(request)
            assert response.WhichOneof("value") == name
            encode_frame(response.SerializeToString())


@lru_cache(maxsize=1)
def chain() -> list[LightBlock]:
    powers = light_chain.signers(range(4))
    return light_chain.make_chain(6, lambda height: powers)


@lru_cache(maxsize=1)
def successor() -> Header:
    """The header that commits to the state of `store`."""
    powers, head = light_chain.signers(range(4)), store().head
    return light_chain.header_at(head.height + 1, powers, powers, app_hash=head.app_hash)


@lru_cache(maxsize=1)
def records() -> Mapping[bytes, bytes]:
    return dict(store().latest.everything())


@lru_cache(maxsize=1)
def real_headers() -> Mapping[int, Header]:
    """Of the recorded chain, by height."""
    shown = [block["signed_header"]["header"] for block in light_chain.recorded()["blocks"]]
    return {header.height: header for header in map(read_header, shown)}


WANTED = (b"chain/main", b"nodes/" + bytes(20), b"evidence/" + bytes(32))
WHOLE = ("verifiers",)
ANSWERS = 6


def light(data: bytes) -> None:
    """The first byte chooses which answer of an RPC server the rest is."""
    if not data:
        return
    choice, rest = data[0] % ANSWERS, data[1:]
    if choice == 0:
        _believed(lambda: _state_answer(rest))
        return
    try:
        shown = json.loads(rest)
    except (ValueError, RecursionError):
        return
    _believed(lambda: _json_answer(choice, shown))


def _believed(read: Callable[[], None]) -> None:
    with contextlib.suppress(PlanetServeError):
        read()


def _state_answer(value: bytes) -> None:
    header = successor()
    proven = check_state(value, header.height - 1, header, WANTED, WHOLE)
    for key in WANTED:
        stored = records().get(key)
        assert proven.records[key] == (None if stored is None else decode(stored)), key
    for name in WHOLE:
        prefix = name.encode() + b"/"
        true = {key: decode(v) for key, v in records().items() if key.startswith(prefix)}
        assert proven.stores[name] == true


def _json_answer(choice: int, shown: Any) -> None:
    if choice == 1:
        read_signed_header(shown)
    elif choice == 2:
        read_header(shown)
    elif choice == 3:
        known, rules = chain(), Rules(light_chain.CHAIN_ID, 3_600)
        block = read_light_block(shown)
        if verify(known[0], block, rules, light_chain.now_ns(known[-1])):
            assert block.hash in {item.hash for item in known}, "a forged header was believed"
    else:
        real = light_chain.recorded()
        true = real["tx"]
        height, index = int(true["height"]), int(true["index"])
        total = int(true["proof"]["proof"]["total"])
        if choice == 4:
            header = real_headers()[height]
            raw, at, of = check_transaction(bytes.fromhex(true["hash"]), shown, header)
            assert raw == base64.b64decode(true["tx"])
            # A tree's root leaves open how many leaves there are; the root of the results does not.
            if (at, of) != (index, total):
                _refused(lambda: check_results(real["block_results"], at, of, _after(height)))
        else:
            code, _ = check_results(shown, index, total, _after(height))
            assert code == true["tx_result"]["code"]


def _after(height: int) -> Header:
    return real_headers()[height + 1]


def _refused(read: Callable[[], object]) -> None:
    try:
        read()
    except PlanetServeError:
        return
    raise AssertionError("a wrong place in the block was believed")


TARGETS: Mapping[str, Target] = {
    "transactions": transactions,
    "framing": framing,
    "light": light,
    **overlay_targets.TARGETS,
}

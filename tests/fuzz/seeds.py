"""Inputs for a fuzzer to start from: what honest peers send, one of each kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from abci_app.core.queries import Stores, answer
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.wire import encode_frame
from planetserve.encoding import encode
from planetserve.light.reading import light_block_json
from planetserve.transactions import decode_transaction
from tests.fuzz import overlay_seeds
from tests.fuzz.state import blocks
from tests.fuzz.targets import KINDS, WANTED, WHOLE, chain, store
from tests.planetserve.light_chain import recorded

WHOLE_TRANSACTION = 0


def transactions() -> Iterator[bytes]:
    """Whole, and the data of each kind from several senders at each place of the epoch."""
    seen: dict[str, int] = {}
    for raws in blocks():
        for raw in raws:
            kind = decode_transaction(raw).kind
            seen[kind] = seen.get(kind, 0) + 1
            if seen[kind] > 3:
                continue
            data = encode(decode_transaction(raw).data)
            place = seen[kind] - 1
            yield bytes([WHOLE_TRANSACTION, place]) + raw
            for sender in range(2):
                yield bytes([1 + KINDS.index(kind), place + 3 * sender]) + data


def framing() -> Iterator[bytes]:
    raws = [raw for block in blocks() for raw in block]
    asked = encode({"keys": list(WANTED), "stores": list(WHOLE)})
    height = len(blocks()) + 1
    requests = [
        abci.Request(echo=abci.RequestEcho(message="hello")),
        abci.Request(flush=abci.RequestFlush()),
        abci.Request(info=abci.RequestInfo(version="0.38.25")),
        abci.Request(check_tx=abci.RequestCheckTx(tx=raws[-1])),
        abci.Request(check_tx=abci.RequestCheckTx(tx=raws[0], type=abci.CheckTxType.RECHECK)),
        abci.Request(query=abci.RequestQuery(path="/state", data=asked)),
        abci.Request(query=abci.RequestQuery(path="/store/chain/key", data=b"main", prove=True)),
        abci.Request(query=abci.RequestQuery(path="/roots/3")),
        abci.Request(
            prepare_proposal=abci.RequestPrepareProposal(
                height=height, txs=raws[-4:], max_tx_bytes=1 << 16
            )
        ),
        abci.Request(process_proposal=abci.RequestProcessProposal(height=height, txs=raws[-2:])),
    ]
    frames = [encode_frame(request.SerializeToString()) for request in requests]
    for frame in frames:
        yield b"\x80" + frame
    yield b"\x20" + b"".join(frames[:4])


def light() -> Iterator[bytes]:
    asked = encode({"keys": list(WANTED), "stores": list(WHOLE)})
    shown = answer(store().latest, "/state", asked, Stores(), lambda height: None, proven=False)
    yield b"\x00" + shown.value
    for block in chain()[1:3]:
        content = light_block_json(block)
        yield b"\x01" + _json(content["signed_header"])
        yield b"\x02" + _json(content["signed_header"]["header"])
        yield b"\x03" + _json(content)
    yield b"\x04" + _json(recorded()["tx"])
    yield b"\x05" + _json(recorded()["block_results"])


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "transactions": transactions,
    "framing": framing,
    "light": light,
    **overlay_seeds.SEEDS,
}

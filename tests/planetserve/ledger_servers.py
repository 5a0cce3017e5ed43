"""RPC servers in memory: a made chain with a state, its proofs, and every lie about them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from abci_app.core.apphash import advance
from abci_app.core.merkle import compact_proof
from planetserve.encoding import decode, encode
from planetserve.light import protobuf
from planetserve.light.blocks import BlockId, LightBlock
from planetserve.light.reading import light_block_json
from planetserve.merkle import list_proof, list_root, map_root, sha256
from planetserve.network import Network
from planetserve.rpc import NoAnswer, Rpc, RpcError
from tests.planetserve.light_chain import (
    CHAIN_ID,
    Signers,
    header_at,
    now_ns,
    set_of,
    sign,
    signers,
)

FOUR = signers(range(4))
Records = dict[bytes, bytes]
Lie = Callable[[Any], Any]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(slots=True)
class State:
    """The records after a block, with the trees over them."""

    records: Records
    roots: dict[str, bytes] = field(init=False)
    nodes: dict[tuple[str, bytes], bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.roots, nodes = advance(lambda store, path: None, {}, self.records)
        self.nodes = {place: node for place, node in nodes.items() if node is not None}

    def answer(self, keys: Sequence[bytes], stores: Sequence[str]) -> dict[str, Any]:
        return {
            "roots": dict(self.roots),
            "records": [self._record(key) for key in keys],
            "stores": {
                name: [
                    [key, value]
                    for key, value in sorted(self.records.items())
                    if key.startswith(name.encode() + b"/")
                ]
                for name in stores
            },
        }

    def _record(self, key: bytes) -> dict[str, Any]:
        store = key.partition(b"/")[0].decode()
        read = partial(self._node, store)
        siblings, leaf = compact_proof(read, key)
        return {
            "key": key,
            "value": self.records.get(key),
            "siblings": list(siblings),
            "leaf": None if leaf is None else list(leaf),
        }

    def _node(self, store: str, path: bytes) -> bytes | None:
        return self.nodes.get((store, path))


@dataclass(slots=True)
class Chain:
    """Blocks from 1 with the state after each, the transactions in each, and their codes."""

    blocks: list[LightBlock] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    transactions: list[list[bytes]] = field(default_factory=list)
    codes: list[list[int]] = field(default_factory=list)

    @property
    def height(self) -> int:
        return len(self.blocks)

    def fork(self, height: int) -> Chain:
        """The same chain up to `height`, to go on from differently."""
        return Chain(
            self.blocks[:height],
            self.states[:height],
            self.transactions[:height],
            self.codes[:height],
        )

    def extend(
        self,
        records: Records,
        transactions: Sequence[bytes] = (),
        codes: Sequence[int] = (),
        powers: Signers = FOUR,
        next_powers: Signers | None = None,
    ) -> None:
        last = self.blocks[-1].commit.block_id if self.blocks else BlockId(b"", 0, b"")
        app_hash = map_root(self.states[-1].roots) if self.states else bytes(32)
        header = replace(
            header_at(self.height + 1, powers, next_powers or powers, last, app_hash),
            data_hash=list_root([sha256(item) for item in transactions]),
            last_results_hash=list_root(
                [protobuf.integer(1, code) for code in (self.codes[-1] if self.codes else [])]
            ),
        )
        self.blocks.append(sign(header, powers))
        unchanged = bool(self.states) and self.states[-1].records == records
        self.states.append(self.states[-1] if unchanged else State(dict(records)))
        self.transactions.append(list(transactions))
        self.codes.append(list(codes) or [0] * len(transactions))


def chain_of(length: int, records: Mapping[bytes, bytes]) -> Chain:
    chain = Chain()
    for _ in range(length):
        chain.extend(dict(records))
    return chain


@dataclass(slots=True)
class Server:
    """Answers from a chain as CometBFT and the ledger do; `lies` change its answers by method,
    after it has decoded what the client will decode."""

    chain: Chain
    dead: bool = False
    stalls: bool = False
    lies: dict[str, Lie] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    broadcast: Callable[[bytes], int] = lambda raw: 0

    async def call(self, address: str, method: str, params: dict[str, Any]) -> Any:
        self.calls.append(method)
        if self.dead:
            raise NoAnswer(address, "ConnectError", reached=False)
        if self.stalls:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        result = getattr(self, f"_{method}")(params)
        lie = self.lies.get(method)
        return lie(result) if lie else result

    def _block(self, params: dict[str, Any]) -> LightBlock:
        height = int(params.get("height", self.chain.height))
        if not 1 <= height <= self.chain.height:
            raise RpcError("Internal error", f"height {height} must be less")
        return self.chain.blocks[height - 1]

    def _commit(self, params: dict[str, Any]) -> Any:
        shown = light_block_json(self._block(params))
        return {"signed_header": shown["signed_header"], "canonical": True}

    def _validators(self, params: dict[str, Any]) -> Any:
        listed = light_block_json(self._block(params))["validators"]
        first = (int(params["page"]) - 1) * int(params["per_page"])
        page = listed[first : first + int(params["per_page"])]
        return {"validators": page, "count": str(len(page)), "total": str(len(listed))}

    def _blockchain(self, params: dict[str, Any]) -> Any:
        heights = range(int(params["maxHeight"]), int(params["minHeight"]) - 1, -1)
        assert len(heights) <= 20
        shown = [light_block_json(self.chain.blocks[height - 1]) for height in heights]
        return {"block_metas": [{"header": item["signed_header"]["header"]} for item in shown]}

    def _abci_query(self, params: dict[str, Any]) -> Any:
        query = decode(bytes.fromhex(params["data"]))
        # Only a state whose header is there can be proven.
        height = self.chain.height - 1
        lie = self.lies.get("state", lambda answer: answer)
        answer = lie(self.chain.states[height - 1].answer(query["keys"], query["stores"]))
        return {"response": {"height": str(height), "value": text(encode(answer))}}

    def _tx(self, params: dict[str, Any]) -> Any:
        wanted = base64.b64decode(params["hash"])
        for height, raws in enumerate(self.chain.transactions, start=1):
            hashes = [sha256(raw) for raw in raws]
            if wanted in hashes:
                index = hashes.index(wanted)
                aunts = [text(aunt) for aunt in list_proof(hashes, index)]
                proof = {"total": str(len(hashes)), "index": str(index), "aunts": aunts}
                return {"height": str(height), "tx": text(raws[index]), "proof": {"proof": proof}}
        raise RpcError("Internal error", "tx not found")

    def _block_results(self, params: dict[str, Any]) -> Any:
        codes = self.chain.codes[int(params["height"]) - 1]
        # Go leaves zeros out of some and not of other fields.
        results = [{"code": code, "data": None, "log": "why", "gas_used": "0"} for code in codes]
        return {"height": params["height"], "txs_results": results or None}

    def _broadcast_tx_sync(self, params: dict[str, Any]) -> Any:
        return {"code": self.broadcast(base64.b64decode(params["tx"])), "log": "why"}


class Servers(Rpc):
    """Calls that reach servers in memory."""

    def __init__(self, **servers: Server) -> None:
        super().__init__([f"http://{name}" for name in servers])
        self.by_address = {f"http://{name}": server for name, server in servers.items()}

    async def call_at(self, address: str, method: str, **params: Any) -> Any:
        return await self.by_address[address].call(address, method, params)


def network_of(servers: Servers, **fields: Any) -> Network:
    return Network(
        CHAIN_ID,
        hashlib.sha256(b"genesis").hexdigest(),
        servers.addresses,
        "tiny",
        **{"genesis_validators_hash": set_of(FOUR).hash().hex(), **fields},
    )


def clock(chain: Chain) -> Callable[[], int]:
    """The time just after a chain's newest block."""
    return lambda: now_ns(chain.blocks[-1])

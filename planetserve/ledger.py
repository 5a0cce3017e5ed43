"""`LedgerClient`: read the ledger, believing no server, and send it transactions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from planetserve.encoding import encode
from planetserve.errors import (
    ForkDetected,
    OldHeader,
    OutcomeUnknown,
    PlanetServeError,
    ProofRefused,
    RemoteProtocolError,
    TransactionRejected,
    UsageError,
)
from planetserve.keys import Identity, NodeId
from planetserve.light.blocks import Header, LightBlock
from planetserve.light.client import LightClient
from planetserve.light.proven import (
    Proven,
    ProvenTransaction,
    check_results,
    check_state,
    check_transaction,
)
from planetserve.light.source import both
from planetserve.network import Network
from planetserve.records import ChainStatus, NodeRecord, RouteSet, chain_status, route_set
from planetserve.rpc import (
    LARGE_BYTES,
    NoAnswer,
    Rpc,
    RpcError,
    excerpt,
    nobody_answered,
    to_base64,
)
from planetserve.sending import offer
from planetserve.statekeys import CHAIN_KEY, EPOCH_KEY, account_key
from planetserve.transactions import sign_transaction

INCLUSION_TIMEOUT_S = 30.0
INCLUSION_PATIENCE_S = 4.0
"""How long one server may take to prove where a transaction is."""
SUCCESSOR_S = 2.5
"""How long it may lack the next header, which commits to the result."""
OFFER_AGAIN_S = 5.0
PATIENCE_S = (1.5, 10.0)
"""How long one server may take for a whole answer with its proofs, and how long when asked again
because nobody was quicker."""
HEADER_TIMEOUT_S = 5.0
POLL_S = 0.1
POLLS_A_SERVER = 20
MAX_KEYS = 1_000
MAX_STORES = 4
BAD_NONCE = 4
"""Result code of a nonce that is not the next one; see `abci_app.core.codes`."""

Answer = TypeVar("Answer")


class LedgerClient:
    """Reads and writes of one network's ledger. Use as an async context manager.

    Every read is compared with a header that more than 2/3 of the validators' power signed (see
    `planetserve.light`). A server that cannot prove its answer, or does not give one in time, is
    left for the next; reads raise when none is left: a `ProofRefused` when one of them lied,
    `RemoteProtocolError` when one answered in another form, else `NetworkNotFound`.
    """

    def __init__(
        self,
        network: Network,
        trusted: Path | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        rpc: Rpc | None = None,
    ) -> None:
        """`trusted` is where to keep the newest verified header between runs (see
        `planetserve.light.trust.trust_file`); `now_ns` is the wall clock in nanoseconds; `rpc`
        stands in for connections to the network's servers."""
        self.network = network
        self._rpc = rpc or Rpc(network.rpc)
        self._light = LightClient(network, self._rpc, trusted, now_ns)
        self._routes: RouteSet | None = None
        self._shown: dict[str, int] = {}
        self._sending: dict[NodeId, asyncio.Lock] = {}
        self._next_nonce: dict[NodeId, int] = {}

    async def __aenter__(self) -> LedgerClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._light.store.save()
        await self._rpc.close()

    def block(self, header: Header) -> LightBlock | None:
        """The block of a header that a read was proven with, and the validators that could sign
        it; None once it is forgotten."""
        return self._light.store.block(header)

    def confirmed(self, header: Header) -> bool:
        """Whether another server shows a header that a read was proven with, or there is none. It
        is not while no other server answers: those who sign a second chain would not be seen."""
        return self._light.store.confirms(header)

    async def confirm(self, address: str, block: LightBlock) -> None:
        """Compare a believed block with what the server at `address` shows at its height. Raises
        as `LightClient.confirm` does."""
        async with asyncio.timeout(PATIENCE_S[-1]):
            await self._light.confirm(address, block)

    async def read(self, keys: Sequence[bytes] = (), stores: Sequence[str] = ()) -> Proven:
        """Records by state key (see `planetserve.statekeys`) and whole stores by name, all of one
        height, which is no lower than that of any read or transaction that ended before. Roots of
        all stores come with every answer."""
        if len(keys) > MAX_KEYS or len(stores) > MAX_STORES:
            raise UsageError(f"one read takes up to {MAX_KEYS} keys and {MAX_STORES} stores")
        least = self._light.store.read_height
        proven = await self._from_some_server(
            lambda address: self._state_at(address, keys, stores, least)
        )
        self._light.store.note_read(proven.height, proven.header)
        return proven

    async def routes(self) -> RouteSet:
        """The whole route set at the newest height. It is fetched anew only when its root is
        another one than before."""
        known = self._routes
        if known is not None:
            proven = await self.read()
            if proven.roots["routes"] == known.hash:
                self._routes = replace(known, height=proven.height, time_ns=proven.header.time_ns)
                return self._routes
        proven = await self.read(stores=("routes",))
        records = proven.stores["routes"].values()
        root, time_ns = proven.roots["routes"], proven.header.time_ns
        self._routes = route_set(proven.height, root, records, time_ns)
        return self._routes

    async def waiting(self) -> tuple[NodeRecord, ...]:
        """Nodes that nobody endorses, or that have retired, in ascending order of ids."""
        proven = await self.read(stores=("waiting",))
        nodes = (NodeRecord.from_wire(item) for item in proven.stores["waiting"].values())
        return tuple(sorted(nodes, key=lambda node: node.id))

    async def status(self) -> ChainStatus:
        """Height, epoch and its windows, parameters and verifiers."""
        proven = await self.read((CHAIN_KEY, EPOCH_KEY), ("verifiers",))
        return chain_status(
            proven.height,
            proven.records[CHAIN_KEY],
            proven.records[EPOCH_KEY],
            proven.stores["verifiers"].values(),
        )

    async def transaction(self, transaction_hash: bytes) -> ProvenTransaction:
        """A transaction that is in the chain, by its SHA-256. Raises `UsageError` when no server
        knows one, which proves nothing."""
        try:
            return await self._from_some_server(
                lambda address: self._transaction_at(address, transaction_hash, HEADER_TIMEOUT_S)
            )
        except RpcError as error:
            raise UsageError(
                f"no server knows the transaction {transaction_hash.hex()}: it was never sent, "
                "waits for its block, or was sent to another network"
            ) from error

    async def send(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> int:
        """Sign a transaction of `identity` and send it to all servers, wait until it is proven
        that a block holds it and how it ended, and return that block's height. Later reads show
        its effects.

        Raises `TransactionRejected` with the ledger's result code, or with one that all servers
        which answered gave before any block (`proven` is then False); `OutcomeUnknown` when it is
        not proven within `INCLUSION_TIMEOUT_S` seconds that a block holds it; `NetworkNotFound`
        when no server was reached.
        """
        lock = self._sending.setdefault(identity.id, asyncio.Lock())
        async with lock:
            raw = await self._broadcast(identity, kind, data)
        try:
            found = await self._included(raw)
        except OutcomeUnknown:
            self._next_nonce.pop(identity.id, None)
            raise
        if found.code:
            raise TransactionRejected(found.code, found.log)
        self._light.store.note_read(found.height, found.header)
        return found.height

    async def _state_at(
        self, address: str, keys: Sequence[bytes], stores: Sequence[str], least: int
    ) -> Proven:
        query = encode({"keys": list(keys), "stores": list(stores)})
        # Nobody may confirm what a server shows, and yet it does not go back behind it.
        least = max(least, self._shown.get(address, 0))
        (height, value), newest = await both(
            self._recent_query(address, query, least), self._light.header(address)
        )
        header = newest
        if header.height != height + 1:
            header = await self._header(address, height + 1, HEADER_TIMEOUT_S)
        self._light.require_recent(header)
        if len(value) > LARGE_BYTES:
            proven = await asyncio.to_thread(check_state, value, height, header, keys, stores)
        else:
            proven = check_state(value, height, header, keys, stores)
        self._shown[address] = max(height, self._shown.get(address, 0))
        return proven

    async def _recent_query(self, address: str, data: bytes, least: int) -> tuple[int, bytes]:
        """Of a state no older than that of height `least`: a server may show it a moment after
        the blocks, and another server later yet."""
        deadline_s = asyncio.get_running_loop().time() + HEADER_TIMEOUT_S
        while True:
            height, value = await self._query(address, data)
            if height >= least:
                return height, value
            if asyncio.get_running_loop().time() > deadline_s:
                raise OldHeader(
                    f"the state shown is that of height {height}, and {least} was seen already"
                )
            await asyncio.sleep(POLL_S)

    async def _query(self, address: str, data: bytes) -> tuple[int, bytes]:
        """The height and value of a `/state` answer, not yet compared with anything."""
        result = await self._rpc.call_at(
            address, "abci_query", path="/state", data=data.hex(), height="0", prove=False
        )
        try:
            response = result["response"]
            code, height = int(response.get("code", 0)), int(response.get("height", 0))
            value = base64.b64decode(response.get("value") or "", validate=True)
            log = excerpt(str(response.get("log", "")))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise RemoteProtocolError("an RPC server's query answer is malformed") from error
        if code or not value:
            raise RpcError("the ledger has no answer yet:", f"code {code} {log}".rstrip())
        return height, value

    async def _header(self, address: str, height: int, timeout_s: float) -> Header:
        """The believed header at a height that the server may reach in a moment only."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                return await self._light.header(address, height)
            except RpcError:
                if asyncio.get_running_loop().time() > deadline_s:
                    raise
                await asyncio.sleep(POLL_S)

    async def _transaction_at(
        self, address: str, transaction_hash: bytes, timeout_s: float
    ) -> ProvenTransaction:
        """`timeout_s` is how long to wait for the next block, which commits to the result."""
        shown = await self._rpc.call_at(address, "tx", hash=to_base64(transaction_hash), prove=True)
        try:
            height = int(shown["height"])
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise RemoteProtocolError("an RPC server's transaction is malformed") from error
        try:
            header = await self._light.header(address, height)
            raw, index, total = check_transaction(transaction_hash, shown, header)
            results, successor = await both(
                self._rpc.call_at(address, "block_results", height=str(height)),
                self._header(address, height + 1, timeout_s),
            )
        except RpcError as error:
            raise OldHeader(
                f"the transaction is shown in block {height}, and not what proves it: {error}"
            ) from error
        code, log = check_results(results, index, total, successor)
        return ProvenTransaction(transaction_hash, raw, height, index, code, log, header)

    async def _broadcast(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> bytes:
        for attempt in range(4):
            nonce = self._next_nonce.get(identity.id)
            if nonce is None:
                nonce = await self._nonce(identity)
            raw = sign_transaction(identity, self.network.chain_id, nonce, kind, data)
            said = await offer(self._rpc, raw)
            if said.may_be_included:
                self._next_nonce[identity.id] = nonce + 1
                return raw
            self._next_nonce.pop(identity.id, None)
            if said.refusal is None:
                raise said.failure
            if said.refusal.code != BAD_NONCE or attempt == 3:
                raise TransactionRejected(said.refusal.code, said.refusal.log, proven=False)
            # Another of our transactions waits for its block, or is in one that the state which
            # can be proven does not show yet: let one pass.
            await asyncio.sleep(1.0)
        raise AssertionError("the loop returns or raises")

    async def _nonce(self, identity: Identity) -> int:
        """The next nonce of `identity` as the ledger has it; a new key's is 0."""
        key = account_key(identity.id)
        account = (await self.read((key,))).records[key]
        return 0 if account is None else int(account["nonce"])

    async def _included(self, raw: bytes) -> ProvenTransaction:
        """Wait for the block that holds a transaction. Servers that cannot prove it are changed
        after a moment, and all are offered it again now and then."""
        transaction_hash = hashlib.sha256(raw).digest()
        loop = asyncio.get_running_loop()
        ends_s, offered_s = loop.time() + INCLUSION_TIMEOUT_S, loop.time()
        addresses = self._rpc.in_order()
        polls = 0
        while loop.time() < ends_s:
            address = addresses[polls // POLLS_A_SERVER % len(addresses)]
            try:
                async with asyncio.timeout(INCLUSION_PATIENCE_S):
                    found = await self._transaction_at(address, transaction_hash, SUCCESSOR_S)
                    self._shown[address] = max(found.height, self._shown.get(address, 0))
                    return found
            except RpcError:  # not indexed yet
                polls += 1
            except ForkDetected:
                raise
            except (TimeoutError, NoAnswer, RemoteProtocolError, ProofRefused):
                polls += POLLS_A_SERVER
            if loop.time() - offered_s > OFFER_AGAIN_S:
                await offer(self._rpc, raw)
                offered_s = loop.time()
            await asyncio.sleep(POLL_S)
        raise OutcomeUnknown(
            f"no server has proven within {INCLUSION_TIMEOUT_S:.0f} s that a block holds the "
            f"transaction {transaction_hash.hex()}, and it may be in one or come into one: look "
            f"for it with `ps-ledger tx {transaction_hash.hex()}` before you send it again",
            transaction_hash,
        )

    async def _from_some_server(self, ask: Callable[[str], Awaitable[Answer]]) -> Answer:
        """The first proven answer, from the server that gave the last one, or the next."""
        waiting, failures = self._rpc.in_order(), list[tuple[str, PlanetServeError]]()
        for patience_s in PATIENCE_S:
            slow = []
            for address in waiting:
                try:
                    async with asyncio.timeout(patience_s):
                        answer = await ask(address)
                except ForkDetected:
                    raise
                except TimeoutError:
                    slow.append(address)
                except (ProofRefused, RemoteProtocolError, NoAnswer, RpcError) as error:
                    failures.append((address, error))
                else:
                    self._rpc.prefer(address)
                    return answer
            waiting = slow
        failures += [(address, NoAnswer(address, "too slow")) for address in waiting]
        raise _combined(failures)


def _combined(failures: Sequence[tuple[str, PlanetServeError]]) -> PlanetServeError:
    """What a reader is told when no server proves its answer: the worst of it, and all of it."""
    reasons = "; ".join(f"{address}: {error}" for address, error in failures)
    for kind in (ProofRefused, RemoteProtocolError):
        worst = next((error for _, error in failures if isinstance(error, kind)), None)
        if worst is not None:
            return type(worst)(f"no server proves its answer. {reasons}")
    refused = next((error for _, error in failures if isinstance(error, RpcError)), None)
    if refused is not None:
        return refused
    return nobody_answered(
        [
            f"{address} ({error.reason if isinstance(error, NoAnswer) else error})"
            for address, error in failures
        ]
    )

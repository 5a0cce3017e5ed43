"""`LedgerClient`: read the ledger and send it transactions."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from planetserve.encoding import decode
from planetserve.errors import (
    NetworkNotFound,
    RemoteProtocolError,
    TransactionRejected,
)
from planetserve.keys import Identity, NodeId
from planetserve.network import Network
from planetserve.records import RouteSet, route_set
from planetserve.rpc import Rpc, RpcError, to_base64
from planetserve.transactions import sign_transaction

INCLUSION_TIMEOUT_S = 30.0
BAD_NONCE = 4
"""Result code of a nonce that is not the next one; see `abci_app.core.codes`."""


class LedgerClient:
    """Reads and writes of one network's ledger. Use as an async context manager."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._rpc = Rpc(network.rpc)
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
        await self._rpc.close()

    async def query(self, path: str) -> tuple[int, Any]:
        """The height and decoded value at `path` of the application's queries; a value of None
        means that nothing is there."""
        result = await self._rpc.call("abci_query", path=path, data="", height="0", prove=False)
        try:
            response = result["response"]
            code = int(response.get("code", 0))
            height = int(response.get("height", 0))
            value = base64.b64decode(response.get("value") or "")
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise RemoteProtocolError("an RPC server's query answer is malformed") from error
        if code:
            raise TransactionRejected(code, str(response.get("log", "")))
        return height, decode(value, max_bytes=32 << 20) if value else None

    async def routes(self) -> RouteSet:
        """The whole route set at the latest height."""
        height, value = await self.query("/routes")
        if not isinstance(value, list):
            raise RemoteProtocolError("an RPC server's route set is not a list")
        return route_set(height, value)

    async def status(self) -> dict[str, Any]:
        """Height, epoch and its windows, parameters and validators."""
        _, value = await self.query("/status")
        if not isinstance(value, dict):
            raise RemoteProtocolError("an RPC server's status is not a map")
        return value

    async def send(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> int:
        """Sign and broadcast a transaction of `identity`, wait until a block holds it, and
        return that block's height.

        Raises `TransactionRejected` with the ledger's result code, `NetworkNotFound` when no
        block took it within `INCLUSION_TIMEOUT_S` seconds.
        """
        lock = self._sending.setdefault(identity.id, asyncio.Lock())
        async with lock:
            raw = await self._broadcast(identity, kind, data)
        return await self._included(raw)

    async def _broadcast(self, identity: Identity, kind: str, data: Mapping[str, Any]) -> bytes:
        for attempt in range(3):
            nonce = self._next_nonce.get(identity.id)
            if nonce is None:
                nonce = await self._nonce(identity)
            raw = sign_transaction(identity, self.network.chain_id, nonce, kind, data)
            result = await self._rpc.call("broadcast_tx_sync", tx=to_base64(raw))
            code = _code(result)
            if code == 0:
                self._next_nonce[identity.id] = nonce + 1
                return raw
            self._next_nonce.pop(identity.id, None)
            if code != BAD_NONCE or attempt == 2:
                raise TransactionRejected(code, str(result.get("log", "")))
            # Another of our transactions may be waiting for its block: let one pass.
            await asyncio.sleep(1.0)
        raise AssertionError("the loop returns or raises")

    async def _nonce(self, identity: Identity) -> int:
        """The next nonce of `identity` as the ledger has it; a new key's is 0."""
        _, account = await self.query(f"/account/{identity.id.hex()}")
        if account is None:
            return 0
        if not isinstance(account, dict) or type(account.get("nonce")) is not int:
            raise RemoteProtocolError("an RPC server's account is malformed")
        return int(account["nonce"])

    async def _included(self, raw: bytes) -> int:
        digest = to_base64(hashlib.sha256(raw).digest())
        deadline = asyncio.get_running_loop().time() + INCLUSION_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            try:
                found = await self._rpc.call("tx", hash=digest, prove=False)
            except RpcError:  # not indexed yet
                await asyncio.sleep(0.25)
                continue
            try:
                result, height = found["tx_result"], int(found["height"])
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise RemoteProtocolError("an RPC server's transaction is malformed") from error
            code = _code(result)
            if code:
                raise TransactionRejected(code, str(result.get("log", "")))
            return height
        raise NetworkNotFound(
            f"the transaction was accepted but no block held it within {INCLUSION_TIMEOUT_S:.0f} s;"
            " the chain may have stopped (`ps-ledger status`)"
        )


def _code(result: Any) -> int:
    """The result code in CometBFT's answer, which leaves a zero out."""
    try:
        return int(result.get("code", 0))
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise RemoteProtocolError("an RPC server's result is malformed") from error

"""CometBFT's JSON-RPC over HTTP, with the next address tried when one does not answer."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from planetserve.errors import NetworkNotFound, PlanetServeError, RemoteProtocolError
from planetserve.http import HttpClient, HttpError
from planetserve.text import printable

REQUEST_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 1.5
LARGE_BYTES = 256 << 10
"""Larger answers are decoded beside the loop."""
MAX_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Limit:
    """How many bytes an answer may have, and how many values may be in it: a value of two bytes
    takes a hundred in memory."""

    max_bytes: int
    max_values: int


LIMIT = Limit(1 << 20, 100_000)
LIMITS = {
    "abci_query": Limit(24 << 20, 10_000),
    "block_results": Limit(16 << 20, 500_000),
    "validators": Limit(4 << 20, 10_000),
}
"""What an honest server answers stays far below. A whole store comes as one text, and the ledger
answers with up to 16 MiB, which are a third more as Base64."""


class RpcError(PlanetServeError):
    """The server answered with a JSON-RPC error; `data` is its detail."""

    def __init__(self, message: str, data: str) -> None:
        self.data = excerpt(data)
        super().__init__(f"the RPC server answered: {excerpt(message)} {self.data}".rstrip())


class NoAnswer(NetworkNotFound):
    """One address did not answer; `reason` is the kind of failure, `reached` whether the request
    may have arrived."""

    def __init__(self, address: str, reason: str, *, reached: bool = True) -> None:
        super().__init__(f"the RPC server {address} did not answer ({reason})")
        self.reason = reason
        self.reached = reached


class Rpc:
    """Calls go to the address that answered last; after a failure to the next, once round."""

    def __init__(self, addresses: Sequence[str], timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.addresses = tuple(addresses)
        self._timeout_s = timeout_s
        self._current = 0
        self._ids = itertools.count()
        self._http = HttpClient(CONNECT_TIMEOUT_S)

    async def close(self) -> None:
        await self._http.close()

    def in_order(self) -> list[str]:
        """The addresses, the one that answered last first."""
        return [*self.addresses[self._current :], *self.addresses[: self._current]]

    def prefer(self, address: str) -> None:
        """Ask `address` first from now on."""
        self._current = self.addresses.index(address)

    async def call(self, method: str, **params: Any) -> Any:
        """The `result` of one call.

        Raises `RpcError` when a server refuses the call, `NetworkNotFound` when no address
        answers, `RemoteProtocolError` when the last of them answers something else.
        """
        failures = []
        last_error: Exception | None = None
        for address in self.in_order():
            try:
                result = await self.call_at(address, method, **params)
            except RemoteProtocolError as error:
                failures.append(f"{address} ({type(error).__name__})")
                last_error = error
            except NoAnswer as error:
                failures.append(f"{address} ({error.reason})")
                last_error = error
            else:
                self.prefer(address)
                return result
        if isinstance(last_error, RemoteProtocolError):
            raise last_error
        raise nobody_answered(failures) from last_error

    async def call_at(self, address: str, method: str, **params: Any) -> Any:
        """The `result` of one call to one address. Raises `RpcError`, `NoAnswer` or
        `RemoteProtocolError`."""
        try:
            # A server that drips must end too.
            async with asyncio.timeout(self._timeout_s):
                return await self._call_one(address, method, params)
        except TimeoutError as error:
            raise NoAnswer(address, "too slow") from error
        except HttpError as error:
            raise NoAnswer(address, str(error), reached=error.reached) from error

    async def _call_one(self, address: str, method: str, params: dict[str, Any]) -> Any:
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        limit = LIMITS.get(method, LIMIT)
        body = await self._http.post(address, json.dumps(request).encode(), limit.max_bytes)
        if len(body) > LARGE_BYTES:
            answer = await asyncio.to_thread(_decoded, body, limit.max_values)
        else:
            answer = _decoded(body, limit.max_values)
        if not isinstance(answer, dict):
            raise RemoteProtocolError("an RPC server's answer is not a JSON object")
        if answer.get("error"):
            reason = answer["error"]
            if not isinstance(reason, dict):
                raise RemoteProtocolError("an RPC server's error is malformed")
            raise RpcError(str(reason.get("message", "")), str(reason.get("data", "")))
        if "result" not in answer:
            raise RemoteProtocolError("an RPC server's answer has neither result nor error")
        return answer["result"]


def _decoded(body: bytes, max_values: int) -> Any:
    # Each value stands behind one of these.
    if sum(map(body.count, (b",", b"[", b"{"))) > max_values:
        raise RemoteProtocolError("an RPC server's answer has too many parts")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError("an RPC server's answer is not JSON") from error


def excerpt(text: str) -> str:
    """The words of a server as far as they fit into a message, without control characters."""
    if len(text) > MAX_ERROR_CHARACTERS:
        text = text[: MAX_ERROR_CHARACTERS - 1] + "…"
    return printable(text)


def nobody_answered(failures: Sequence[str]) -> NetworkNotFound:
    """`failures` say for each address why not."""
    return NetworkNotFound(
        "no RPC server answered: tried "
        + ", ".join(failures)
        + ". Is the network running (`ps-localnet status`)? Are the addresses in the network "
        "file right?"
    )


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

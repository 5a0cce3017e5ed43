"""Headers, commits and validators as one RPC server shows them: read strictly, not yet believed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from planetserve.errors import ForgedHeader, RemoteProtocolError
from planetserve.light.blocks import Commit, Header, Validator, ValidatorSet
from planetserve.light.reading import read_header, read_signed_header, read_validators
from planetserve.rpc import Rpc

PAGE = 100
MAX_PAGES = 100
HEADERS_A_PAGE = 20
"""CometBFT's own limit for `/blockchain`."""

First = TypeVar("First")
Second = TypeVar("Second")


async def signed_header(rpc: Rpc, address: str, height: int | None) -> tuple[Header, Commit]:
    """The header at `height`, or the newest, with its commit.

    Raises `RpcError` when the server does not have it, `NoAnswer`, `RemoteProtocolError`.
    """
    params = {} if height is None else {"height": str(height)}
    result = await rpc.call_at(address, "commit", **params)
    header, commit = read_signed_header(entry(result, "signed_header"))
    if height is not None and header.height != height:
        raise ForgedHeader(f"header {header.height} was shown in place of {height}")
    return header, commit


async def validators_at(rpc: Rpc, address: str, height: int) -> ValidatorSet:
    """All pages of a height's validators."""
    found: list[Validator] = []
    for page in range(1, MAX_PAGES + 1):
        result = await rpc.call_at(
            address, "validators", height=str(height), page=str(page), per_page=str(PAGE)
        )
        found.extend(read_validators(entry(result, "validators")))
        try:
            total = int(entry(result, "total"))
        except (TypeError, ValueError, OverflowError) as error:
            raise RemoteProtocolError("an RPC server's total is not a number") from error
        if len(found) >= total:
            break
    return ValidatorSet(tuple(found))


async def headers_down(rpc: Rpc, address: str, top: int, bottom: int) -> list[Header]:
    """The headers of at most `HEADERS_A_PAGE` heights, the highest first."""
    result = await rpc.call_at(address, "blockchain", minHeight=str(bottom), maxHeight=str(top))
    metas = entry(result, "block_metas")
    if not isinstance(metas, list) or len(metas) != top - bottom + 1:
        raise RemoteProtocolError("an RPC server's list of headers is incomplete")
    return [read_header(entry(meta, "header")) for meta in metas]


def entry(result: Any, name: str) -> Any:
    """A named part of an answer. Raises `RemoteProtocolError`."""
    if not isinstance(result, dict) or name not in result:
        raise RemoteProtocolError(f"an RPC server's answer has no {name}")
    return result[name]


async def both(
    first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]
) -> tuple[First, Second]:
    """Run two side by side; the first failure ends both and is raised."""
    tasks = asyncio.create_task(first), asyncio.create_task(second)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def all_of(coroutines: Iterable[Coroutine[Any, Any, First]]) -> list[First]:
    """Run any number side by side; the first failure ends all and is raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

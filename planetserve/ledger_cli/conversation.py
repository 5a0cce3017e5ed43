"""Talking to the ledger: one conversation a command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.light.proven import Proven

Result = TypeVar("Result")
CATCH_UP_READS = 20
CATCH_UP_S = 0.25


def ask(network: Path | None, question: Callable[[LedgerClient], Awaitable[Result]]) -> Result:
    """Run one conversation with the ledger of a network file."""
    import asyncio

    async def converse() -> Result:
        async with open_ledger(network) as ledger:
            return await question(ledger)

    return asyncio.run(converse())


def open_ledger(network: Path | None) -> LedgerClient:
    """A client that remembers what it verified beside the network file."""
    from planetserve.ledger import LedgerClient
    from planetserve.light.trust import trust_file
    from planetserve.network import find_network, load_network

    path = find_network(network)
    found = load_network(path)
    return LedgerClient(found, trusted=trust_file(path, found))


async def send(ledger: LedgerClient, key: Path, kind: str, data: Mapping[str, Any]) -> int:
    """Sign with a key file that no other process uses; returns the block's height."""
    from planetserve.keylock import locked_key
    from planetserve.keys import read_identity

    identity = read_identity(key)
    with locked_key(key):
        return await ledger.send(identity, kind, data)


@contextmanager
def answers_of_expected_form() -> Iterator[None]:
    """Proven records have the form that the chain's version gives them; what cannot be read is
    of a version that this program does not know, not a crash of ours."""
    from planetserve.errors import RemoteProtocolError

    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RemoteProtocolError(
            "the ledger's records are not of the form that this version of ps-ledger reads"
        ) from error


async def read_from(
    ledger: LedgerClient, height: int, keys: Sequence[bytes] = (), stores: Sequence[str] = ()
) -> Proven:
    """A read of a state that is no older than that after block `height`, which one server may
    have and another not yet."""
    import asyncio

    from planetserve.errors import OldHeader

    for _ in range(CATCH_UP_READS):
        proven = await ledger.read(keys, stores)
        if proven.height >= height:
            return proven
        await asyncio.sleep(CATCH_UP_S)
    raise OldHeader(
        f"height {height} was proven a moment ago and servers now show {proven.height} as the "
        "newest; try again"
    )

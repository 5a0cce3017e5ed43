"""A transaction on its way into a block: offered to every server, and what they say to it.

What a server says before a block holds a transaction proves nothing, so none is believed alone:
one that takes it may drop it, and one that refuses it may lie.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from planetserve.errors import PlanetServeError, RemoteProtocolError
from planetserve.light.source import all_of
from planetserve.rpc import NoAnswer, Rpc, RpcError, excerpt, nobody_answered, to_base64

GRACE_S = 0.5
"""How long the other servers may take once one has taken a transaction."""
IN_CACHE = "tx already exists in cache"
"""What CometBFT says of a transaction that it has taken before."""


class Said(Enum):
    TAKEN = "taken"
    KNOWN = "known"
    """It had taken the transaction before."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server's check of a transaction came to, other than code 0."""

    code: int
    log: str


Answer: TypeAlias = "Said | Refusal | PlanetServeError"


@dataclass(frozen=True, slots=True)
class Offer:
    """What the servers said: how many took a transaction, how many may have, who refused it, and
    which failed, with their addresses."""

    taken: int
    perhaps: int
    refusals: Sequence[Refusal]
    failures: Sequence[tuple[str, PlanetServeError]]

    @property
    def may_be_included(self) -> bool:
        return self.taken > 0 or self.perhaps > 0

    @property
    def refusal(self) -> Refusal | None:
        """What most of those that refused it said, if all that answered refused it."""
        if self.may_be_included or not self.refusals:
            return None
        code, _ = Counter(refusal.code for refusal in self.refusals).most_common(1)[0]
        return next(refusal for refusal in self.refusals if refusal.code == code)

    @property
    def failure(self) -> PlanetServeError:
        """What to raise when nobody has the transaction and nobody refused it."""
        for _, error in self.failures:
            if not isinstance(error, NoAnswer):
                return error
        return nobody_answered(
            [
                f"{address} ({error.reason if isinstance(error, NoAnswer) else error})"
                for address, error in self.failures
            ]
        )


async def offer(rpc: Rpc, raw: bytes) -> Offer:
    """Send a transaction to all servers at once. Ends soon after the first has taken it."""
    answers = await _ask(rpc, rpc.addresses, raw)
    doubtful = [address for address, said in answers.items() if said is Said.KNOWN]
    refused = any(isinstance(said, Refusal) for said in answers.values())
    if doubtful and refused and Said.TAKEN not in answers.values():
        # A node says that it has one, too, while it still checks it for another connection.
        await asyncio.sleep(GRACE_S)
        answers |= await _ask(rpc, doubtful, raw)
    failures = [
        (address, answer)
        for address, answer in answers.items()
        if isinstance(answer, PlanetServeError)
    ]
    return Offer(
        taken=sum(isinstance(answer, Said) for answer in answers.values()),
        perhaps=sum(isinstance(error, NoAnswer) and error.reached for _, error in failures),
        refusals=[answer for answer in answers.values() if isinstance(answer, Refusal)],
        failures=failures,
    )


async def _ask(rpc: Rpc, addresses: Sequence[str], raw: bytes) -> dict[str, Answer]:
    taken = asyncio.Event()

    async def ask(address: str) -> Answer:
        try:
            said = await _offer_to(rpc, address, raw)
        except PlanetServeError as error:
            return error
        if isinstance(said, Said):
            taken.set()
        return said

    async def ask_while_needed(address: str) -> Answer:
        asking, enough = asyncio.create_task(ask(address)), asyncio.create_task(taken.wait())
        try:
            await asyncio.wait((asking, enough), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((asking,), timeout=GRACE_S)
            return asking.result() if asking.done() else NoAnswer(address, "too slow")
        finally:
            asking.cancel()
            enough.cancel()

    answers = await all_of(ask_while_needed(address) for address in addresses)
    return dict(zip(addresses, answers, strict=True))


async def _offer_to(rpc: Rpc, address: str, raw: bytes) -> Said | Refusal:
    """Raises `RpcError`, `NoAnswer`, `RemoteProtocolError`."""
    try:
        result = await rpc.call_at(address, "broadcast_tx_sync", tx=to_base64(raw))
    except RpcError as error:
        if IN_CACHE in str(error):
            return Said.KNOWN
        raise
    try:
        code, log = int(result.get("code", 0)), excerpt(str(result.get("log", "")))
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise RemoteProtocolError("an RPC server's result is malformed") from error
    return Refusal(code, log) if code else Said.TAKEN

"""What other servers say to a header that one server showed (CometBFT's light/detector.go).

A third of the validators and one server can make a header that verifies. Only another server shows
that the chain has a different one at that height or, when the height is one that the chain has not
reached, a lower one that is as late: both are a fork.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from itertools import chain, repeat

from planetserve.errors import (
    ForkDetected,
    ProofRefused,
    RemoteProtocolError,
    UnconfirmedHeader,
)
from planetserve.light.blocks import Commit, Header, LightBlock
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.source import all_of, signed_header
from planetserve.light.store import fork
from planetserve.light.verifier import Rules
from planetserve.logs import get_logger
from planetserve.rpc import NoAnswer, Rpc, RpcError

WITNESS_TIMEOUT_S = 1.0
JUDGING_TIMEOUT_S = 5.0
CATCH_UP_S = (0.02, 0.1, 0.2)
"""Pauses before a server is asked again that does not have a height yet; then the last one."""
LAG_S = 10
"""How long after its time a block may become known to a server."""
REST_S = 30
"""How long a server is not asked that was of no use, while there are others."""

Judge = Callable[[str, Header, Commit], Awaitable[None]]

log = get_logger()


class Opinion(Enum):
    AGREES = "agrees"
    BEHIND = "behind"
    """It answers and has no such height, nor reached it in time."""
    UNFIT = "unfit"
    """It shows what the validators did not sign, or speaks in another form."""
    SILENT = "silent"
    """It does not answer, or has dropped blocks that old."""


class Detector:
    """Asks the servers of a network about blocks that one of them showed.

    `judge(address, header, commit)` returns when a header that the server at `address` shows is
    to be believed, given what is confirmed so far, and raises as `LightClient.header` else.
    """

    def __init__(self, rpc: Rpc, rules: Rules, now_ns: Callable[[], int], judge: Judge) -> None:
        self._rpc = rpc
        self._rules = rules
        self._now_ns = now_ns
        self._judge = judge
        self._resting_until_ns: dict[str, int] = {}

    def awake(self, shown_by: str) -> list[str]:
        """All servers but one, without those that rest."""
        now_ns = self._now_ns()
        return [
            address
            for address in self._others(shown_by)
            if self._resting_until_ns.get(address, 0) <= now_ns
        ]

    def _others(self, shown_by: str) -> list[str]:
        return [address for address in self._rpc.addresses if address != shown_by]

    async def check(self, shown_by: str, block: LightBlock) -> bool:
        """Whether a verified block is confirmed: another server shows it too, or there is none to
        ask. False when none answers as it should.

        Raises `ForkDetected`, and `UnconfirmedHeader` when those that answer do not have it.
        """
        witnesses = self.awake(shown_by) or self._others(shown_by)
        if not witnesses:
            return True
        agreed = asyncio.Event()
        opinions = await all_of(
            self._opinion(witness, shown_by, block, agreed) for witness in witnesses
        )
        if Opinion.AGREES in opinions:
            return True
        if Opinion.BEHIND in opinions:
            raise UnconfirmedHeader(
                f"header {block.height} is shown by {shown_by} and by nobody else: it is ahead of "
                "the other servers, or its validators sign a second chain"
            )
        log.warning("header_not_confirmed", height=block.height, shown_by=shown_by)
        return False

    async def agrees(self, witness: str, shown_by: str, block: LightBlock) -> bool:
        """Whether a server shows the same block, without waiting for one that does not have it.
        Raises `ForkDetected`; nothing else, since a server may be of no use."""
        try:
            async with asyncio.timeout(WITNESS_TIMEOUT_S):
                header, commit = await signed_header(self._rpc, witness, block.height)
            await self._compare(witness, shown_by, block, header, commit)
        except ForkDetected:
            raise
        except (TimeoutError, NoAnswer, RpcError, RemoteProtocolError, ProofRefused):
            return False
        return True

    async def confirm(self, witness: str, block: LightBlock) -> None:
        """As `agrees`, and raises what the server did not answer as it should."""
        for pause_s in (*CATCH_UP_S, None):
            try:
                header, commit = await signed_header(self._rpc, witness, block.height)
                break
            except RpcError:
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
        await self._compare(witness, witness, block, header, commit)

    async def _opinion(
        self, witness: str, shown_by: str, block: LightBlock, agreed: asyncio.Event
    ) -> Opinion:
        try:
            opinion, reason = await self._ask(witness, shown_by, block, agreed), "no such height"
        except ForkDetected:
            raise
        except RpcError as error:  # it has dropped blocks that old
            log.info("witness_without_block", address=witness, reason=str(error))
            return Opinion.SILENT
        except (TimeoutError, NoAnswer) as error:
            opinion, reason = Opinion.SILENT, str(error) or "too slow"
        except (RemoteProtocolError, ProofRefused) as error:
            opinion, reason = Opinion.UNFIT, str(error)
        if opinion is Opinion.AGREES:
            agreed.set()
            self._resting_until_ns.pop(witness, None)
        else:
            log.warning("witness_ignored", address=witness, opinion=opinion.value, reason=reason)
            self._resting_until_ns[witness] = self._now_ns() + REST_S * NANOSECONDS
        return opinion

    async def _ask(
        self, witness: str, shown_by: str, block: LightBlock, agreed: asyncio.Event
    ) -> Opinion:
        try:
            async with asyncio.timeout(WITNESS_TIMEOUT_S):
                header, commit = await signed_header(self._rpc, witness, block.height)
        except RpcError:
            return await self._catch_up(witness, shown_by, block, agreed)
        await self._compare(witness, shown_by, block, header, commit)
        return Opinion.AGREES

    async def _catch_up(
        self, witness: str, shown_by: str, block: LightBlock, agreed: asyncio.Event
    ) -> Opinion:
        """Wait for a server that does not have a height, until a chain whose clocks are right has
        a block as late as the one shown."""
        loop, began_s = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        ahead_s = max(0, block.header.time_ns - self._now_ns()) / NANOSECONDS
        ends_s = began_s + ahead_s + self._rules.drift_s + LAG_S
        judged = False
        for pause_s in chain(CATCH_UP_S, repeat(CATCH_UP_S[-1])):
            async with asyncio.timeout(WITNESS_TIMEOUT_S):
                header, commit = await signed_header(self._rpc, witness, None)
                if header.height > block.height:
                    header, commit = await signed_header(self._rpc, witness, block.height)
            if header.height == block.height:
                await self._compare(witness, shown_by, block, header, commit)
                return Opinion.AGREES
            late = header.time_ns >= block.header.time_ns
            if late or not judged:  # what it has so far must be the chain's
                await self._judged(witness, header, commit)
                judged = True
            if late:
                raise _forward_fork(block, shown_by, header, witness)
            if agreed.is_set():
                # One that lags behind is worth no more than a moment where another agrees.
                stale_ns = self._now_ns() - header.time_ns
                ends_s = min(ends_s, began_s + ahead_s + WITNESS_TIMEOUT_S)
                if stale_ns > LAG_S * NANOSECONDS:
                    return Opinion.BEHIND
            left_s = ends_s - loop.time()
            if left_s <= 0:
                return Opinion.BEHIND
            await asyncio.sleep(min(pause_s, left_s))
        raise AssertionError("the loop returns or raises")

    async def _compare(
        self, witness: str, shown_by: str, block: LightBlock, header: Header, commit: Commit
    ) -> None:
        """Raises `ForkDetected` for another header of the block's height that is to be believed,
        and what says that it is not."""
        if header.hash() != block.hash:
            await self._judged(witness, header, commit)
            raise fork(block.height, [shown_by, witness])

    async def _judged(self, witness: str, header: Header, commit: Commit) -> None:
        async with asyncio.timeout(JUDGING_TIMEOUT_S):
            await self._judge(witness, header, commit)


def _forward_fork(block: LightBlock, shown_by: str, header: Header, witness: str) -> ForkDetected:
    return ForkDetected(
        f"header {block.height}, shown by {shown_by}, and header {header.height}, which {witness} "
        "shows as its newest and which is no earlier, are both signed by the chain's validators: "
        "more than a third of them sign a second chain. Trust neither until those who run the "
        "network say which"
    )

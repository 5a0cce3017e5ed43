"""The light client: believed headers, from RPC servers that nobody has to believe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from planetserve.errors import (
    ForgedHeader,
    ForkDetected,
    OldHeader,
    ProofRefused,
    RemoteProtocolError,
)
from planetserve.light.blocks import Header, LightBlock, ValidatorSet, light_block
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.source import (
    HEADERS_A_PAGE,
    both,
    headers_down,
    signed_header,
    validators_at,
)
from planetserve.light.trust import anchor_of, check_anchor, load_trusted, save_trusted
from planetserve.light.verifier import Rules, bisection
from planetserve.logs import get_logger
from planetserve.network import Network
from planetserve.rpc import NoAnswer, Rpc, RpcError

MAX_KEPT = 128
"""Verified blocks kept in memory."""
MAX_BACKWARDS = 1_000
MAX_AGE_S = 300
MAX_LAG_S = 30
SAVE_S = 60
WITNESS_TIMEOUT_S = 1.0
WITNESS_RETRIES_S = (0.02, 0.1, 0.4)
"""Waits for a server that does not have the newest header yet."""
WITNESS_PAUSE_S = 30
MAX_WITNESSES = 3

log = get_logger()


class LightClient:
    """Believed headers of one network; `now_ns` is the wall clock in nanoseconds.

    Each header that a server shows is verified from one that is believed, and compared with what
    another server shows at that height: two that both verify are a fork. A server that lies or
    does not answer raises; the caller asks the next.
    """

    def __init__(
        self, network: Network, rpc: Rpc, trusted: Path | None, now_ns: Callable[[], int]
    ) -> None:
        """`trusted` is the file to keep the newest believed header in (see
        `planetserve.light.trust`), or None."""
        self._network = network
        self._rpc = rpc
        self._path = trusted
        self._now_ns = now_ns
        self._rules = Rules(network.chain_id, network.trust_period_s)
        self._verified: dict[int, LightBlock] = {}
        self._saved_ns = 0
        self._loaded = False
        self._witness = 0
        self._left_alone_until_ns: dict[str, int] = {}

    @property
    def newest(self) -> LightBlock | None:
        """The highest believed block."""
        return self._verified[max(self._verified)] if self._verified else None

    async def header(self, address: str, height: int | None = None) -> Header:
        """The header at `height`, or the newest, as the server at `address` shows it.

        Raises `ForgedHeader`, `OldHeader` or `ForkDetected` when it is not to be believed,
        `RpcError` when the server does not have it, `NoAnswer`, `RemoteProtocolError`.
        """
        if height is not None and height in self._verified:
            return self._verified[height].header
        self._load()
        shown = signed_header(self._rpc, address, height)
        if self._verified:
            header, commit = await shown
        else:
            _, (header, commit) = await both(self._start(address), shown)
        known = self._verified.get(header.height)
        if known is not None and known.hash == header.hash():
            return known.header
        if self._base(header.height) is None:
            if known is not None:
                raise ForgedHeader(f"another header {header.height} is trusted than the one shown")
            if await self._is_below_trust(address, header):
                await self._verify_backwards(address, header)
                return header
        block = light_block(header, commit, await self._validators(address, header))
        await self._believe(address, block)
        return header

    def require_recent(self, header: Header) -> None:
        """Raises `OldHeader` for a header that says nothing about now: that of a server which
        withholds newer blocks, or of a chain that stands still."""
        age_s = (self._now_ns() - header.time_ns) // NANOSECONDS
        if age_s > MAX_AGE_S:
            raise OldHeader(
                f"the newest header shown, {header.height}, is {age_s} s old: the chain stands "
                "still, the server withholds blocks, or this machine's clock is wrong"
            )
        newest = self.newest
        if newest is not None and newest.header.time_ns - header.time_ns > MAX_LAG_S * NANOSECONDS:
            raise OldHeader(
                f"header {header.height} was shown as the newest, and header {newest.height} was "
                "seen already"
            )

    async def confirm(self, address: str, block: LightBlock) -> None:
        """Compare a believed block with what the server at `address` shows at its height.

        Raises `ForgedHeader` or `OldHeader` when it shows another one that is not to be believed,
        `ForkDetected` when that one is, `RpcError` when it has none, `NoAnswer`,
        `RemoteProtocolError`.
        """
        if not await self._agrees(address, block):
            raise _fork(block.height, [address])

    def save(self) -> None:
        """Keep the newest believed block in the file, if there is one."""
        if self._path is not None and self.newest is not None:
            self._saved_ns = self._now_ns()
            save_trusted(self._path, self._network, self.newest)

    def _load(self) -> None:
        if self._path is not None and not self._loaded:
            self._loaded = True
            block = load_trusted(self._path, self._network, self._rules, self._now_ns())
            if block is not None:
                self._verified[block.height] = block
                self._saved_ns = self._now_ns()

    async def _start(self, address: str) -> None:
        """Believe the block that the network file names, once the server shows it."""
        height = self._network.trusted_height
        (header, commit), validators = await both(
            signed_header(self._rpc, address, height), validators_at(self._rpc, address, height)
        )
        block = light_block(header, commit, validators)
        check_anchor(anchor_of(self._network), block, self._rules, self._now_ns())
        self._verified[block.height] = block

    def _base(self, height: int) -> LightBlock | None:
        """The nearest block below `height` that later ones can still be verified from."""
        now_ns = self._now_ns()
        below = (
            block
            for block in self._verified.values()
            if block.height < height and not self._rules.expired(block.header, now_ns)
        )
        return max(below, key=lambda block: block.height, default=None)

    async def _is_below_trust(self, address: str, header: Header) -> bool:
        """Whether all that is believed lies above `header`. What a file remembers may lie above,
        and what the network file names below."""
        if header.height > self._network.trusted_height not in self._verified:
            try:
                await self._start(address)
                return False
            except (OldHeader, RpcError) as error:
                log.info("anchor_out_of_reach", reason=str(error))
        return any(height > header.height for height in self._verified)

    async def _believe(self, address: str, block: LightBlock) -> None:
        verified = await self._verify(address, block)
        known = self._verified.get(block.height)
        if known is not None and known.hash != block.hash:
            raise _fork(block.height, [address])
        await self._cross_check(address, block)
        for item in verified:
            self._verified.setdefault(item.height, item)
        while len(self._verified) > MAX_KEPT:
            # The lowest stays, for whoever asks for an old transaction.
            del self._verified[sorted(self._verified)[1]]
        if self._now_ns() - self._saved_ns > SAVE_S * NANOSECONDS:
            self.save()

    async def _verify(self, address: str, block: LightBlock) -> list[LightBlock]:
        """Verify from the nearest believed block below, with what the server shows in between."""
        trusted = self._base(block.height)
        if trusted is None:
            raise OldHeader(
                f"nothing below header {block.height} is trusted any more; name a newer "
                "trusted_height and trusted_hash in the network file"
            )
        steps = bisection(trusted, block, self._rules, self._now_ns())
        try:
            wanted = next(steps)
            while True:
                header, commit = await signed_header(self._rpc, address, wanted)
                validators = await self._validators(address, header)
                wanted = steps.send(light_block(header, commit, validators))
        except StopIteration as done:
            verified: list[LightBlock] = done.value
            return verified

    async def _verify_backwards(self, address: str, header: Header) -> None:
        """Verify a header below the believed ones, by the hashes that lead to it."""
        later = self._verified[min(height for height in self._verified if height > header.height)]
        distance = later.height - header.height
        if distance > MAX_BACKWARDS:
            raise OldHeader(
                f"header {header.height} lies {distance} blocks below the trusted ones, and "
                f"{MAX_BACKWARDS} are followed back"
            )
        expected = later.header.last_block_id.hash
        for top in range(later.height - 1, header.height - 1, -HEADERS_A_PAGE):
            bottom = max(header.height, top - HEADERS_A_PAGE + 1)
            for step in await headers_down(self._rpc, address, top, bottom):
                if step.hash() != expected:
                    raise ForgedHeader(f"header {step.height} is not its successor's parent")
                expected = step.last_block_id.hash
                last = step
        if last.hash() != header.hash():
            raise ForgedHeader(f"two headers were shown for height {header.height}")

    async def _cross_check(self, address: str, block: LightBlock) -> None:
        """Compare with what another server shows. One that lies proves nothing and is left alone
        for a while; one whose header verifies too shows a fork."""
        now_ns = self._now_ns()
        others = [
            other
            for other in self._rpc.addresses
            if other != address and self._left_alone_until_ns.get(other, 0) <= now_ns
        ]
        self._witness += 1
        for place in range(min(len(others), MAX_WITNESSES)):
            witness = others[(self._witness + place) % len(others)]
            try:
                async with asyncio.timeout(WITNESS_TIMEOUT_S):
                    if await self._agrees(witness, block):
                        return
            except (TimeoutError, NoAnswer, RpcError, RemoteProtocolError, ProofRefused) as error:
                reason = "too slow" if isinstance(error, TimeoutError) else str(error)
                log.warning("witness_ignored", address=witness, reason=reason)
                self._left_alone_until_ns[witness] = now_ns + WITNESS_PAUSE_S * NANOSECONDS
                if isinstance(error, TimeoutError | RpcError):
                    return  # one header is not worth waiting for several of them
                continue
            raise _fork(block.height, [address, witness])

    async def _agrees(self, witness: str, block: LightBlock) -> bool:
        """Whether a server shows the same header; False for another one that verifies too."""
        for pause_s in (*WITNESS_RETRIES_S, None):
            try:
                header, commit = await signed_header(self._rpc, witness, block.height)
                break
            except RpcError:
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)
        if header.hash() == block.hash:
            return True
        validators = await self._validators(witness, header)
        await self._verify(witness, light_block(header, commit, validators))
        return False

    async def _validators(self, address: str, header: Header) -> ValidatorSet:
        """The validators of a header; most are those of one that is known."""
        for block in reversed(self._verified.values()):
            if block.header.validators_hash == header.validators_hash:
                return block.validators
        return await validators_at(self._rpc, address, header.height)


def _fork(height: int, addresses: list[str]) -> ForkDetected:
    return ForkDetected(
        f"two different headers of height {height} are both signed by the chain's validators "
        f"(shown by {' and '.join(addresses)}): more than a third of them sign a second chain. "
        "Trust neither until those who run the network say which"
    )

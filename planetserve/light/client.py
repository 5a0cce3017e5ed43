"""The light client: believed headers, from RPC servers that nobody has to believe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from planetserve.errors import ForgedHeader, OldHeader
from planetserve.light.blocks import Commit, Header, LightBlock, ValidatorSet, light_block
from planetserve.light.detector import Detector
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.source import (
    HEADERS_A_PAGE,
    all_of,
    both,
    headers_down,
    signed_header,
    validators_at,
)
from planetserve.light.store import TrustStore, Waiting, fork
from planetserve.light.trust import anchor_of, check_anchor
from planetserve.light.verifier import Rules, bisection
from planetserve.logs import get_logger
from planetserve.network import Network
from planetserve.rpc import Rpc, RpcError

MAX_BACKWARDS = 1_000
MAX_AGE_S, MIN_AGE_S, AGE_BLOCKS = 300, 60, 30
"""The newest header is refused when it is older than so many blocks take, within these bounds."""
MAX_LAG_S = 30
PRUNED = "is not available"
"""What CometBFT says of a height that it has dropped."""

log = get_logger()


class LightClient:
    """Believed headers of one network; `now_ns` is the wall clock in nanoseconds.

    Each header that a server shows is verified from one that is confirmed, and compared with what
    the other servers show. A server that lies or does not answer raises; the caller asks the next.
    """

    def __init__(
        self, network: Network, rpc: Rpc, trusted: Path | None, now_ns: Callable[[], int]
    ) -> None:
        """`trusted` is the file to keep the newest confirmed header in (see
        `planetserve.light.trust`), or None."""
        self._network = network
        self._rpc = rpc
        self._now_ns = now_ns
        self._rules = Rules(network.chain_id, network.trust_period_s)
        self.store = TrustStore(network, trusted, self._rules, now_ns)
        self._detector = Detector(rpc, self._rules, now_ns, self._judge)

    async def header(self, address: str, height: int | None = None) -> Header:
        """The header at `height`, or the newest, as the server at `address` shows it.

        Raises `ForgedHeader`, `OldHeader`, `UnconfirmedHeader` or `ForkDetected` when it is not to
        be believed, `RpcError` when the server does not have it, `NoAnswer`,
        `RemoteProtocolError`.
        """
        self.store.load()
        header = await self._header(address, height)
        if self.store.waiting:
            await self._settle(address)
        return header

    def require_recent(self, header: Header) -> None:
        """Raises `OldHeader` for a header that says nothing about now: that of a server which
        withholds newer blocks, or of a chain that stands still."""
        age_s = (self._now_ns() - header.time_ns) // NANOSECONDS
        if age_s > self._max_age_s():
            raise OldHeader(
                f"the newest header shown, {header.height}, is {age_s} s old: the chain stands "
                "still, the server withholds blocks, or this machine's clock is wrong"
            )
        newest = self.store.newest
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
        await self._detector.confirm(address, block)

    async def _header(self, address: str, height: int | None) -> Header:
        known = None if height is None else self.store.at(height)
        if known is not None:
            return known.header
        walked = None if height is None else self.store.walked(height)
        if walked is not None:
            return walked
        shown = signed_header(self._rpc, address, height)
        if self.store.empty:
            _, (header, commit) = await both(self._start(address), shown)
        else:
            header, commit = await shown
        if self.store.confirms(header):
            return header
        if self.store.base(header.height) is None:
            if self.store.at(header.height) is not None:
                raise ForgedHeader(f"another header {header.height} is trusted than the one shown")
            if await self._is_below_trust(address, header):
                await self._verify_backwards(address, header)
                return header
        block = light_block(header, commit, await self._validators(address, header))
        await self._believe(address, block)
        return header

    def _max_age_s(self) -> int:
        interval_ns = self.store.interval_ns()
        if interval_ns is None:
            return MAX_AGE_S
        return min(MAX_AGE_S, max(MIN_AGE_S, AGE_BLOCKS * interval_ns // NANOSECONDS))

    async def _start(self, address: str) -> None:
        """Believe the block that the network file names, once the server shows it."""
        height = self._network.trusted_height
        try:
            (header, commit), validators = await both(
                signed_header(self._rpc, address, height), validators_at(self._rpc, address, height)
            )
        except RpcError as error:
            if PRUNED not in error.data:
                raise
            raise OldHeader(
                f"the server has dropped header {height}, which the network file trusts ({error}); "
                "put a newer trusted_height and trusted_hash there, from a source you trust, or "
                "the address of a server that keeps old blocks"
            ) from error
        block = light_block(header, commit, validators)
        check_anchor(anchor_of(self._network), block, self._rules, self._now_ns())
        self.store.keep([block], address)

    async def _is_below_trust(self, address: str, header: Header) -> bool:
        """Whether all that is believed lies above `header`. What a file remembers may lie above,
        and what the network file names below."""
        anchor = self._network.trusted_height
        if header.height > anchor and self.store.at(anchor) is None:
            try:
                await self._start(address)
                return False
            except (OldHeader, RpcError) as error:
                log.info("anchor_out_of_reach", reason=str(error))
        return self.store.above(header.height) is not None

    async def _believe(self, address: str, block: LightBlock) -> None:
        verified = await self._verify(address, block)
        known = self.store.at(block.height)
        if known is not None and known.hash != block.hash:
            raise fork(block.height, [address])
        if await self._detector.check(address, block):
            self.store.keep(verified, address)
        else:
            self.store.wait(block, address)

    async def _settle(self, address: str) -> None:
        """Compare the blocks that nobody has confirmed with the servers that answer now, the one
        at `address` among them."""

        async def settle(waiting: Waiting) -> None:
            others = dict.fromkeys([address, *self._detector.awake(waiting.shown_by)])
            answers = await all_of(
                self._detector.agrees(other, waiting.shown_by, waiting.block)
                for other in others
                if other != waiting.shown_by
            )
            if any(answers):
                self.store.keep([waiting.block], waiting.shown_by)

        await all_of(settle(waiting) for waiting in self.store.waiting)

    async def _judge(self, witness: str, header: Header, commit: Commit) -> None:
        if not self.store.confirms(header):
            validators = await self._validators(witness, header)
            await self._verify(witness, light_block(header, commit, validators))

    async def _verify(self, address: str, block: LightBlock) -> list[LightBlock]:
        """Verify from the nearest confirmed block below, with what the server shows in between."""
        trusted = self.store.base(block.height)
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
        confirmed = self.store.above(header.height)
        if confirmed is None:
            raise OldHeader(f"nothing above header {header.height} is trusted")
        distance = confirmed.height - header.height
        if distance > MAX_BACKWARDS:
            raise OldHeader(
                f"header {header.height} lies {distance} blocks below the trusted ones, and "
                f"{MAX_BACKWARDS} are followed back"
            )
        walked = self.store.walked_above(header.height)
        later = confirmed.header
        if walked is not None and walked.height < later.height:
            later = walked
        expected = later.last_block_id.hash
        steps: list[Header] = []
        for top in range(later.height - 1, header.height - 1, -HEADERS_A_PAGE):
            bottom = max(header.height, top - HEADERS_A_PAGE + 1)
            for step in await headers_down(self._rpc, address, top, bottom):
                if step.hash() != expected:
                    raise ForgedHeader(f"header {step.height} is not its successor's parent")
                expected = step.last_block_id.hash
                steps.append(step)
        if steps[-1].hash() != header.hash():
            raise ForgedHeader(f"two headers were shown for height {header.height}")
        self.store.remember_walk(steps)

    async def _validators(self, address: str, header: Header) -> ValidatorSet:
        """The validators of a header; most are those of one that is known."""
        known = self.store.validators(header.validators_hash)
        return known or await validators_at(self._rpc, address, header.height)

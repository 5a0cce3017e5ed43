"""What one reader believes: blocks that other servers confirmed, and those that wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from planetserve.errors import ForkDetected
from planetserve.light.blocks import Header, LightBlock, ValidatorSet
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.trust import load_trusted, save_trusted
from planetserve.light.verifier import Rules
from planetserve.logs import get_logger
from planetserve.network import Network

MAX_KEPT = 128
"""Confirmed blocks kept in memory."""
MAX_WAITING = 32
MAX_WALKED = 2_000
SAVE_S = 60
INTERVAL_BLOCKS = 10
"""How far two blocks are apart from which the time between blocks is taken."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Waiting:
    """A block that its validators signed, as one server showed it when no other one answered."""

    shown_by: str
    block: LightBlock


class TrustStore:
    """The blocks and headers that a light client has verified, by height.

    Confirmed ones are the base of all that is verified later, and the newest of them is kept in a
    file. A block that waits is neither: it is compared with other servers as soon as one answers.
    """

    def __init__(
        self, network: Network, path: Path | None, rules: Rules, now_ns: Callable[[], int]
    ) -> None:
        self._network = network
        self._path = path
        self._rules = rules
        self._now_ns = now_ns
        self._confirmed: dict[int, LightBlock] = {}
        self._waiting: dict[int, Waiting] = {}
        self._walked: dict[int, Header] = {}
        self._read_height = 0
        self._loaded = path is None
        self._saved_ns = 0

    def load(self) -> None:
        """Read the file, at the first call."""
        if self._path is not None and not self._loaded:
            self._loaded = True
            found = load_trusted(self._path, self._network, self._rules, self._now_ns())
            if found is not None:
                self._confirmed[found.block.height] = found.block
                self._read_height = found.read_height
                self._saved_ns = self._now_ns()

    def save(self) -> None:
        """Keep the newest confirmed block in the file. What the network file names needs no
        keeping."""
        newest = self.newest
        if (
            self._path is not None
            and newest is not None
            and newest.height > self._network.trusted_height
        ):
            self._saved_ns = self._now_ns()
            save_trusted(self._path, self._network, newest, self._read_height)

    @property
    def empty(self) -> bool:
        return not self._confirmed

    @property
    def newest(self) -> LightBlock | None:
        return self._confirmed[max(self._confirmed)] if self._confirmed else None

    @property
    def read_height(self) -> int:
        """The height of the newest state that was read and confirmed, in this run or before."""
        self.load()
        return self._read_height

    def note_read(self, height: int, header: Header) -> None:
        """A state of `height` was read, to which `header` commits."""
        if self.confirms(header):
            self._read_height = max(self._read_height, height)

    def at(self, height: int) -> LightBlock | None:
        return self._confirmed.get(height)

    def confirms(self, header: Header) -> bool:
        known = self._confirmed.get(header.height)
        return known is not None and known.hash == header.hash()

    def block(self, header: Header) -> LightBlock | None:
        """The block of a header, whether confirmed or waiting."""
        waiting = self._waiting.get(header.height)
        known = [self._confirmed.get(header.height), None if waiting is None else waiting.block]
        wanted = header.hash()
        return next((block for block in known if block is not None and block.hash == wanted), None)

    def base(self, height: int) -> LightBlock | None:
        """The nearest block below `height` that later ones can still be verified from."""
        now_ns = self._now_ns()
        below = (
            block
            for block in self._confirmed.values()
            if block.height < height and not self._rules.expired(block.header, now_ns)
        )
        return max(below, key=lambda block: block.height, default=None)

    def validators(self, validators_hash: bytes) -> ValidatorSet | None:
        """A set of validators that is known by its hash."""
        for block in reversed(self._confirmed.values()):
            if block.header.validators_hash == validators_hash:
                return block.validators
        return None

    def interval_ns(self) -> int | None:
        """The mean time between the newest blocks, when enough of them are known."""
        newest = self.newest
        if newest is None:
            return None
        last = newest.height - INTERVAL_BLOCKS
        earlier = [height for height in self._confirmed if height <= last]
        if not earlier:
            return None
        other = self._confirmed[max(earlier)]
        return (newest.header.time_ns - other.header.time_ns) // (newest.height - other.height)

    def keep(self, blocks: Iterable[LightBlock], shown_by: str) -> None:
        """Confirmed blocks. Raises `ForkDetected` when one of another hash is confirmed, or was
        signed as well and waits."""
        for block in blocks:
            waiting = self._waiting.get(block.height)
            known = self._confirmed.get(block.height)
            if known is not None and known.hash != block.hash:
                raise fork(block.height, [shown_by])
            if waiting is not None and waiting.block.hash != block.hash:
                raise fork(block.height, [waiting.shown_by, shown_by])
            self._waiting.pop(block.height, None)
            self._confirmed.setdefault(block.height, block)
        while len(self._confirmed) > MAX_KEPT:
            # The lowest stays, for whoever asks for an old transaction.
            del self._confirmed[sorted(self._confirmed)[1]]
        if self._now_ns() - self._saved_ns > SAVE_S * NANOSECONDS:
            self.save()

    @property
    def waiting(self) -> tuple[Waiting, ...]:
        return tuple(self._waiting.values())

    def wait(self, block: LightBlock, shown_by: str) -> None:
        """A signed block that nobody confirms. Raises `ForkDetected` for a second one of a
        height."""
        known = self._waiting.setdefault(block.height, Waiting(shown_by, block))
        if known.block.hash != block.hash:
            raise fork(block.height, [known.shown_by, shown_by])
        while len(self._waiting) > MAX_WAITING:
            forgotten = min(self._waiting)
            del self._waiting[forgotten]
            log.warning("header_never_confirmed", height=forgotten)

    def walked(self, height: int) -> Header | None:
        """A header that hashes led back to."""
        return self._walked.get(height)

    def above(self, height: int) -> LightBlock | None:
        """The nearest confirmed block above `height`."""
        higher = [known for known in self._confirmed if known > height]
        return self._confirmed[min(higher)] if higher else None

    def walked_above(self, height: int) -> Header | None:
        """The nearest header above `height` that hashes led back to."""
        higher = [known for known in self._walked if known > height]
        return self._walked[min(higher)] if higher else None

    def remember_walk(self, headers: Iterable[Header]) -> None:
        for header in headers:
            self._walked[header.height] = header
        while len(self._walked) > MAX_WALKED:
            del self._walked[next(iter(self._walked))]


def fork(height: int, addresses: list[str]) -> ForkDetected:
    return ForkDetected(
        f"two different headers of height {height} are both signed by the chain's validators "
        f"(shown by {' and '.join(dict.fromkeys(addresses))}): more than a third of them sign a "
        "second chain. Trust neither until those who run the network say which"
    )

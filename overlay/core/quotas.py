"""How much of a relay one neighbour may use: rates of set-ups, and shares of the path table.

A neighbour is whatever its shell can tell apart without believing it: a node by its on-chain
key, a stranger by the prefix of its address. Rates are token buckets. The table has shares, and
when it is full room is made at the expense of the neighbour with the most paths, if that one has
more than the one who asks: of its paths one of those that have been silent longest goes. So no
neighbour keeps another out. Behind a relay that is a neighbour there are many strangers, each with
a share at each first hop: those who share a first hop with a flood share its place in the table,
and what is left to them is to say something now and then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    per_s: float
    burst: int


STRANGER_SETUPS = Rate(3.0, 90)
"""As Tor's relays allow an address (DoSCircuitCreationRate and -Burst)."""
NODE_SETUPS = Rate(100.0, 1000)
PINGS = Rate(4.0, 4)


@dataclass(slots=True)
class TokenBucket:
    """`tokens` as of `at_s`; time that runs backwards adds none."""

    tokens: float
    at_s: float

    def take(self, rate: Rate, now_s: float) -> bool:
        """Whether one more event is within `rate`; if so, it is counted."""
        self.refill(rate, now_s)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def refill(self, rate: Rate, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self.at_s)
        self.tokens = min(float(rate.burst), self.tokens + elapsed_s * rate.per_s)
        self.at_s = now_s


class Buckets(Generic[Key]):
    """A bucket a neighbour, for at most `max_neighbours` that are not full."""

    def __init__(self, max_neighbours: int = 8192) -> None:
        self._max_neighbours = max_neighbours
        self._buckets: dict[Key, tuple[TokenBucket, Rate]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, neighbour: Key, rate: Rate, now_s: float) -> bool:
        """Whether `neighbour` may do it once more. A new neighbour's bucket is full, but when
        there are too many neighbours already it may not."""
        entry = self._buckets.get(neighbour)
        if entry is None:
            if len(self._buckets) >= self._max_neighbours:
                return False
            entry = self._buckets[neighbour] = (TokenBucket(float(rate.burst), now_s), rate)
        return entry[0].take(rate, now_s)

    def tick(self, now_s: float) -> None:
        """Forget neighbours whose buckets are full again: a new one would be the same."""
        for neighbour, (bucket, rate) in list(self._buckets.items()):
            bucket.refill(rate, now_s)
            if bucket.tokens >= rate.burst:
                del self._buckets[neighbour]


@dataclass(frozen=True, slots=True)
class Room(Generic[Key]):
    """Whether there is room, if need be after a path of `instead_of` has been closed."""

    found: bool
    instead_of: Key | None = None


class Shares(Generic[Key, Item]):
    """Which items (paths) each neighbour has in a table of `max_items`; all calls take O(1)."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._items: dict[Key, OrderedDict[Item, None]] = {}
        self._by_count: dict[int, dict[Key, None]] = {}
        self._most = 0
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def count(self, neighbour: Key) -> int:
        return len(self._items.get(neighbour, ()))

    def room(self, neighbour: Key, share: int) -> Room[Key]:
        """Whether `neighbour`, which may have `share` items, may have one more."""
        count = self.count(neighbour)
        if count >= share:
            return Room(False)
        if self._total < self._max_items:
            return Room(True)
        if self._most <= count:
            return Room(False)
        return Room(True, next(iter(self._by_count[self._most])))

    def newest(self, neighbour: Key) -> Iterator[Item]:
        """The items of `neighbour`, the latest added first; not to be held over a change."""
        return reversed(self._items.get(neighbour, OrderedDict()))

    def oldest(self, neighbour: Key) -> Item:
        """The item of `neighbour` that was added or renewed longest ago. Raises `KeyError`."""
        return next(iter(self._items[neighbour]))

    def renew(self, neighbour: Key, item: Item) -> None:
        """Count it as added now. Raises `KeyError` if it is not there."""
        self._items[neighbour].move_to_end(item)

    def add(self, neighbour: Key, item: Item) -> None:
        """Enter a new item; the caller has asked for `room`."""
        items = self._items.setdefault(neighbour, OrderedDict())
        if item in items:
            raise ValueError("the item is there already")
        items[item] = None
        self._total += 1
        self._moved(neighbour, len(items) - 1, len(items))

    def remove(self, neighbour: Key, item: Item) -> None:
        """Take an item out. Raises `KeyError` if it is not there."""
        items = self._items[neighbour]
        del items[item]
        if not items:
            del self._items[neighbour]
        self._total -= 1
        self._moved(neighbour, len(items) + 1, len(items))

    def _moved(self, neighbour: Key, before: int, after: int) -> None:
        if before:
            peers = self._by_count[before]
            del peers[neighbour]
            if not peers:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[neighbour] = None
        if after > self._most or (before == self._most and before not in self._by_count):
            self._most = after

"""What this node tells the others of its group: its log of prefixes that it sent somewhere.

Items wait `DELAY_S` and go out together; one that goes on from another that still waits takes its
place, and a prompt that is no news to its owner waits for its reply. A reader that missed something
asks for it, and gets the deltas since then or, when these are gone, a snapshot. Seals let readers
see that what they have is what was told, and bind the origin to it: each covers all deltas before.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from modelnode.core.chunks import FINGERPRINT_BYTES, Path, Scheme, common_chunks
from modelnode.core.sync_limits import Allowance
from modelnode.core.sync_messages import (
    MAX_CHUNKS,
    MAX_ITEMS,
    MAX_NUMBER,
    MAX_OWNERS,
    Ask,
    Beat,
    Delta,
    Emptied,
    Item,
    Named,
    Owner,
    Page,
    Resumed,
    Seal,
    Told,
    encode_sync,
    first_chain,
    next_chain,
    path_id,
    sealed,
    tag_of,
)
from modelnode.core.sync_state import Kept, SyncState
from planetserve.keys import NodeId

DELAY_S = 0.2
PATIENCE_S = 2.0
SETTLED_S = 1.0
"""What was heard so long ago has been heard by everyone."""
BEAT_S = 1.0
SEAL_S = 10.0
ANSWER_S = 0.4
"""At most one answer to a peer in so long, for snapshots at most one in `BEAT_S`."""
ITEMS_PER_S, ITEMS_BURST = 800.0, 2_000.0
"""Less than a reader takes (`sync_limits`)."""
MAX_WAITING = 2_000
MAX_RECENT_BYTES = 256 << 10
TARGET_BYTES = 16 << 10
"""A delta or page is closed when its paths have so many bytes."""
NEIGHBOURS = 3
RESUMED_BYTES = 10
"""What naming another node's path costs more than naming an own one, about."""
MAX_HEARD, MAX_HEARD_BYTES = 4_096, 4 << 20
MAX_PEERS = 4_096


@dataclass(slots=True)
class _Waiting:
    """`path` is None when `owner` was emptied."""

    owner: NodeId
    path: Path | None
    due_s: float


class Log:
    """`epoch` must differ from that of each earlier log of this node, for example milliseconds
    since 1970; `sign` signs in the domain `sync_messages.DOMAIN` with the key `public_key`."""

    def __init__(
        self,
        public_key: bytes,
        model: str,
        scheme: Scheme,
        epoch: int,
        now_s: float,
        sign: Callable[[bytes], bytes],
    ) -> None:
        if not 1 <= epoch <= MAX_NUMBER:
            raise ValueError("an epoch is a positive integer")
        self._public_key, self._model, self._scheme, self._sign = public_key, model, scheme, sign
        self._epoch, self._sequence = epoch, 0
        self._chain = first_chain(epoch)
        self._state = SyncState()
        self._indices: dict[NodeId, int] = {}
        self._sorted: list[tuple[Path, int]] = []
        self._waiting: list[_Waiting] = []
        self._heard: dict[Path, tuple[float, NodeId]] = {}
        self._heard_sorted: list[Path] = []
        self._heard_bytes = 0
        self._recent: deque[tuple[int, bytes]] = deque()
        self._recent_bytes = 0
        self._snapshot: tuple[int, float, list[bytes]] | None = None
        self._seal: tuple[int, bytes] | None = None
        self._sent_s = self._sealed_s = now_s
        self._answered: dict[NodeId, tuple[float, float]] = {}
        self._allowance = Allowance(ITEMS_PER_S, ITEMS_BURST, now_s)
        self.untold = 0
        """Items that were left out because there were too many."""

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, and how many deltas it has."""
        return self._epoch, self._sequence

    @property
    def waiting(self) -> int:
        """Items that were not sent yet."""
        return len(self._waiting)

    def held(self) -> set[tuple[NodeId, Path]]:
        """What a reader that has heard everything holds true."""
        return self._state.held()

    def tell(self, owner: NodeId, path: Path, now_s: float, *, whole: bool = True) -> None:
        """`owner` was sent a request whose prompt and reply are `path`, or whose prompt is: `whole`
        is False then, and it waits for its reply up to `PATIENCE_S` if the owner is known to hold
        most of it already."""
        path = path[: MAX_CHUNKS * FINGERPRINT_BYTES]
        if not path:
            return
        due_s = now_s + (DELAY_S if whole or self._is_news(owner, path) else PATIENCE_S)
        for waiting in reversed(self._waiting[-MAX_ITEMS:]):
            if waiting.owner != owner:
                continue
            if waiting.path is None:
                break
            if path.startswith(waiting.path):
                waiting.path, waiting.due_s = path, min(waiting.due_s, due_s) if whole else due_s
                return
        self._wait(_Waiting(owner, path, due_s))

    def emptied(self, owner: NodeId, now_s: float) -> None:
        """`owner` holds nothing any more: of this node itself its readers forget everything, of
        another what this node told of it."""
        self._waiting = [waiting for waiting in self._waiting if waiting.owner != owner]
        self._wait(_Waiting(owner, None, now_s))

    def heard(self, owner: NodeId, path: Path, now_s: float) -> None:
        """Another node told that `owner` holds `path`; what goes on from it need not repeat it."""
        if path not in self._heard:
            insort(self._heard_sorted, path)
            self._heard_bytes += len(path)
        self._heard.setdefault(path, (now_s, owner))
        while len(self._heard) > MAX_HEARD or self._heard_bytes > MAX_HEARD_BYTES:
            oldest = next(iter(self._heard))
            del self._heard[oldest]
            del self._heard_sorted[bisect_left(self._heard_sorted, oldest)]
            self._heard_bytes -= len(oldest)

    def path(self, identifier: bytes) -> Path | None:
        """A path told by this node, by its id."""
        return self._state.path(identifier)

    def messages(self, now_s: float) -> list[bytes]:
        """What every peer gets now, in this order. Asked a few times in `DELAY_S`."""
        sent: list[bytes] = []
        while self._is_due(now_s) and self._allowance.left(now_s) >= MAX_ITEMS:
            sent.append(self._delta(now_s))
        if now_s - self._sealed_s >= SEAL_S:
            self._sealed_s = now_s
            if self._seal is None or self._seal[0] != self._sequence:
                sent.append(self._sealed())
        if sent:
            self._sent_s = now_s
        elif now_s - self._sent_s >= BEAT_S:
            self._sent_s = now_s
            sent.append(self._beat())
        return sent

    def answer(self, peer: NodeId, ask: Ask, now_s: float) -> list[bytes]:
        """What `peer` gets for its question; nothing when it asks too often."""
        answered_s, snapshot_s = self._answered.get(peer, (-BEAT_S, -BEAT_S))
        if now_s - answered_s < ANSWER_S:
            return []
        if len(self._answered) >= MAX_PEERS:
            self._answered.clear()
        if ask.epoch == self._epoch and self._has_since(ask.sequence):
            self._answered[peer] = (now_s, snapshot_s)
            return self._since(ask.sequence) or [self._beat()]
        if now_s - snapshot_s < BEAT_S:
            return []
        self._answered[peer] = (now_s, now_s)
        sequence, pages = self._pages(now_s)
        return [*pages, *self._since(sequence), self._sealed()]

    def _wait(self, waiting: _Waiting) -> None:
        if len(self._waiting) >= MAX_WAITING and waiting.path is not None:
            self.untold += 1
            return
        self._waiting.append(waiting)

    def _is_due(self, now_s: float) -> bool:
        return any(waiting.due_s <= now_s for waiting in self._waiting)

    def _is_news(self, owner: NodeId, path: Path) -> bool:
        """Whether most of `path` is new to `owner`, as far as this node told or heard of it."""
        keep, known = self._nearest(self._indices.get(owner, MAX_OWNERS), path)
        told = keep * FINGERPRINT_BYTES if known and self._is(known.owner, owner) else 0
        other = self._resumable(path, math.inf)
        heard = len(other) if other and self._heard[other][1] == owner else 0
        return 4 * max(told, heard) < 3 * len(path)

    def _is(self, index: int | None, owner: NodeId) -> bool:
        return index is not None and self._state.node(index) == owner

    def _delta(self, now_s: float) -> bytes:
        """The next delta, of what is due and what will be soon."""
        items: list[Item] = []
        later: list[_Waiting] = []
        size = 0
        for place, waiting in enumerate(self._waiting):
            if size > TARGET_BYTES or len(items) >= MAX_ITEMS - 1:
                later += self._waiting[place:]
                break
            if waiting.due_s > now_s + DELAY_S:
                later.append(waiting)
                continue
            index = self._index(waiting.owner, items)
            if waiting.path is None:
                self._state.empty(index)
                items.append(Emptied(index))
                continue
            told = self._refer(index, waiting.path, now_s)
            if isinstance(told, Told):
                self._keep(*self._state.tell(told))
            else:
                self._keep(*self._state.add(index, waiting.path))
            size += len(told.new)
            items.append(told)
        self._waiting = later
        self._allowance.take(len(items), now_s)
        self._sequence += 1
        data = encode_sync(Delta(tag_of(self._epoch), self._sequence, tuple(items)))
        self._chain = next_chain(self._chain, data)
        self._recent.append((self._sequence, data))
        self._recent_bytes += len(data)
        while self._recent_bytes > MAX_RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft()[1])
        return data

    def _index(self, owner: NodeId, items: list[Item]) -> int:
        """The index of `owner`; a new one is named first, in place of the one used least recently
        when there are too many."""
        index = self._indices.pop(owner, None)
        if index is None:
            index = len(self._indices)
            if index == MAX_OWNERS:
                index = self._indices.pop(next(iter(self._indices)))
            self._state.name(index, owner)
            items.append(Named(index, owner))
        self._indices[owner] = index
        return index

    def _refer(self, owner: int, path: Path, now_s: float) -> Told | Resumed:
        """`path` as what it adds to the most like it of what was told here, or to another node's
        path where that says more."""
        keep, kept = self._nearest(owner, path)
        other = self._resumable(path, now_s)
        if len(other) - keep * FINGERPRINT_BYTES > RESUMED_BYTES:
            return Resumed(owner, path_id(other), path[len(other) :])
        back = len(self._state.items) - self._place(kept.number) if kept and keep else 0
        return Told(owner, back, keep, path[keep * FINGERPRINT_BYTES :])

    def _nearest(self, owner: int, path: Path) -> tuple[int, Kept | None]:
        """The kept item that begins most like `path`, and for how many chunks; of several one of
        `owner`. In their order it is one of the path's neighbours."""
        at = bisect_left(self._sorted, (path, 0))
        best: tuple[int, bool, int] = (0, False, 0)
        for other, number in self._sorted[max(at - NEIGHBOURS, 0) : at + NEIGHBOURS]:
            kept = self._state.items[self._place(number)]
            best = max(best, (common_chunks(path, other), kept.owner == owner, number))
        if not best[0]:
            return 0, None
        return best[0], self._state.items[self._place(best[2])]

    def _resumable(self, path: Path, now_s: float) -> Path:
        """The longest path that another node told and that everyone will have heard, of those that
        `path` goes on from."""
        at = bisect_left(self._heard_sorted, path)
        for other in reversed(self._heard_sorted[max(at - NEIGHBOURS, 0) : at]):
            if path.startswith(other) and now_s - self._heard[other][0] >= SETTLED_S:
                return other
        return b""

    def _place(self, number: int) -> int:
        return bisect_left(self._state.items, number, key=lambda kept: kept.number)

    def _keep(self, kept: Kept, gone: list[Kept]) -> None:
        for item in gone:
            del self._sorted[bisect_left(self._sorted, (item.path, item.number))]
        insort(self._sorted, (kept.path, kept.number))

    def _has_since(self, sequence: int) -> bool:
        first = self._recent[0][0] if self._recent else self._sequence + 1
        return first - 1 <= sequence <= self._sequence

    def _since(self, sequence: int) -> list[bytes]:
        return [data for number, data in self._recent if number > sequence]

    def _beat(self) -> bytes:
        return encode_sync(Beat(tag_of(self._epoch), self._sequence))

    def _sealed(self) -> bytes:
        if self._seal is None or self._seal[0] != self._sequence:
            digest = self._state.digest(self._chain)
            scheme = str(self._scheme)
            seal = Seal(scheme, self._epoch, self._sequence, digest, self._public_key)
            signature = self._sign(sealed(self._model, seal))
            signed = Seal(scheme, self._epoch, self._sequence, digest, self._public_key, signature)
            self._seal = (self._sequence, encode_sync(signed))
        return self._seal[1]

    def _pages(self, now_s: float) -> tuple[int, list[bytes]]:
        """A snapshot and the sequence that it stands at; made at most once in `BEAT_S`."""
        if self._snapshot is not None:
            sequence, made_s, pages = self._snapshot
            if now_s - made_s < BEAT_S and self._has_since(sequence):
                return sequence, pages
        parts: list[list[Told]] = [[]]
        size = 0
        for told in self._state.references():
            if len(parts[-1]) == MAX_ITEMS or size > TARGET_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(told)
            size += len(told.new)
        owners = tuple(
            Owner(index, named.node, named.emptied)
            for index, named in sorted(self._state.owners.items())
        )
        pages = [
            encode_sync(
                Page(
                    self._epoch,
                    self._sequence,
                    number,
                    len(parts),
                    self._chain,
                    owners if number == 0 else (),
                    tuple(part),
                )
            )
            for number, part in enumerate(parts)
        ]
        self._snapshot = (self._sequence, now_s, pages)
        return self._sequence, pages

"""What this node hears from one other: its log, read in order, checked, and bounded.

`Reader.receive` turns messages into effects for the shell: what goes into the tree, what goes back
to the origin, what is counted. Messages may be lost, doubled or come in another order: a gap, an
epoch that is not known and a digest that differs make the reader ask, at most once in `ASK_S`.

A peer can make its own word worthless and nothing else: it is held to an allowance of this node's
time, to `MAX_STATE_BYTES` of memory, and its items count against itself in the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from modelnode.core.chunks import FINGERPRINT_BYTES, Path, Scheme
from modelnode.core.sync_limits import (
    CHUNKS_A_UNIT,
    COSTLY_UNITS,
    ITEM_UNITS,
    UNITS_BURST,
    UNITS_PER_S,
    WORK_A_UNIT,
    Allowance,
)
from modelnode.core.sync_messages import (
    MAX_CHUNKS,
    Ask,
    Beat,
    Delta,
    Emptied,
    Item,
    Lack,
    Named,
    Page,
    Paths,
    Resumed,
    Seal,
    SyncMessage,
    Told,
    encode_sync,
    first_chain,
    next_chain,
    path_id,
    signed_by,
    tag_of,
)
from modelnode.core.sync_state import Kept, SyncState
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId

ASK_S = 0.5
MAX_LACKS = 3
AWAIT_S = 10.0
"""Pages are read so long after they were asked for."""
MUTED_S = 60.0
"""So long nothing is heard of a peer whose seal is false or of another scheme."""

MAX_EARLY, MAX_EARLY_BYTES = 64, 4_096
"""Deltas that came before others they follow are kept, if they are small."""

MALFORMED, RATE, SCHEME, SIGNATURE, DIGEST, UNASKED = FAULTS = (
    "malformed",
    "rate",
    "scheme",
    "signature",
    "digest",
    "unasked",
)


@dataclass(frozen=True, slots=True)
class Holds:
    """The origin says that `node` holds `path`."""

    node: NodeId
    path: Path


@dataclass(frozen=True, slots=True)
class Lost:
    """The origin says that `node` holds nothing any more. Of itself that is so for everyone's
    word, of another for its own word."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Send:
    """To the origin."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """A word of `FAULTS`. After "signature" nothing that the origin told should be believed."""

    cause: str


Effect: TypeAlias = "Holds | Lost | Send | Fault"


@dataclass(slots=True)
class _Staged:
    """A snapshot of which the pages before `page` have come."""

    epoch: int
    sequence: int
    pages: int
    chain: bytes
    page: int = 0
    state: SyncState = field(default_factory=SyncState)


class Reader:
    """Of one origin in one group; `scheme` is how this node cuts prompts, `find` gives a path that
    any node of the group told by its id."""

    def __init__(
        self,
        origin: NodeId,
        model: str,
        scheme: Scheme,
        now_s: float,
        find: Callable[[bytes], Path | None],
    ) -> None:
        self._find = find
        self._fetched: dict[bytes, Path] = {}
        self._lacked = (0, 0)
        self._lacked_s = self._told_paths_s = now_s - ASK_S
        self._origin, self._model, self._scheme = origin, model, str(scheme)
        self._allowance = Allowance(UNITS_PER_S, UNITS_BURST, now_s)
        self._epoch, self._sequence = 0, 0
        self._chain = b""
        self._state = SyncState()
        self._early: dict[int, tuple[Delta, bytes]] = {}
        self._staged: _Staged | None = None
        self._asked_s: float | None = None
        self._muted_until_s = now_s

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and sequence up to which everything was heard; (0, 0) before the first."""
        return self._epoch, self._sequence

    def held(self) -> set[tuple[NodeId, Path]]:
        """What the origin's last items say that nodes hold."""
        return self._state.held()

    def connected(self, now_s: float) -> list[Effect]:
        """A connection to the origin stands: ask what was missed meanwhile."""
        return self._ask(now_s)

    def charge(self, work: int, now_s: float) -> None:
        """Count `HRTree.work` that this origin's effects made."""
        self._allowance.take(work / WORK_A_UNIT, now_s)

    def receive(self, message: SyncMessage, data: bytes, now_s: float) -> list[Effect]:
        """`message` of the origin, decoded from `data`."""
        if now_s < self._muted_until_s:
            return []
        if not self._allowance.take(_units(message), now_s):
            return [Fault(RATE)]
        try:
            match message:
                case Delta():
                    return self._delta(message, data, now_s)
                case Beat(tag, sequence):
                    known = self._knows(tag) and sequence <= self._sequence
                    return [] if known else self._ask(now_s)
                case Seal():
                    return self._sealed(message, now_s)
                case Page():
                    return self._page(message, now_s)
                case Paths(paths):
                    return self._paths(paths, now_s)
                case Ask() | Lack():
                    raise RemoteProtocolError("a question is for the log")
        except RemoteProtocolError:
            self._forget()
            return [Fault(MALFORMED), *self._ask(now_s)]

    def _knows(self, tag: int) -> bool:
        return self._epoch > 0 and tag == tag_of(self._epoch)

    def _delta(self, delta: Delta, data: bytes, now_s: float) -> list[Effect]:
        if not self._knows(delta.tag):
            return self._ask(now_s)
        if delta.sequence > self._sequence + 1:
            if len(self._early) < MAX_EARLY and len(data) <= MAX_EARLY_BYTES:
                self._early[delta.sequence] = (delta, data)
            return self._ask(now_s)
        effects: list[Effect] = []
        following = (delta, data) if delta.sequence > self._sequence else None
        while following is not None:
            missing = self._missing(following[0])
            if missing:
                self._early[self._sequence + 1] = following
                return effects + self._lack(missing, now_s)
            for item in following[0].items:
                effects += self._apply(item)
            self._fetched = {}
            self._sequence += 1
            self._chain = next_chain(self._chain, following[1])
            following = self._early.pop(self._sequence + 1, None)
        return effects

    def _missing(self, delta: Delta) -> tuple[bytes, ...]:
        """Ids of paths that the delta goes on from and that nobody told here."""
        return tuple(
            item.id
            for item in delta.items
            if isinstance(item, Resumed) and self._resumed(item.id) is None
        )

    def _resumed(self, identifier: bytes) -> Path | None:
        return self._fetched.get(identifier) or self._find(identifier)

    def _lack(self, ids: tuple[bytes, ...], now_s: float) -> list[Effect]:
        """Ask for paths; when that has not helped a few times, for everything."""
        if now_s - self._lacked_s < ASK_S:
            return []
        self._lacked_s = now_s
        sequence, times = self._lacked
        self._lacked = (self._sequence, times + 1 if sequence == self._sequence else 1)
        if self._lacked[1] > MAX_LACKS:
            self._forget()
            return self._ask(now_s)
        return [Send(encode_sync(Lack(ids)))]

    def _paths(self, paths: tuple[Path, ...], now_s: float) -> list[Effect]:
        if now_s - self._lacked_s > AWAIT_S:
            return [Fault(UNASKED)]
        self._fetched = {path_id(path): path for path in paths}
        following = self._early.pop(self._sequence + 1, None)
        return [] if following is None else self._delta(*following, now_s)

    def may_lack(self, now_s: float) -> bool:
        """Whether the origin may be told paths that it lacks: seldom."""
        if now_s - self._told_paths_s < ASK_S / 2:
            return False
        self._told_paths_s = now_s
        return True

    def path(self, identifier: bytes) -> Path | None:
        """A path that the origin told, by its id."""
        return self._state.path(identifier)

    def _apply(self, item: Item) -> Iterable[Effect]:
        match item:
            case Named(owner, node):
                self._state.name(owner, node)
            case Emptied(owner):
                yield Lost(self._state.empty(owner))
            case Told():
                kept, _ = self._state.tell(item)
                yield from _holds(self._state, kept)
            case Resumed(owner, identifier, new):
                # A path told within this delta may have pushed out the one that it resumes.
                resumed = self._resumed(identifier)
                path = b"" if resumed is None else resumed + new
                if not 0 < len(path) <= MAX_CHUNKS * FINGERPRINT_BYTES:
                    raise RemoteProtocolError("a path goes on from none, or is too long")
                kept, _ = self._state.add(owner, path)
                yield from _holds(self._state, kept)

    def _sealed(self, seal: Seal, now_s: float) -> list[Effect]:
        cause = None
        if not signed_by(seal, self._origin, self._model):
            cause = SIGNATURE
        elif seal.scheme != self._scheme:
            cause = SCHEME
        if cause is not None:
            self._forget()
            self._muted_until_s = now_s + MUTED_S
            return [Fault(cause)]
        if seal.epoch != self._epoch or seal.sequence > self._sequence:
            return self._ask(now_s)
        if seal.sequence < self._sequence or seal.digest == self._state.digest(self._chain):
            return []
        self._forget()
        return [Fault(DIGEST), *self._ask(now_s)]

    def _page(self, page: Page, now_s: float) -> list[Effect]:
        if self._asked_s is None or now_s - self._asked_s > AWAIT_S:
            return [Fault(UNASKED)]
        if (page.epoch, page.sequence) == self.position or (
            page.epoch == self._epoch and page.sequence < self._sequence
        ):
            return []  # of an answer to a question that another answer settled
        effects: list[Effect] = []
        if page.page == 0:
            self._staged = _Staged(page.epoch, page.sequence, page.pages, page.chain)
            for owner in page.owners:
                self._staged.state.name(owner.index, owner.node, owner.emptied)
            effects += self._lost(self._staged)
        staged = self._staged
        if staged is None or page.page != staged.page:
            return effects
        if (staged.epoch, staged.sequence, staged.pages, staged.chain) != (
            page.epoch,
            page.sequence,
            page.pages,
            page.chain,
        ):
            return effects
        for told in page.items:
            effects += _holds(staged.state, staged.state.load(told))
        staged.page += 1
        if staged.page == staged.pages:
            self._epoch, self._sequence = staged.epoch, staged.sequence
            self._chain, self._state = staged.chain, staged.state
            self._staged = None
            self._early.clear()
        return effects

    def _lost(self, staged: _Staged) -> list[Effect]:
        """Nodes that were emptied since this reader last heard of them."""
        same = staged.epoch == self._epoch
        known = {named.node: named.emptied for named in self._state.owners.values() if same}
        return [
            Lost(named.node)
            for named in staged.state.owners.values()
            if named.emptied != known.get(named.node, 0)
        ]

    def _ask(self, now_s: float) -> list[Effect]:
        if self._asked_s is not None and now_s - self._asked_s < ASK_S:
            return []
        self._asked_s = now_s
        return [Send(encode_sync(Ask(self._epoch, self._sequence)))]

    def _forget(self) -> None:
        """Start anew; what is in the tree stays there until it is told otherwise."""
        self._epoch, self._sequence, self._chain = 0, 0, first_chain(0)
        self._state, self._staged = SyncState(), None
        self._fetched = {}
        self._early.clear()


def _holds(state: SyncState, kept: Kept) -> list[Effect]:
    return [] if kept.owner is None else [Holds(state.node(kept.owner), kept.path)]


def _units(message: SyncMessage) -> float:
    match message:
        case Delta(items=items):
            return sum(_item_units(item) for item in items)
        case Page(owners=owners, items=told):
            return len(owners) + sum(_item_units(item) for item in told)
        case Paths(paths=paths):
            return ITEM_UNITS * len(paths)
        case Seal():
            return COSTLY_UNITS
        case _:
            return 1


def _item_units(item: Item) -> float:
    if isinstance(item, Named | Emptied):
        return COSTLY_UNITS
    keep = item.keep if isinstance(item, Told) else 0
    chunks = keep + len(item.new) // FINGERPRINT_BYTES
    return ITEM_UNITS + chunks / CHUNKS_A_UNIT

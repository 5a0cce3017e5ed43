"""How a node tells the others of its group which prefixes its engine holds.

Each node speaks of itself alone, over its own links: what it claims it can be held to, and nothing
needs a signature of its own, for nobody passes it on (docs/adr/0015-each-node-tells-its-own.md).

A node's log is numbered from nought in each life of its process (its epoch). An item says how much
of an earlier item it begins like, and the fingerprints after that:

    [back, keep, fingerprints]      back: how many items ago, 0 for none; keep: chunks of it

A link begins with a snapshot: the newest items, at most `WINDOW_ITEMS`, the first of which refers
to nothing. A reader that misses a number, or whose window is not what the teller's digest says,
asks for another. Whoever begins a new epoch holds nothing of the old one.

    reader   hears                                        becomes
    ───────  ───────────────────────────────────────────  ──────────────────────────────────
    NEW      items that begin a snapshot                  IN STEP
    NEW      other items                                  NEW, asks for a snapshot
    IN STEP  the next items                               IN STEP
    IN STEP  items that begin a snapshot                  IN STEP
    IN STEP  others, or a digest that is not its own      NEW, asks for a snapshot
    any      another epoch                                NEW; what was heard is forgotten
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from modelnode.core.chunks import FINGERPRINT_BYTES, Path, common_chunks
from planetserve.errors import RemoteProtocolError

WINDOW_ITEMS = 512
PAGE_ITEMS = 64
MAX_CHUNKS = 8_192
"""Of a path; what is beyond is told to nobody."""
MAX_PAGE_BYTES = 192 << 10
ANCHOR_CHUNKS = 4
MAX_ANCHORS = 65_536
ITEM_BYTES = 16
"""At most, of an item beside its fingerprints."""
DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class Item:
    back: int
    keep: int
    fresh: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """Items `first`, `first` + 1, ... of `epoch`. `snapshot` if they may be read by who knows
    nothing; `digest` of the window after the last of them, empty where none is given."""

    epoch: int
    first: int
    snapshot: bool
    items: tuple[Item, ...]
    digest: bytes = b""


class Log:
    """What this node has said of itself in this life."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._window = _Window()
        self._items: deque[Item] = deque(maxlen=WINDOW_ITEMS)

    @property
    def next(self) -> int:
        """The number of the next item."""
        return self._window.next

    def hold(self, path: Path) -> None:
        """The engine holds `path` from now on."""
        path = path[: MAX_CHUNKS * FINGERPRINT_BYTES]
        if path:
            self._items.append(self._window.cut(path))
            self._window.append(path)

    def pages(self, told: int | None) -> list[Page]:
        """What a reader does not know that was told all before `told`; None for a new one, or one
        that has lost its place."""
        oldest = self.next - len(self._items)
        if told is not None and told >= oldest:
            return _paged(self.epoch, told, [*self._items][told - oldest :], snapshot=False)
        window = _Window(oldest)
        items = []
        for path in self._window.paths:
            items.append(window.cut(path))
            window.append(path)
        return _paged(self.epoch, oldest, items, snapshot=True)

    def digest(self) -> Page:
        """A page of nothing but where the log stands."""
        return Page(self.epoch, self.next, False, (), _digest(self._window.paths))


class _Window:
    """The newest paths, and where among them a path's beginning stands."""

    def __init__(self, first: int = 0) -> None:
        self.paths: deque[Path] = deque(maxlen=WINDOW_ITEMS)
        self.next = first
        self._anchors: dict[bytes, int] = {}

    def cut(self, path: Path) -> Item:
        """`path` as an item that follows those in the window."""
        oldest = self.next - len(self.paths)
        for end in reversed(_anchors(path)):
            earlier = self._anchors.get(path[:end], -1)
            if earlier >= oldest:
                keep = common_chunks(path, self.paths[earlier - oldest])
                return Item(self.next - earlier, keep, path[keep * FINGERPRINT_BYTES :])
        return Item(0, 0, path)

    def append(self, path: Path) -> None:
        if len(self._anchors) > MAX_ANCHORS:
            self._anchors.clear()
        for end in _anchors(path):
            self._anchors[path[:end]] = self.next
        self.paths.append(path)
        self.next += 1


def _paged(epoch: int, first: int, items: list[Item], *, snapshot: bool) -> list[Page]:
    """An empty snapshot is a page too: it says where the log stands."""
    pages: list[Page] = []
    page: list[Item] = []
    size = 0
    for number, item in enumerate(items):
        size += len(item.fresh) + ITEM_BYTES
        if page and (size > MAX_PAGE_BYTES or len(page) == PAGE_ITEMS):
            pages.append(Page(epoch, first + number - len(page), snapshot, tuple(page)))
            page, size, snapshot = [], len(item.fresh) + ITEM_BYTES, False
        page.append(item)
    if page or snapshot:
        pages.append(Page(epoch, first + len(items) - len(page), snapshot, tuple(page)))
    return pages


@dataclass(slots=True)
class Heard:
    """What a page made of a reader: the paths to enter, whether all that was held is forgotten
    first, whether to ask for a snapshot."""

    paths: list[Path] = field(default_factory=list)
    forget: bool = False
    ask: bool = False


class Reader:
    """What one peer has said of itself."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._next: int | None = None
        self._paths: deque[Path] = deque(maxlen=WINDOW_ITEMS)

    def hear(self, page: Page) -> Heard:
        """Raises `RemoteProtocolError` for a page that no honest teller sends; the reader is then
        NEW."""
        heard = Heard()
        if page.epoch != self._epoch:
            heard.forget = self._epoch is not None
            self._epoch, self._next = page.epoch, None
            self._paths.clear()
        if page.snapshot:
            self._paths.clear()
            self._next = page.first
        if self._next is None or page.first != self._next:
            return self._lost(heard)
        for item in page.items:
            heard.paths.append(self._read(item))
        if page.digest and page.digest != _digest(self._paths):
            return self._lost(heard)
        return heard

    def _read(self, item: Item) -> Path:
        path = b""
        if item.back:
            if item.back > len(self._paths) or item.keep * FINGERPRINT_BYTES > len(
                self._paths[-item.back]
            ):
                self._next = None
                raise RemoteProtocolError("an item refers to what was not told")
            path = self._paths[-item.back][: item.keep * FINGERPRINT_BYTES]
        path += item.fresh
        if not path or len(path) > MAX_CHUNKS * FINGERPRINT_BYTES or len(path) % FINGERPRINT_BYTES:
            self._next = None
            raise RemoteProtocolError("an item is no path")
        assert self._next is not None
        self._paths.append(path)
        self._next += 1
        return path

    def _lost(self, heard: Heard) -> Heard:
        self._next = None
        heard.ask = True
        return heard


def _anchors(path: Path) -> list[int]:
    """Where paths are compared: at lengths that grow by a quarter, and at the whole."""
    ends = []
    end = ANCHOR_CHUNKS * FINGERPRINT_BYTES
    while end < len(path):
        ends.append(end)
        end += max(ANCHOR_CHUNKS * FINGERPRINT_BYTES, end // 4 // 2 * 2)
    return [*ends, len(path)] if path else []


def _digest(paths: Sequence[Path]) -> bytes:
    digest = blake2b(digest_size=DIGEST_BYTES)
    for path in paths:
        digest.update(len(path).to_bytes(4, "big") + path)
    return digest.digest()

"""What entry nodes tell each other about prefixes: canonical MessagePack lists.

    delta  [0, tag, sequence, items]                          what is new
    beat   [1, tag, sequence]                                 nothing is new
    seal   [2, scheme, epoch, sequence, digest, key, signature]    what it all came to, signed
    page   [3, epoch, sequence, page, pages, chain, owners, items]    a part of a snapshot
    ask    [4, epoch, sequence]                               what came after that is missing
    lack   [5, [id, ...]]                                     paths that "resumed" named are missing
    paths  [6, [path, ...]]                                   these

`epoch` is when the origin's log began, `tag` its low 16 bits. `sequence` counts an epoch's deltas
from 1. An item is one of

    told     [owner, back, keep, new]    `owner` holds this path
    resumed  [owner, id, new]            the same, of a path that goes on from another node's
    named    [owner, node]               from now on this index stands for the node with this id
    emptied  [owner]                     the node holds nothing any more

where `owner` is an index, None in a page for what an emptied node held. A path is the first `keep`
fingerprints of the item told `back` items ago (1: the last one) and the `new` ones; or a whole path
that was told by another node or by who reads this, by its id, and the `new` ones. A page names
owners in `[index, node, how often it was emptied]` and tells only.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from modelnode.core.chunks import FINGERPRINT_BYTES, Path
from planetserve.encoding import EncodingError, decode, encode
from planetserve.keys import KEY_BYTES, NODE_ID_BYTES, SIGNATURE_BYTES, NodeId, node_id, verify

DOMAIN = "planetserve/sync/v1"
DIGEST_BYTES = 16
PATH_ID_BYTES = 6
MAX_CHUNKS = 16_384
"""Of a path; what is longer is told without its end."""
MAX_ITEMS = 128
"""Of a message, owners of a page apart."""
MAX_OWNERS = 1_024
MAX_BACK = 2_048
MAX_PAGES = 128
MAX_SYNC_BYTES = 96 << 10
MAX_NUMBER = (1 << 53) - 1
MAX_SCHEME_CHARACTERS = 16

DELTA, BEAT, SEAL, PAGE, ASK, LACK, PATHS = range(7)


@dataclass(frozen=True, slots=True)
class Told:
    owner: int | None
    back: int
    keep: int
    new: bytes


@dataclass(frozen=True, slots=True)
class Resumed:
    owner: int
    id: bytes
    new: bytes


@dataclass(frozen=True, slots=True)
class Named:
    owner: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class Emptied:
    owner: int


Item: TypeAlias = "Told | Resumed | Named | Emptied"


@dataclass(frozen=True, slots=True)
class Delta:
    tag: int
    sequence: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Beat:
    tag: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Seal:
    scheme: str
    epoch: int
    sequence: int
    digest: bytes
    key: bytes
    signature: bytes = bytes(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class Owner:
    """An index as a snapshot names it."""

    index: int
    node: NodeId
    emptied: int


@dataclass(frozen=True, slots=True)
class Page:
    epoch: int
    sequence: int
    page: int
    pages: int
    chain: bytes
    owners: tuple[Owner, ...]
    items: tuple[Told, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Epoch 0: everything is missing."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Lack:
    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Paths:
    paths: tuple[Path, ...]


SyncMessage: TypeAlias = "Delta | Beat | Seal | Page | Ask | Lack | Paths"


def path_id(path: Path) -> bytes:
    """What a path is called where another node told it."""
    return blake2b(path, digest_size=PATH_ID_BYTES).digest()


def tag_of(epoch: int) -> int:
    return epoch & 0xFFFF


def first_chain(epoch: int) -> bytes:
    """The chain before an epoch's first delta."""
    return next_chain(DOMAIN.encode(), epoch.to_bytes(8, "big"))


def next_chain(chain: bytes, delta: bytes) -> bytes:
    """The chain after a delta, given as it is encoded."""
    return blake2b(chain + delta, digest_size=DIGEST_BYTES).digest()


def sealed(model: str, seal: Seal) -> bytes:
    """What the signature of a seal is over, in the domain `DOMAIN`."""
    return encode([model, seal.scheme, seal.epoch, seal.sequence, seal.digest])


def signed_by(seal: Seal, origin: NodeId, model: str) -> bool:
    """Whether `origin` signed the seal for its group."""
    own = node_id(seal.key) == origin
    return own and verify(seal.key, DOMAIN, sealed(model, seal), seal.signature)


def encode_sync(message: SyncMessage) -> bytes:
    match message:
        case Delta(tag, sequence, items):
            return encode([DELTA, tag, sequence, [_listed(item) for item in items]])
        case Beat(tag, sequence):
            return encode([BEAT, tag, sequence])
        case Seal(scheme, epoch, sequence, digest, key, signature):
            return encode([SEAL, scheme, epoch, sequence, digest, key, signature])
        case Page(epoch, sequence, page, pages, chain, owners, told):
            named = [[owner.index, owner.node, owner.emptied] for owner in owners]
            listed = [_listed(item) for item in told]
            return encode([PAGE, epoch, sequence, page, pages, chain, named, listed])
        case Ask(epoch, sequence):
            return encode([ASK, epoch, sequence])
        case Lack(ids):
            return encode([LACK, list(ids)])
        case Paths(paths):
            return encode([PATHS, list(paths)])


def decode_sync(data: bytes) -> SyncMessage:
    """Raises `RemoteProtocolError` (an `EncodingError`) on anything but one of the messages."""
    match decode(data, max_bytes=MAX_SYNC_BYTES):
        case [kind, tag, sequence, list(items)] if _is(kind, DELTA):
            if not 1 <= len(items) <= MAX_ITEMS:
                raise EncodingError(f"a delta has 1 to {MAX_ITEMS} items")
            listed = tuple(_item(item) for item in items)
            return Delta(_number(tag, 0xFFFF), _number(sequence, MAX_NUMBER, 1), listed)
        case [kind, tag, sequence] if _is(kind, BEAT):
            return Beat(_number(tag, 0xFFFF), _number(sequence, MAX_NUMBER))
        case [kind, str(scheme), epoch, sequence, digest, key, signature] if _is(kind, SEAL):
            if len(scheme) > MAX_SCHEME_CHARACTERS:
                raise EncodingError("the name of a scheme is too long")
            return Seal(
                scheme,
                _number(epoch, MAX_NUMBER, 1),
                _number(sequence, MAX_NUMBER),
                _bytes(digest, DIGEST_BYTES),
                _bytes(key, KEY_BYTES),
                _bytes(signature, SIGNATURE_BYTES),
            )
        case [kind, epoch, sequence, page, pages, chain, list(owners), list(items)] if _is(
            kind, PAGE
        ):
            if len(items) > MAX_ITEMS or len(owners) > MAX_OWNERS:
                raise EncodingError("a page has too many items or owners")
            count = _number(pages, MAX_PAGES, 1)
            return Page(
                _number(epoch, MAX_NUMBER, 1),
                _number(sequence, MAX_NUMBER),
                _number(page, count - 1),
                count,
                _bytes(chain, DIGEST_BYTES),
                tuple(_owner(owner) for owner in owners),
                tuple(_told(item, in_page=True) for item in items),
            )
        case [kind, epoch, sequence] if _is(kind, ASK):
            return Ask(_number(epoch, MAX_NUMBER), _number(sequence, MAX_NUMBER))
        case [kind, list(values)] if _is(kind, LACK) and 1 <= len(values) <= MAX_ITEMS:
            return Lack(tuple(_bytes(value, PATH_ID_BYTES) for value in values))
        case [kind, list(values)] if _is(kind, PATHS) and 1 <= len(values) <= MAX_ITEMS:
            return Paths(tuple(_path(value) for value in values))
    raise EncodingError("a sync message is of no known kind")


def _is(value: Any, kind: int) -> bool:
    return type(value) is int and value == kind


def _listed(item: Item) -> list[Any]:
    match item:
        case Told(owner, back, keep, new):
            return [owner, back, keep, new]
        case Resumed(owner, identifier, new):
            return [owner, identifier, new]
        case Named(owner, node):
            return [owner, node]
        case Emptied(owner):
            return [owner]


def _item(value: Any) -> Item:
    match value:
        case [owner]:
            return Emptied(_number(owner, MAX_OWNERS - 1))
        case [owner, node]:
            return Named(_number(owner, MAX_OWNERS - 1), NodeId(_bytes(node, NODE_ID_BYTES)))
        case [owner, identifier, new]:
            owner, identifier = _number(owner, MAX_OWNERS - 1), _bytes(identifier, PATH_ID_BYTES)
            return Resumed(owner, identifier, _path(new))
    return _told(value, in_page=False)


def _told(value: Any, *, in_page: bool) -> Told:
    match value:
        case [owner, back, keep, bytes(new)]:
            back, keep = _number(back, MAX_BACK), _number(keep, MAX_CHUNKS)
            if len(new) % FINGERPRINT_BYTES or (back > 0) != (keep > 0):
                raise EncodingError("a path is cut within a fingerprint, or refers to nothing")
            if not 1 <= keep + len(new) // FINGERPRINT_BYTES <= MAX_CHUNKS:
                raise EncodingError(f"a path has 1 to {MAX_CHUNKS} chunks")
            if owner is None and in_page:
                return Told(None, back, keep, new)
            return Told(_number(owner, MAX_OWNERS - 1), back, keep, new)
    raise EncodingError("an item is of no known kind")


def _path(value: Any) -> Path:
    if not isinstance(value, bytes) or len(value) % FINGERPRINT_BYTES or not value:
        raise EncodingError("a path has two bytes a chunk, and one chunk at least")
    if len(value) > MAX_CHUNKS * FINGERPRINT_BYTES:
        raise EncodingError(f"a path has at most {MAX_CHUNKS} chunks")
    return value


def _owner(value: Any) -> Owner:
    match value:
        case [index, node, emptied]:
            return Owner(
                _number(index, MAX_OWNERS - 1),
                NodeId(_bytes(node, NODE_ID_BYTES)),
                _number(emptied, MAX_NUMBER),
            )
    raise EncodingError("an owner has an index, an id and a count")


def _number(value: Any, limit: int, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= limit:
        raise EncodingError(f"a field must be an integer from {least} to {limit}")
    return value


def _bytes(value: Any, length: int) -> bytes:
    if not isinstance(value, bytes) or len(value) != length:
        raise EncodingError(f"a field must hold {length} bytes")
    return value

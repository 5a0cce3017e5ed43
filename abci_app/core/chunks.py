"""The whole state as chunks of bytes, the same on every validator, and back.

A chunk is a canonical list of [key, value] pairs. Keys ascend within a chunk and from one to the
next, and a chunk ends where the next record would make it longer than `MAX_CHUNK_BYTES`. There is
no compression: two builds of one library need not compress alike.

A snapshot's metadata is the canonical map {"chain_id", "chunks": [SHA-256 of each]}, and its hash
the SHA-256 of the metadata. Neither is proven: what is restored is believed when its trees come
to the app hash of a header.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from planetserve.encoding import EncodingError, decode, encode
from planetserve.merkle import HASH_BYTES, sha256
from planetserve.statekeys import STORES

FORMAT = 1
MAX_CHUNK_BYTES = 8 << 20
"""CometBFT carries less than 16 MB."""
MAX_CHUNKS = 16_384
MAX_METADATA_BYTES = 1 << 20
RECORD_BYTES = 11
"""At most what a pair adds to its key and value, and the list's own head."""


class ChunkError(ValueError):
    """Bytes that no honest snapshot holds."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """Which chunks a snapshot of `chain_id` consists of, by their hashes."""

    chain_id: str
    chunks: tuple[bytes, ...]

    def encoded(self) -> bytes:
        return encode({"chain_id": self.chain_id, "chunks": list(self.chunks)})


def split(records: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The chunks of a state's records, which come in ascending order of keys."""
    waiting: list[list[bytes]] = []
    size = RECORD_BYTES
    for key, value in records:
        added = len(key) + len(value) + RECORD_BYTES
        if waiting and size + added > MAX_CHUNK_BYTES:
            yield encode(waiting)
            waiting, size = [], RECORD_BYTES
        waiting.append([key, value])
        size += added
    if waiting:
        yield encode(waiting)


def read_manifest(metadata: bytes) -> Manifest:
    """Raises `ChunkError`."""
    try:
        content = decode(metadata, max_bytes=MAX_METADATA_BYTES)
    except EncodingError:
        raise ChunkError("the metadata is not canonical MessagePack") from None
    if not isinstance(content, dict) or tuple(content) != ("chain_id", "chunks"):
        raise ChunkError("the metadata holds exactly chain_id and chunks")
    chain_id, chunks = content["chain_id"], content["chunks"]
    if not isinstance(chain_id, str):
        raise ChunkError("a chain id is text")
    if not isinstance(chunks, list) or not 1 <= len(chunks) <= MAX_CHUNKS:
        raise ChunkError(f"a snapshot has 1 to {MAX_CHUNKS} chunks")
    if not all(isinstance(item, bytes) and len(item) == HASH_BYTES for item in chunks):
        raise ChunkError("a chunk's hash has 32 bytes")
    return Manifest(chain_id, tuple(chunks))


def read_chunk(chunk: bytes, after: bytes) -> Sequence[tuple[bytes, bytes]]:
    """The records of a chunk whose keys all come after `after`. Raises `ChunkError`."""
    try:
        content = decode(chunk, max_bytes=2 * MAX_CHUNK_BYTES)
    except EncodingError:
        raise ChunkError("a chunk is not canonical MessagePack") from None
    if not isinstance(content, list) or not content:
        raise ChunkError("a chunk is a list of records")
    records = []
    last = after
    for pair in content:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ChunkError("a record is a key and a value")
        key, value = pair
        if not isinstance(key, bytes) or not isinstance(value, bytes):
            raise ChunkError("keys and values are bytes")
        if key <= last:
            raise ChunkError("keys do not ascend")
        if not is_state_key(key):
            raise ChunkError("a key names no store")
        last = key
        records.append((key, value))
    return records


def is_state_key(key: bytes) -> bool:
    store, slash, rest = key.partition(b"/")
    return bool(slash and rest) and store.isascii() and store.decode() in STORES


def snapshot_hash(metadata: bytes) -> bytes:
    return sha256(metadata)

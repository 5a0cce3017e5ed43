"""What the ledger says of its state and of a transaction, compared with believed headers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from planetserve.errors import RemoteProtocolError, WrongProof
from planetserve.light import protobuf
from planetserve.light.blocks import Header
from planetserve.light.source import entry
from planetserve.merkle import (
    HASH_BYTES,
    list_root,
    map_root,
    root_of,
    sha256,
    verify_item,
    verify_record,
)
from planetserve.rpc import excerpt
from planetserve.statekeys import STORES, store_of

MAX_STATE_BYTES = 17 << 20
"""The ledger answers with up to 16 MiB of values, and proofs beside them."""
MAX_STORES = 1_000
MAX_DEPTH = 256
"""Of a proof: as many as a key's hash has bits."""
LEAST_PAIR_BYTES = 24
FEW_PAIRS = 100
"""A store's records have so many bytes at least, unless there are few of them."""
NIL = b"\xc0"


@dataclass(frozen=True, slots=True)
class Proven:
    """A part of the ledger's state after block `height`; `header` is the next one, which commits
    to that state. `records` are by state key, None for what is not there; `stores` are whole
    stores by name, each by state key. Records are decoded."""

    height: int
    header: Header
    roots: Mapping[str, bytes]
    records: Mapping[bytes, Any]
    stores: Mapping[str, Mapping[bytes, Any]]


@dataclass(frozen=True, slots=True)
class ProvenTransaction:
    """A transaction in block `height`, which `header` begins, and the result code it had there.
    `log` explains the code in the words of one server; the chain does not commit to it."""

    hash: bytes
    raw: bytes
    height: int
    index: int
    code: int
    log: str
    header: Header


def check_state(
    value: bytes, height: int, header: Header, keys: Sequence[bytes], stores: Sequence[str]
) -> Proven:
    """Verify the answer to a `/state` query for `keys` and whole `stores`.

    `header` is that of `height + 1`. Raises `WrongProof` when anything is not what it commits to,
    `RemoteProtocolError` when the answer has another form.
    """
    if len(value) > MAX_STATE_BYTES:
        raise RemoteProtocolError("an RPC server's state exceeds the size limit")
    try:
        # The roots stand behind the records, and what does not fit them is not worth reading.
        roots = _roots(value)
        if map_root(roots) != header.app_hash:
            raise WrongProof(f"the state shown for height {height} is not the chain's")
        if not set(STORES) <= set(roots):
            raise RemoteProtocolError(
                "the ledger keeps its state otherwise than this version reads it"
            )
        answer = _Reader(value)
        answer.fields(3)
        answer.expect("records")
        answer.items(len(keys))
        records = {key: _record(roots, key, answer) for key in keys}
        answer.expect("roots")
        answer.skip()
        answer.expect("stores")
        asked = sorted(set(stores))
        answer.fields(len(asked))
        whole = {}
        for name in asked:
            answer.expect(name)
            whole[name] = _store(roots, name, answer)
        answer.end()
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError("an RPC server's state is malformed") from error
    return Proven(height, header, roots, records, whole)


class _Reader:
    """Canonical MessagePack of a known form, read piece by piece: what it holds beside that is
    never built, whatever it announces."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._unpacker = msgpack.Unpacker(
            None, max_buffer_size=len(data), max_array_len=0, max_map_len=0, max_ext_len=0
        )
        self._unpacker.feed(data)
        self.size = len(data)

    def fields(self, count: int) -> None:
        """Enter a map that has so many."""
        if self._unpacker.read_map_header() != count:
            raise ValueError("a map has other fields")

    def items(self, count: int) -> None:
        """Enter a list of so many."""
        if self._unpacker.read_array_header() != count:
            raise ValueError("a list has another length")

    def length(self, most: int) -> int:
        """Enter a list of up to `most` items; returns how many it has."""
        count = int(self._unpacker.read_array_header())
        if count > most:
            raise ValueError("a list is too long")
        return count

    def map_length(self, most: int) -> int:
        """Enter a map of up to `most` fields; returns how many it has."""
        count = int(self._unpacker.read_map_header())
        if count > most:
            raise ValueError("a map is too long")
        return count

    def expect(self, name: str) -> None:
        """Read the name of a map's next field."""
        if self._unpacker.unpack() != name:
            raise ValueError("a map has another field")

    def name(self) -> str:
        value = self._unpacker.unpack()
        if not isinstance(value, str):
            raise TypeError("not a name")
        return value

    def bytes(self) -> bytes:
        value = self._unpacker.unpack()
        if not isinstance(value, bytes):
            raise TypeError("not bytes")
        return value

    def nil(self) -> bool:
        """Whether nil comes next, which is then read."""
        if self._data[self._unpacker.tell() : self._unpacker.tell() + 1] != NIL:
            return False
        self._unpacker.skip()
        return True

    def skip(self) -> None:
        self._unpacker.skip()

    def end(self) -> None:
        if self._unpacker.tell() != self.size:
            raise ValueError("something follows")


def check_transaction(raw_hash: bytes, shown: Any, header: Header) -> tuple[bytes, int, int]:
    """Verify an answer of `/tx` against the header of its height. Returns the transaction, its
    place in the block and the number of transactions there."""
    try:
        raw = base64.b64decode(shown["tx"], validate=True)
        proof = shown["proof"]["proof"]
        total, index = int(proof["total"]), int(proof["index"])
        aunts = [base64.b64decode(item, validate=True) for item in proof["aunts"] or []]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RemoteProtocolError("an RPC server's transaction is malformed") from error
    if sha256(raw) != raw_hash:
        raise WrongProof("another transaction was shown than the one asked for")
    if not verify_item(header.data_hash, raw_hash, index, total, aunts):
        raise WrongProof(f"block {header.height} does not hold the transaction as shown")
    return raw, index, total


def check_results(shown: Any, index: int, total: int, successor: Header) -> tuple[int, str]:
    """Verify an answer of `/block_results` against the header of the next height. Returns the
    result code of the transaction at `index`, and its log."""
    listed = entry(shown, "txs_results") or []
    if not isinstance(listed, list) or len(listed) != total:
        raise WrongProof(f"the results of block {successor.height - 1} are not all shown")
    try:
        encoded = [_result(item) for item in listed]
        code, log = int(listed[index].get("code", 0)), excerpt(str(listed[index].get("log", "")))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise RemoteProtocolError("an RPC server's results are malformed") from error
    if list_root(encoded) != successor.last_results_hash:
        raise WrongProof(f"the results of block {successor.height - 1} are not the chain's")
    return code, log


def _result(item: Mapping[str, Any]) -> bytes:
    """A result as it is hashed: code, data and gas."""
    return (
        protobuf.integer(1, int(item.get("code", 0)))
        + protobuf.data(2, base64.b64decode(item.get("data") or "", validate=True))
        + protobuf.integer(5, int(item.get("gas_wanted", 0)))
        + protobuf.integer(6, int(item.get("gas_used", 0)))
    )


def _roots(value: bytes) -> dict[str, bytes]:
    """The roots of all stores; a later version of the ledger may have more."""
    answer = _Reader(value)
    answer.fields(3)
    answer.expect("records")
    answer.skip()
    answer.expect("roots")
    roots = {}
    for _ in range(answer.map_length(MAX_STORES)):
        name, root = answer.name(), answer.bytes()
        if len(name.encode()) >= 128 or len(root) != HASH_BYTES or name in roots:
            raise ValueError("not a root")
        roots[name] = root
    return roots


def _record(roots: Mapping[str, bytes], key: bytes, answer: _Reader) -> Any:
    answer.fields(4)
    answer.expect("key")
    if answer.bytes() != key:
        raise ValueError("another record than the one asked for")
    answer.expect("leaf")
    other = None
    if not answer.nil():
        answer.items(2)
        other = (answer.bytes(), answer.bytes())
    answer.expect("siblings")
    path = [answer.bytes() for _ in range(answer.length(MAX_DEPTH))]
    answer.expect("value")
    value = None if answer.nil() else answer.bytes()
    root = roots.get(store_of(key))
    if root is None or not verify_record(root, key, value, path, other):
        raise WrongProof("a record shown is not what the chain's state holds")
    return None if value is None else unpack(value)


def _store(roots: Mapping[str, bytes], name: str, answer: _Reader) -> dict[bytes, Any]:
    pairs = []
    for _ in range(answer.length(FEW_PAIRS + answer.size // LEAST_PAIR_BYTES)):
        answer.items(2)
        pairs.append((answer.bytes(), answer.bytes()))
    if root_of(pairs) != roots.get(name):
        raise WrongProof(f"the store {name} is not shown as the chain's state holds it")
    return {key: unpack(value) for key, value in pairs}


def unpack(value: bytes) -> Any:
    """Decode a record. Its bytes are proven, so their form is the ledger's own."""
    try:
        return msgpack.unpackb(value, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError("a record of the ledger cannot be read") from error

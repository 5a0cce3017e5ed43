"""What the ledger says of its state and of a transaction, compared with believed headers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from planetserve.encoding import decode
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
from planetserve.statekeys import STORES, store_of

MAX_STATE_BYTES = 32 << 20


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
    answer = decode(value, max_bytes=MAX_STATE_BYTES)
    roots = _roots(entry(answer, "roots"))
    if map_root(roots) != header.app_hash:
        raise WrongProof(f"the state shown for height {height} is not the chain's")
    if not set(STORES) <= set(roots):
        raise RemoteProtocolError("the ledger keeps its state otherwise than this version reads it")
    shown = entry(answer, "records")
    if not isinstance(shown, list) or len(shown) != len(keys):
        raise RemoteProtocolError("an RPC server proves other records than those asked for")
    records = {key: _record(roots, key, item) for key, item in zip(keys, shown, strict=True)}
    whole = entry(answer, "stores")
    return Proven(
        height=height,
        header=header,
        roots=roots,
        records=records,
        stores={name: _store(roots, name, entry(whole, name)) for name in stores},
    )


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
        code, log = int(listed[index].get("code", 0)), str(listed[index].get("log", ""))
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


def _roots(shown: Any) -> dict[str, bytes]:
    """The roots of all stores; a later version of the ledger may have more."""
    if not isinstance(shown, dict) or len(shown) > 1_000:
        raise RemoteProtocolError("an RPC server's roots are malformed")
    for name, root in shown.items():
        if len(name.encode()) >= 128 or not isinstance(root, bytes) or len(root) != HASH_BYTES:
            raise RemoteProtocolError("an RPC server's roots are malformed")
    return shown


def _record(roots: Mapping[str, bytes], key: bytes, shown: Any) -> Any:
    try:
        value, siblings, leaf = shown["value"], shown["siblings"], shown["leaf"]
        other = None if leaf is None else (bytes_of(leaf[0]), bytes_of(leaf[1]))
        well_formed = (
            shown["key"] == key
            and (value is None or isinstance(value, bytes))
            and (leaf is None or len(leaf) == 2)
        )
        path = [bytes_of(sibling) for sibling in siblings]
    except (KeyError, IndexError, TypeError) as error:
        raise RemoteProtocolError("an RPC server's proof is malformed") from error
    if not well_formed:
        raise RemoteProtocolError("an RPC server's proof is malformed")
    root = roots.get(store_of(key))
    if root is None or not verify_record(root, key, value, path, other):
        raise WrongProof("a record shown is not what the chain's state holds")
    return None if value is None else unpack(value)


def _store(roots: Mapping[str, bytes], name: str, shown: Any) -> dict[bytes, Any]:
    try:
        pairs = [(bytes_of(key), bytes_of(value)) for key, value in shown]
        root = root_of(pairs)
    except (TypeError, ValueError) as error:
        raise RemoteProtocolError("an RPC server's store is malformed") from error
    if root != roots.get(name):
        raise WrongProof(f"the store {name} is not shown as the chain's state holds it")
    return {key: unpack(value) for key, value in pairs}


def bytes_of(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value


def unpack(value: bytes) -> Any:
    """Decode a record. Its bytes are proven, so their form is the ledger's own."""
    try:
        return msgpack.unpackb(value, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError("a record of the ledger cannot be read") from error

"""A stopped node's ledger: its state into a genesis document and back, and a look into it.

The node must not be running: LevelDB lets one process in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from abci_app.core.apphash import app_hash
from abci_app.core.chain import GenesisError, load_chain
from abci_app.core.chunks import read_chunk
from abci_app.core.export import exported_state, exported_text, imported_state
from abci_app.core.state import MapReader
from abci_app.core.verifiers import all_verifiers
from abci_app.home import (
    CONSENSUS_STATE,
    DATABASE,
    GENESIS,
    SNAPSHOTS,
    genesis_validator,
    read_settings,
    write_private,
)
from abci_app.proto.tendermint.types.canonical_pb2 import CanonicalVote
from abci_app.snapshots import Archive, Available
from abci_app.store import KEPT_ROOTS, Store, open_store
from abci_app.wire import FrameDecoder, FramingError
from planetserve.errors import ConfigurationError, UsageError
from planetserve.merkle import root_of
from planetserve.statekeys import STORES

VOTE_STEPS = (2, 3)
"""CometBFT's `privval/file.go`: 1 is a proposal, 2 a prevote, 3 a precommit."""


@contextmanager
def stopped_store(home: Path) -> Iterator[Store]:
    """The database of a node that is not running. Raises `ConfigurationError`."""
    settings = read_settings(home)
    if not (home / DATABASE).is_dir():
        raise ConfigurationError(f"{home / DATABASE} does not exist: the node has not run yet")
    store = open_store(home / DATABASE, settings.chain_id)
    try:
        yield store
    finally:
        store.close()


def exported_genesis(home: Path, height: int | None = None) -> str:
    """The genesis document that goes on from the state of `height`: the last one, or one that a
    snapshot on disk is of. All nodes make the same of the same height. Raises `UsageError` for a
    height that is not there."""
    with stopped_store(home) as store:
        latest = store.latest
        if latest.height == 0:
            raise ConfigurationError(f"{home} has no state yet: the node has committed no block")
        if height in (None, latest.height):
            return _document(home, latest.height, dict(latest.everything()))
    archive = Archive(home / SNAPSHOTS, read_settings(home).chain_id, kept=0)
    for item in archive.available:
        if item.height == height:
            return _document(home, item.height, _records(archive, item))
    known = ", ".join(
        str(n) for n in sorted({i.height for i in archive.available} | {latest.height})
    )
    raise UsageError(f"{home} holds the state of these heights: {known}")


@dataclass(frozen=True, slots=True)
class LastSigned:
    """What this home's consensus key has signed last: in which block, and whether that may have
    helped to decide it. A vote for no block in a round does not."""

    height: int
    binding: bool


def last_signed(home: Path) -> LastSigned:
    """Raises `ConfigurationError`."""
    try:
        state = json.loads((home / CONSENSUS_STATE).read_text())
        height, step = int(state["height"]), int(state["step"])
        nothing = step == 0 and int(state["round"]) == 0
        vote = step in VOTE_STEPS and _is_nil(bytes.fromhex(state["signbytes"]))
    except (OSError, ValueError, KeyError, TypeError, DecodeError, FramingError) as error:
        raise ConfigurationError(f"{home / CONSENSUS_STATE} is missing or malformed") from error
    return LastSigned(height, not nothing and not vote)


def _is_nil(signed: bytes) -> bool:
    """Whether the signed bytes of a vote, which begin with their length, are for no block."""
    (message,) = FrameDecoder().feed(signed)
    return not CanonicalVote.FromString(message).HasField("block_id")


def check_genesis(text: str) -> str:
    """Look through a genesis document before a home is made of it. Returns the app hash, in hex,
    of an exported state, or an empty text for a new chain's. Raises `ConfigurationError`."""
    try:
        document = json.loads(text)
        chain_id, app_state = document["chain_id"], document["app_state"]
        initial_height = int(document["initial_height"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError("the genesis document is malformed") from error
    if not isinstance(app_state, dict) or "records" not in app_state:
        return ""
    try:
        records = imported_state(chain_id, app_state, initial_height)
    except GenesisError as error:
        raise ConfigurationError(f"the genesis document's app_state: {error}") from error
    return app_hash(roots_of(records)).hex()


def roots_of(records: Mapping[bytes, bytes]) -> dict[str, bytes]:
    """The root of each store's tree."""
    by_store: dict[str, list[tuple[bytes, bytes]]] = {name: [] for name in STORES}
    for key, value in records.items():
        by_store[key.partition(b"/")[0].decode()].append((key, value))
    return {name: root_of(pairs) for name, pairs in by_store.items()}


def _document(home: Path, height: int, records: Mapping[bytes, bytes]) -> str:
    original: dict[str, Any] = json.loads((home / GENESIS).read_text())
    reader = MapReader(records)
    version = str(load_chain(reader).version)
    document = {
        "genesis_time": original["genesis_time"],
        "chain_id": original["chain_id"],
        "initial_height": str(height + 1),
        "consensus_params": {**original["consensus_params"], "version": {"app": version}},
        "validators": [
            genesis_validator(item.name, item.consensus_key, item.power)
            for item in all_verifiers(reader)
        ],
        "app_hash": "",
        "app_state": exported_state(sorted(records.items()), height),
    }
    return exported_text(document)


def _records(archive: Archive, item: Available) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    last = b""
    for index in range(len(item.manifest.chunks)):
        chunk = archive.chunk(item.height, index)
        if chunk is None:
            raise ConfigurationError(f"the snapshot of height {item.height} is damaged")
        for key, value in read_chunk(chunk, last):
            records[key] = value
            last = key
    return records


def import_genesis(home: Path, text: str) -> Path:
    """Let a validator's home, with the keys that it has, go on from another genesis document.
    What the node had of its chain is moved aside and its new place returned; what it has signed
    stays known, so that it signs nothing twice. Raises `ConfigurationError`."""
    check_genesis(text)
    settings = read_settings(home)
    if settings.chain_id != json.loads(text)["chain_id"]:
        raise ConfigurationError(
            f"{home} belongs to the chain {settings.chain_id!r}; `ps-node init` makes a home for "
            "another"
        )
    data, signed = home / CONSENSUS_STATE.parent, (home / CONSENSUS_STATE).read_bytes()
    first, signed_last = int(json.loads(text)["initial_height"]), last_signed(home)
    if signed_last.height > first or (signed_last.height == first and signed_last.binding):
        raise ConfigurationError(
            f"this validator has signed in block {signed_last.height} and signs nothing twice, so "
            f"it cannot go on from block {first}; export a later height"
        )
    if (home / DATABASE).is_dir():
        with stopped_store(home):
            """Nobody else has it open."""
    aside = next(
        place
        for place in (home / f"data.before-import-{number}" for number in count(1))
        if not place.exists()
    )
    aside.mkdir(mode=0o700)
    data.rename(aside / "data")
    (home / GENESIS).rename(aside / GENESIS.name)
    data.mkdir(mode=0o700)
    write_private(home / CONSENSUS_STATE, signed)
    (home / GENESIS).write_text(text)
    return aside


def inspection(home: Path, height: int | None = None) -> dict[str, Any]:
    """What a stopped node has committed; with a recent `height`, the roots of then. Raises
    `UsageError` when they are not kept."""
    with stopped_store(home) as store:
        latest = store.latest
        report: dict[str, Any] = {"chain_id": read_settings(home).chain_id}
        if height is not None and height != latest.height:
            found = store.roots_at(height)
            if found is None:
                raise UsageError(
                    f"the roots of height {height} are not kept; the last height is "
                    f"{latest.height}, and those of {KEPT_ROOTS} heights are kept"
                )
            hash_then, roots = found
            return {
                **report,
                "height": height,
                "app_hash": hash_then.hex(),
                "roots": {name: root.hex() for name, root in sorted(roots.items())},
            }
        archive = Archive(home / SNAPSHOTS, report["chain_id"], kept=0)
        return {
            **report,
            "height": latest.height,
            "app_hash": latest.head.app_hash.hex(),
            "rules_version": load_chain(latest).version if latest.height else None,
            "roots": {name: root.hex() for name, root in sorted(latest.roots.items())},
            "records": {name: sum(1 for _ in latest.scan(name.encode() + b"/")) for name in STORES},
            "snapshots": [item.height for item in archive.available],
        }

"""Whether the records of an exported state are one that a chain can go on from.

A chain that starts from records which some rule cannot read would stop at the first block that
does, on all validators at once. So every record is read as its rules read it, what refers to
something else must find it, and two blocks are tried: the first, and the one that ends the epoch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from abci_app.core.chain import Chain, GenesisError, load_chain
from abci_app.core.changes import check_form
from abci_app.core.codes import Rejected
from abci_app.core.context import window_of
from abci_app.core.credentials import Credential, parse_rest
from abci_app.core.governance import OPEN, Proposal
from abci_app.core.models import Model
from abci_app.core.nodes import node_from
from abci_app.core.quotas import Quota
from abci_app.core.state import Reader, load, records
from abci_app.core.transition import Block, transition
from abci_app.core.upgrades import UpgradeNeeded, scheduled
from abci_app.core.verifiers import all_verifiers, verifier_from
from planetserve.errors import PlanetServeError
from planetserve.keys import NODE_ID_BYTES
from planetserve.records import NodeRecord
from planetserve.scoring.parameters import InvalidParameters, parameters_from
from planetserve.scoring.reputation import reputation_from
from planetserve.statekeys import (
    CANDIDATES_KEY,
    NEXT_PROPOSAL_KEY,
    OPEN_PROPOSALS_KEY,
    PENDING_KEY,
    expiry_key,
    node_key,
    proposal_key,
)

FAULTS = (AttributeError, LookupError, TypeError, ValueError, PlanetServeError, Rejected)
"""What rules raise over a record that they cannot read."""
HEIGHT_BYTES = 8


class SortedReader:
    """A state in memory that is scanned often."""

    def __init__(self, items: Mapping[bytes, bytes]) -> None:
        self._items = items
        self._keys = sorted(items)

    def get(self, key: bytes) -> bytes | None:
        return self._items.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        for place in range(bisect_left(self._keys, prefix), len(self._keys)):
            key = self._keys[place]
            if not key.startswith(prefix):
                return
            yield key, self._items[key]


def check_state(chain_id: str, state: Mapping[bytes, bytes], initial_height: int) -> None:
    """Raises `GenesisError` unless a chain can go on from `state` with block `initial_height`."""
    reader = SortedReader(state)
    chain = _chain(reader, chain_id, initial_height)
    for store, read in READERS.items():
        for rest, record in records(reader, store.encode() + b"/"):
            try:
                read(rest, record)
            except FAULTS:
                raise GenesisError(f"a record of {store} cannot be read: {rest.hex()}") from None
    _check_references(reader)
    for height in (initial_height, max(initial_height, window_of_end(chain))):
        try:
            transition(reader, Block(height, ()))
        except UpgradeNeeded:
            # Of a program that knows more: what it makes of the state is not known here.
            return
        except FAULTS as error:
            raise GenesisError(f"block {height} could not follow the records: {error}") from error


def window_of_end(chain: Chain) -> int:
    """The last block of the running epoch."""
    return window_of(chain.epoch, chain.parameters).end - 1


def _chain(reader: Reader, chain_id: str, initial_height: int) -> Chain:
    try:
        chain = load_chain(reader)
        verifiers = all_verifiers(reader)
        upgrade = scheduled(reader)
        epoch = chain.epoch
        for number in (chain.version, *(power for _, power in epoch.powers)):
            _integer(number, 1)
        for number in (epoch.number, epoch.start, epoch.sample_ppm):
            _integer(number)
        _require(type(epoch.seed) is bytes)
        if upgrade is not None:
            _integer(upgrade.version, 1)
            _integer(upgrade.height, 1)
        pending = load(reader, PENDING_KEY) or {}
        values = chain.parameters.to_wire()
    except FAULTS:
        raise GenesisError("the records hold no chain that could go on") from None
    if chain.chain_id != chain_id:
        raise GenesisError(f"the records are of the chain {chain.chain_id!r}, not {chain_id!r}")
    if not verifiers:
        raise GenesisError("the records hold no verifier")
    if not isinstance(pending, dict):
        raise GenesisError("pending parameters are a map")
    try:
        parameters_from(values)
        parameters_from({**values, **pending})
    except InvalidParameters as error:
        raise GenesisError(str(error)) from None
    if not chain.epoch.start <= initial_height <= window_of_end(chain):
        raise GenesisError(
            f"block {initial_height} does not lie in the epoch that runs, "
            f"{chain.epoch.start} to {window_of_end(chain)}"
        )
    return chain


def _check_references(reader: Reader) -> None:
    credentials: Counter[bytes] = Counter()
    for rest, record in records(reader, b"credentials/"):
        node, kept = rest[:NODE_ID_BYTES], rest[NODE_ID_BYTES:]
        credentials[parse_rest(kept)[1]] += 1
        if reader.get(expiry_key(record["expires"] + 1, node, kept)) is None:
            raise GenesisError(f"nothing ends the credential {rest.hex()}")
    if dict(credentials) != dict(records(reader, b"endorsers/")):
        raise GenesisError("the numbers of credentials by endorser are wrong")
    waiting = sum(1 for _, record in records(reader, b"nodes/") if record["waiting"])
    if waiting != (load(reader, CANDIDATES_KEY) or 0):
        raise GenesisError("the number of waiting nodes is wrong")
    for rest, node in records(reader, b"keys/"):
        if rest[:1] in b"ot" and reader.get(node_key(node)) is None:
            raise GenesisError(f"no node holds the key {rest[1:].hex()}")
    numbers = {number: proposer for number, proposer in load(reader, OPEN_PROPOSALS_KEY) or []}
    for number, proposer in numbers.items():
        proposal = load(reader, proposal_key(number))
        if proposal is None or proposal["outcome"] != OPEN or proposal["proposer"] != proposer:
            raise GenesisError(f"proposal {number} takes votes and is not there")
    following = load(reader, NEXT_PROPOSAL_KEY) or 1
    for rest, proposal in records(reader, b"proposals/"):
        number = int.from_bytes(rest, "big")
        if number >= following or (proposal["outcome"] == OPEN) != (number in numbers):
            raise GenesisError(f"proposal {number} is out of place")


def _require(condition: object) -> None:
    if not condition:
        raise ValueError("a record is not of its form")


def _integer(value: Any, low: int = 0) -> None:
    _require(type(value) is int and value >= low)


def _account(rest: bytes, record: Any) -> None:
    _require(len(rest) == NODE_ID_BYTES and set(record) == {"nonce"})
    _integer(record["nonce"])


def _verifier(rest: bytes, record: Any) -> None:
    verifier = verifier_from(record)
    _require(verifier.id == rest and len(verifier.consensus_key) == 32)
    _integer(verifier.power, 1)
    _integer(verifier.voted_power, 1)
    _integer(verifier.trust_ppm)


def _node(rest: bytes, record: Any) -> None:
    node = node_from(record)
    _require(node.id == rest and all(len(key) == 32 for _, key in node.held_keys))
    _integer(node.registered)
    _integer(node.waiting)
    _integer(node.retired)


def _public(rest: bytes, record: Any) -> None:
    _require(NodeRecord.from_wire(record).id == rest)


def _credential(rest: bytes, record: Any) -> None:
    role, endorser = parse_rest(rest[NODE_ID_BYTES:])
    credential = Credential(**record)
    _require(role and len(endorser) == NODE_ID_BYTES)
    for height in (credential.issued, credential.expires, credential.revoked):
        _integer(height)


def _expiry(rest: bytes, record: Any) -> None:
    _require(record is None and len(rest) >= HEIGHT_BYTES + NODE_ID_BYTES)
    credential = rest[HEIGHT_BYTES + NODE_ID_BYTES :]
    if credential:
        role, endorser = parse_rest(credential)
        _require(role and len(endorser) == NODE_ID_BYTES)


def _commit(rest: bytes, record: Any) -> None:
    _require(len(rest) == 2 * NODE_ID_BYTES and set(record) == {"commitment", "height"})


def _reveal(rest: bytes, record: Any) -> None:
    _require(len(rest) == 2 * NODE_ID_BYTES)
    score_ppm, samples, digest = record
    _integer(score_ppm)
    _integer(samples)
    _require(type(digest) is bytes)


def _reputation(rest: bytes, record: Any) -> None:
    reputation = reputation_from(record)
    _require(len(rest) == NODE_ID_BYTES and type(reputation.trusted) is bool)
    _integer(reputation.ppm)
    _integer(reputation.cusum_ppm)


def _proposal(rest: bytes, record: Any) -> None:
    proposal = Proposal(**record)
    _require(int.from_bytes(rest, "big") == proposal.number and isinstance(proposal.votes, dict))
    _integer(proposal.closes)
    check_form(proposal.change)


def _model(rest: bytes, record: Any) -> None:
    _require(Model(**record).name.encode() == rest)


def _quota(rest: bytes, record: Any) -> None:
    quota = Quota(**record)
    for used in (quota.commits, quota.reveals, quota.endorsements):
        _integer(used)


def _held(rest: bytes, record: Any) -> None:
    _require(type(record) is bytes and len(record) == NODE_ID_BYTES)


def _number(rest: bytes, record: Any) -> None:
    _integer(record, 1)


READERS: Mapping[str, Callable[[bytes, Any], None]] = {
    "accounts": _account,
    "verifiers": _verifier,
    "nodes": _node,
    "routes": _public,
    "waiting": _public,
    "credentials": _credential,
    "endorsers": _number,
    "expiries": _expiry,
    "commits": _commit,
    "reveals": _reveal,
    "reputation": _reputation,
    "proposals": _proposal,
    "models": _model,
    "quotas": _quota,
    "keys": _held,
}
"""How rules read the records of each store; the others are read by people alone, or whole."""

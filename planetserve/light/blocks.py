"""What a light client knows of a block, and the hashes and signed bytes of CometBFT 0.38.

Written from CometBFT's types/block.go, types/canonical.go and types/validator_set.go. Times are
integers of nanoseconds since 1970.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from planetserve.light import protobuf
from planetserve.merkle import list_root

PRECOMMIT = 2
ABSENT, COMMIT, NIL = 1, 2, 3
"""What a vote of a commit is for: nothing, its block, or no block (CometBFT's BlockIDFlag)."""
ADDRESS_BYTES = 20
MAX_POWER = ((1 << 63) - 1) // 8


@dataclass(frozen=True, slots=True)
class BlockId:
    """A block by the hash of its header and the Merkle root of the parts it is gossiped in."""

    hash: bytes
    parts_total: int
    parts_hash: bytes

    def encoded(self) -> bytes:
        """As in the header of the next block and, when not empty, in votes."""
        parts = protobuf.integer(1, self.parts_total) + protobuf.data(2, self.parts_hash)
        return protobuf.data(1, self.hash) + protobuf.message(2, parts)


@dataclass(frozen=True, slots=True)
class Header:
    """A block's header. `app_hash` and `last_results_hash` are of the block before it."""

    block_version: int
    app_version: int
    chain_id: str
    height: int
    time_ns: int
    last_block_id: BlockId
    last_commit_hash: bytes
    data_hash: bytes
    validators_hash: bytes
    next_validators_hash: bytes
    consensus_hash: bytes
    app_hash: bytes
    last_results_hash: bytes
    evidence_hash: bytes
    proposer_address: bytes

    def hash(self) -> bytes:
        """The Merkle root over the fields, in their order, each as its own message."""
        version = protobuf.integer(1, self.block_version) + protobuf.integer(2, self.app_version)
        hashes = (
            self.last_commit_hash,
            self.data_hash,
            self.validators_hash,
            self.next_validators_hash,
            self.consensus_hash,
            self.app_hash,
            self.last_results_hash,
            self.evidence_hash,
            self.proposer_address,
        )
        return list_root(
            [
                version,
                protobuf.data(1, self.chain_id.encode()),
                protobuf.integer(1, self.height),
                protobuf.timestamp(self.time_ns),
                self.last_block_id.encoded(),
                *(protobuf.data(1, item) for item in hashes),
            ]
        )


@dataclass(frozen=True, slots=True)
class Vote:
    """A validator's entry in a commit; `flag` is `ABSENT`, `COMMIT` or `NIL`."""

    flag: int
    address: bytes
    time_ns: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """The precommits of one round, in the order of the validators."""

    height: int
    round: int
    block_id: BlockId
    votes: tuple[Vote, ...]

    def signed_bytes(self, chain_id: str, index: int) -> bytes:
        """What the validator at `index`, whose vote is for the block, has signed."""
        return protobuf.delimited(
            protobuf.integer(1, PRECOMMIT)
            + protobuf.fixed64(2, self.height)
            + protobuf.fixed64(3, self.round)
            + protobuf.message(4, self.block_id.encoded())
            + protobuf.message(5, protobuf.timestamp(self.votes[index].time_ns))
            + protobuf.data(6, chain_id.encode())
        )


@dataclass(frozen=True, slots=True)
class Validator:
    """An Ed25519 key of 32 bytes, with its share of the votes."""

    key: bytes
    power: int

    @property
    def address(self) -> bytes:
        return hashlib.sha256(self.key).digest()[:ADDRESS_BYTES]


@dataclass(frozen=True, slots=True)
class ValidatorSet:
    """Who decides on a block, in CometBFT's order: falling power, then rising address."""

    validators: tuple[Validator, ...]

    @property
    def total_power(self) -> int:
        return sum(validator.power for validator in self.validators)

    def hash(self) -> bytes:
        return list_root(
            [
                protobuf.message(1, protobuf.data(1, validator.key))
                + protobuf.integer(2, validator.power)
                for validator in self.validators
            ]
        )


def validator_set(validators: Iterable[Validator]) -> ValidatorSet:
    """Validators in any order as a set."""
    return ValidatorSet(tuple(sorted(validators, key=lambda item: (-item.power, item.address))))


@dataclass(frozen=True, slots=True)
class LightBlock:
    """A header, its hash, the commit that decided it and the validators that could; made by
    `light_block`."""

    header: Header
    hash: bytes
    commit: Commit
    validators: ValidatorSet

    @property
    def height(self) -> int:
        return self.header.height


def light_block(header: Header, commit: Commit, validators: ValidatorSet) -> LightBlock:
    return LightBlock(header, header.hash(), commit, validators)

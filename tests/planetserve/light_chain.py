"""Chains of light blocks: one recorded from CometBFT, and made ones with keys that can sign."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from planetserve.light.blocks import (
    ABSENT,
    COMMIT,
    BlockId,
    Commit,
    Header,
    LightBlock,
    Validator,
    ValidatorSet,
    Vote,
    light_block,
    validator_set,
)
from planetserve.light.protobuf import NANOSECONDS

CHAIN_ID = "made-1"
START_S = 1_700_000_000
BLOCK_S = 1
NOBODY = Vote(ABSENT, b"", 0, b"")
Signers = dict[bytes, int]
"""Powers by seed."""


@lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    """Twenty blocks of four to five validators running CometBFT 0.38.25's kvstore: one joins, one
    leaves, one changes its power, one is dead from some height on. Beside them a transaction with
    its proof and the results of its block."""
    path = Path(__file__).parent / "vectors" / "cometbft_chain.json"
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def seed(number: int) -> bytes:
    return hashlib.sha256(b"validator %d" % number).digest()


def signers(numbers: Sequence[int], power: int = 10) -> Signers:
    return {seed(number): power for number in numbers}


@lru_cache(maxsize=1_000)
def key_of(secret: bytes) -> SigningKey:
    return SigningKey(secret)


def set_of(powers: Signers) -> ValidatorSet:
    return validator_set(
        Validator(bytes(key_of(secret).verify_key), power) for secret, power in powers.items()
    )


def sign(
    header: Header, powers: Signers, absent: Sequence[bytes] = (), round_number: int = 0
) -> LightBlock:
    """The header with the commit of all of `powers` but the `absent`."""
    validators = set_of(powers)
    secrets = {bytes(key_of(secret).verify_key): secret for secret in powers}
    block_id = BlockId(header.hash(), 1, hashlib.sha256(header.hash()).digest())
    votes = tuple(
        NOBODY
        if secrets[item.key] in absent
        else Vote(COMMIT, item.address, header.time_ns + place, b"")
        for place, item in enumerate(validators.validators)
    )
    commit = Commit(header.height, round_number, block_id, votes)
    signed = tuple(
        vote
        if vote.flag == ABSENT
        else replace(
            vote,
            signature=key_of(secrets[validators.validators[place].key])
            .sign(commit.signed_bytes(header.chain_id, place))
            .signature,
        )
        for place, vote in enumerate(votes)
    )
    return light_block(header, replace(commit, votes=signed), validators)


def header_at(
    height: int,
    powers: Signers,
    next_powers: Signers,
    last: BlockId | None = None,
    app_hash: bytes = bytes(32),
) -> Header:
    return Header(
        block_version=11,
        app_version=1,
        chain_id=CHAIN_ID,
        height=height,
        time_ns=(START_S + height * BLOCK_S) * NANOSECONDS,
        last_block_id=last or BlockId(b"", 0, b""),
        last_commit_hash=hashlib.sha256(b"commit").digest(),
        data_hash=hashlib.sha256(b"").digest(),
        validators_hash=set_of(powers).hash(),
        next_validators_hash=set_of(next_powers).hash(),
        consensus_hash=hashlib.sha256(b"params").digest(),
        app_hash=app_hash,
        last_results_hash=hashlib.sha256(b"").digest(),
        evidence_hash=hashlib.sha256(b"").digest(),
        proposer_address=set_of(powers).validators[0].address,
    )


def make_chain(length: int, powers_at: Callable[[int], Signers]) -> list[LightBlock]:
    """Blocks 1 to `length`; `powers_at` says who the validators of a height are."""
    blocks: list[LightBlock] = []
    last: BlockId | None = None
    for height in range(1, length + 1):
        header = header_at(height, powers_at(height), powers_at(height + 1), last)
        blocks.append(sign(header, powers_at(height)))
        last = blocks[-1].commit.block_id
    return blocks


def now_ns(block: LightBlock) -> int:
    """A moment just after a block."""
    return block.header.time_ns + NANOSECONDS

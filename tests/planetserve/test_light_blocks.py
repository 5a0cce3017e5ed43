"""Hashes, signed bytes and forms of blocks, against what CometBFT itself answered."""

from __future__ import annotations

import copy
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from planetserve.errors import RemoteProtocolError
from planetserve.light import protobuf
from planetserve.light.blocks import ABSENT, COMMIT, LightBlock, Validator, validator_set
from planetserve.light.reading import (
    light_block_json,
    read_header,
    read_light_block,
    read_validators,
)
from tests.planetserve.light_chain import recorded


def blocks() -> list[LightBlock]:
    return [read_light_block(item) for item in recorded()["blocks"]]


def test_a_headers_hash_is_what_the_next_header_says() -> None:
    chain = blocks()
    for block, successor in pairwise(chain):
        assert block.hash == successor.header.last_block_id.hash
        assert block.hash == block.commit.block_id.hash


def test_a_validator_sets_hash_is_what_the_header_says() -> None:
    for block in blocks():
        assert block.validators.hash() == block.header.validators_hash
        assert validator_set(reversed(block.validators.validators)) == block.validators
    sizes = {len(block.validators.validators) for block in blocks()}
    assert sizes == {4, 5}


def test_every_recorded_vote_is_signed_over_the_bytes_computed() -> None:
    votes = absences = rounds = 0
    for block in blocks():
        rounds = max(rounds, block.commit.round)
        pairs = zip(block.commit.votes, block.validators.validators, strict=True)
        for index, (vote, validator) in enumerate(pairs):
            if vote.flag == ABSENT:
                absences += 1
                continue
            assert vote.flag == COMMIT
            assert vote.address == validator.address
            message = block.commit.signed_bytes("vectors-1", index)
            VerifyKey(validator.key).verify(message, vote.signature)
            votes += 1
    assert votes > 60
    assert absences > 5
    assert rounds > 0


def test_the_genesis_validators_are_those_of_the_first_header() -> None:
    genesis = recorded()["genesis_validators"]
    validators = [
        Validator(*_key_and_power(item)) for item in sorted(genesis, key=lambda item: item["name"])
    ]
    assert validator_set(validators).hash() == blocks()[0].header.validators_hash


def _key_and_power(item: dict[str, Any]) -> tuple[bytes, int]:
    (read,) = read_validators([{**item, "voting_power": item["power"]}])
    return read.key, read.power


def test_a_light_block_reads_as_it_was_written() -> None:
    for block in blocks():
        assert read_light_block(light_block_json(block)) == block


MALFORMED: list[tuple[list[str | int], Any]] = [
    ([], None),
    ([], []),
    (["validators"], {}),
    (["validators", 0, "voting_power"], "0"),
    (["validators", 0, "voting_power"], "-5"),
    (["validators", 0, "voting_power"], "9223372036854775807"),
    (["validators", 0, "voting_power"], 10),
    (["validators", 0, "pub_key", "type"], "tendermint/PubKeySecp256k1"),
    (["validators", 0, "pub_key", "value"], "AAAA"),
    (["validators", 0, "pub_key", "value"], "*" * 44),
    (["signed_header", "header", "height"], "0"),
    (["signed_header", "header", "height"], "1" * 30),
    (["signed_header", "header", "height"], 5),
    (["signed_header", "header", "version", "block"], "12"),
    (["signed_header", "header", "chain_id"], "x" * 51),
    (["signed_header", "header", "chain_id"], 7),
    (["signed_header", "header", "time"], "yesterday"),
    (["signed_header", "header", "time"], "2026-13-01T00:00:00Z"),
    (["signed_header", "header", "time"], 5),
    (["signed_header", "header", "app_hash"], "AB" * 33),
    (["signed_header", "header", "data_hash"], "AB"),
    (["signed_header", "header", "app_hash"], "zz" * 32),
    (["signed_header", "header", "validators_hash"], ""),
    (["signed_header", "header", "proposer_address"], ""),
    (["signed_header", "header", "last_block_id", "parts", "total"], "1"),
    (["signed_header", "header", "last_block_id", "parts", "total"], -1),
    (["signed_header", "commit", "round"], -1),
    (["signed_header", "commit", "round"], True),
    (["signed_header", "commit", "block_id", "hash"], ""),
    (["signed_header", "commit", "signatures"], []),
    (["signed_header", "commit", "signatures"], [{}] * 10_001),
    (["signed_header", "commit", "signatures", 0, "block_id_flag"], 4),
    (["signed_header", "commit", "signatures", 0, "block_id_flag"], "2"),
    (["signed_header", "commit", "signatures", 0, "signature"], None),
    (["signed_header", "commit", "signatures", 0, "signature"], ""),
    (["signed_header", "commit", "signatures", 0, "signature"], "AAAA" * 30),
    (["signed_header", "commit", "signatures", 0, "timestamp"], None),
    (["signed_header", "commit", "signatures", 0, "validator_address"], "00"),
]


@pytest.mark.parametrize(("place", "value"), MALFORMED)
def test_another_form_is_a_protocol_error(place: list[str | int], value: Any) -> None:
    document: Any = {"block": copy.deepcopy(recorded()["blocks"][0])}
    steps: list[str | int] = ["block", *place]
    holder = document
    for step in steps[:-1]:
        holder = holder[step]
    holder[steps[-1]] = value
    with pytest.raises(RemoteProtocolError):
        read_light_block(document["block"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
FIELDS = sorted(recorded()["blocks"][0]["signed_header"]["header"])


@given(st.sampled_from(FIELDS), JSON)
def test_no_json_makes_the_reader_fail_otherwise(field: str, value: Any) -> None:
    header = {**recorded()["blocks"][0]["signed_header"]["header"], field: value}
    with suppress(RemoteProtocolError):
        read_header(header)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (protobuf.varint(0), "00"),
        (protobuf.varint(300), "ac02"),
        (protobuf.varint(-1), "ffffffffffffffffff01"),
        (protobuf.integer(1, 0), ""),
        (protobuf.integer(2, 11), "100b"),
        (protobuf.fixed64(2, 1), "110100000000000000"),
        (protobuf.fixed64(3, 0), ""),
        (protobuf.data(1, b""), ""),
        (protobuf.data(1, b"ab"), "0a026162"),
        (protobuf.message(2, b""), "1200"),
        (protobuf.timestamp(1_000_000_005), "08011005"),
        (protobuf.delimited(b"abc"), "03616263"),
    ],
)
def test_protobuf_as_its_specification_has_it(encoded: bytes, expected: str) -> None:
    assert encoded.hex() == expected

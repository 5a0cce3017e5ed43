"""Headers, commits and validators as CometBFT's RPC writes them in JSON, read strictly.

Everything here raises `RemoteProtocolError` for an answer of another form.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from planetserve.errors import RemoteProtocolError
from planetserve.light.blocks import (
    ABSENT,
    ADDRESS_BYTES,
    COMMIT,
    MAX_POWER,
    NIL,
    BlockId,
    Commit,
    Header,
    LightBlock,
    Validator,
    ValidatorSet,
    Vote,
    light_block,
)
from planetserve.light.protobuf import NANOSECONDS
from planetserve.merkle import HASH_BYTES

BLOCK_PROTOCOL = 11
MAX_HEIGHT = (1 << 63) - 1
MAX_VALIDATORS = 10_000
MAX_CHAIN_ID_CHARACTERS = 50
MAX_SIGNATURE_BYTES = 64
KEY_TYPE = "tendermint/PubKeyEd25519"
TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?Z")
NUMBER = re.compile(r"[0-9]{1,19}")
HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Read = TypeVar("Read")


def read_header(value: Any) -> Header:
    return _strictly("header", lambda: _header(value))


def read_signed_header(value: Any) -> tuple[Header, Commit]:
    """The `signed_header` of a `/commit` answer."""
    return _strictly("signed header", lambda: (_header(value["header"]), _commit(value["commit"])))


def read_validators(value: Any) -> tuple[Validator, ...]:
    """The `validators` of a `/validators` answer: one page of them, in the set's order."""

    def read() -> tuple[Validator, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALIDATORS:
            raise ValueError("not a list of validators")
        return tuple(_validator(item) for item in value)

    return _strictly("list of validators", read)


def read_light_block(value: Any) -> LightBlock:
    """What `light_block_json` wrote."""

    def read() -> LightBlock:
        header, commit = read_signed_header(value["signed_header"])
        return light_block(header, commit, ValidatorSet(read_validators(value["validators"])))

    return _strictly("light block", read)


def light_block_json(block: LightBlock) -> dict[str, Any]:
    """A light block in the form of the RPC's answers."""
    header, commit = block.header, block.commit
    hashes = {name: getattr(header, name).hex().upper() for name in HASHES}
    return {
        "signed_header": {
            "header": {
                "version": {"block": str(header.block_version), "app": str(header.app_version)},
                "chain_id": header.chain_id,
                "height": str(header.height),
                "time": _time_text(header.time_ns),
                "last_block_id": _block_id_json(header.last_block_id),
                **hashes,
            },
            "commit": {
                "height": str(commit.height),
                "round": commit.round,
                "block_id": _block_id_json(commit.block_id),
                "signatures": [
                    {
                        "block_id_flag": vote.flag,
                        "validator_address": vote.address.hex().upper(),
                        "timestamp": _time_text(vote.time_ns),
                        "signature": base64.b64encode(vote.signature).decode() or None,
                    }
                    for vote in commit.votes
                ],
            },
        },
        "validators": [
            {
                "address": item.address.hex().upper(),
                "pub_key": {"type": KEY_TYPE, "value": base64.b64encode(item.key).decode()},
                "voting_power": str(item.power),
            }
            for item in block.validators.validators
        ],
    }


HASHES = (
    "last_commit_hash",
    "data_hash",
    "validators_hash",
    "next_validators_hash",
    "consensus_hash",
    "app_hash",
    "last_results_hash",
    "evidence_hash",
    "proposer_address",
)


def _strictly(what: str, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except RemoteProtocolError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RemoteProtocolError(f"an RPC server's {what} is malformed") from error


def _header(value: Mapping[str, Any]) -> Header:
    others = ("app_hash", "proposer_address")
    hashes = {name: _hash(value[name]) for name in HASHES if name not in others}
    if not hashes["validators_hash"] or not hashes["next_validators_hash"]:
        raise ValueError("a header names its validators")
    chain_id = value["chain_id"]
    if not isinstance(chain_id, str) or not 1 <= len(chain_id) <= MAX_CHAIN_ID_CHARACTERS:
        raise ValueError("not a chain id")
    block_version = _number(value["version"]["block"])
    if block_version != BLOCK_PROTOCOL:
        raise ValueError("not CometBFT's block protocol")
    height = _number(value["height"])
    if height == 0:
        raise ValueError("heights start at 1")
    return Header(
        block_version=block_version,
        app_version=_number(value["version"].get("app", "0")),
        chain_id=chain_id,
        height=height,
        time_ns=_time_ns(value["time"]),
        last_block_id=_block_id(value["last_block_id"]),
        # Its length is the application's choice.
        app_hash=_bytes(value["app_hash"], min(len(value["app_hash"]) // 2, HASH_BYTES)),
        proposer_address=_bytes(value["proposer_address"], ADDRESS_BYTES),
        **hashes,
    )


def _commit(value: Mapping[str, Any]) -> Commit:
    signatures = value["signatures"]
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_VALIDATORS:
        raise ValueError("not a list of signatures")
    round_number = value["round"]
    if type(round_number) is not int or not 0 <= round_number < 1 << 31:
        raise ValueError("not a round")
    block_id = _block_id(value["block_id"])
    if len(block_id.hash) != HASH_BYTES:
        raise ValueError("a commit is for a block")
    return Commit(
        height=_number(value["height"]),
        round=round_number,
        block_id=block_id,
        votes=tuple(_vote(item) for item in signatures),
    )


def _vote(value: Mapping[str, Any]) -> Vote:
    flag = value["block_id_flag"]
    if type(flag) is not int or flag not in (ABSENT, COMMIT, NIL):
        raise ValueError("not a vote's flag")
    if flag == ABSENT:
        return Vote(ABSENT, b"", 0, b"")
    signature = base64.b64decode(value["signature"], validate=True)
    if not 1 <= len(signature) <= MAX_SIGNATURE_BYTES:
        raise ValueError("not a signature")
    address = _bytes(value["validator_address"], ADDRESS_BYTES)
    return Vote(flag, address, _time_ns(value["timestamp"]), signature)


def _validator(value: Mapping[str, Any]) -> Validator:
    key = base64.b64decode(value["pub_key"]["value"], validate=True)
    power = _number(value["voting_power"])
    if value["pub_key"]["type"] != KEY_TYPE or len(key) != 32 or not 0 < power <= MAX_POWER:
        raise ValueError("not a validator with an Ed25519 key")
    return Validator(key, power)


def _block_id(value: Mapping[str, Any]) -> BlockId:
    parts = value["parts"]
    total = parts["total"]
    if type(total) is not int or not 0 <= total < 1 << 32:
        raise ValueError("not a number of parts")
    return BlockId(_hash(value["hash"]), total, _hash(parts["hash"]))


def _block_id_json(block_id: BlockId) -> dict[str, Any]:
    parts = {"total": block_id.parts_total, "hash": block_id.parts_hash.hex().upper()}
    return {"hash": block_id.hash.hex().upper(), "parts": parts}


def _number(value: Any) -> int:
    """A 64-bit integer, which Go writes as text."""
    if not isinstance(value, str) or NUMBER.fullmatch(value) is None or int(value) > MAX_HEIGHT:
        raise ValueError("not a number")
    return int(value)


def _hash(value: Any) -> bytes:
    """A hash, or nothing where there is nothing to hash."""
    return _bytes(value, 0 if value == "" else HASH_BYTES)


def _bytes(value: Any, length: int) -> bytes:
    if not isinstance(value, str) or HEX.fullmatch(value) is None or len(value) != 2 * length:
        raise ValueError(f"not {length} bytes in hex")
    return bytes.fromhex(value)


def _time_ns(value: Any) -> int:
    match = TIME.fullmatch(value)
    if match is None:
        raise ValueError("not a time")
    since = datetime.fromisoformat(match[1]).replace(tzinfo=UTC) - EPOCH
    seconds = since.days * 86_400 + since.seconds
    return seconds * NANOSECONDS + int((match[2] or "0").ljust(9, "0"))


def _time_text(time_ns: int) -> str:
    seconds, nanoseconds = divmod(time_ns, NANOSECONDS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    return f"{moment.isoformat()}.{nanoseconds:09}Z"

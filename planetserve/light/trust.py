"""What a light client believes to begin with, and the file that remembers what it verified.

The file holds one verified block in the form of the RPC's answers. It is believed no more than
the network file: only for the network it was written for, and only when its block is signed by
the validators it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from planetserve.encoding import encode
from planetserve.errors import ConfigurationError, ForgedHeader, OldHeader, PlanetServeError
from planetserve.light.blocks import LightBlock, validator_set
from planetserve.light.reading import light_block_json, read_light_block, read_validators
from planetserve.light.verifier import Rules, check_signed
from planetserve.logs import get_logger
from planetserve.network import Network

FORMAT = "planetserve/trusted/v1"
TRUST_FOLDER = "trusted"
MAX_FILE_BYTES = 8 << 20

log = get_logger()


@dataclass(frozen=True, slots=True)
class Anchor:
    """The block at `height` is believed if it has this `hash` or, when that is empty, if its
    validators have this `validators_hash`."""

    height: int
    hash: bytes
    validators_hash: bytes


def anchor_of(network: Network) -> Anchor:
    """Raises `ConfigurationError` when the network file names nothing to believe."""
    if not network.trusted_hash and not network.genesis_validators_hash:
        raise ConfigurationError(
            "the network file names nothing to trust: it needs genesis_validators_hash, or "
            "trusted_height and trusted_hash; ask those who run the network"
        )
    return Anchor(
        network.trusted_height,
        bytes.fromhex(network.trusted_hash),
        bytes.fromhex(network.genesis_validators_hash),
    )


def check_anchor(anchor: Anchor, block: LightBlock, rules: Rules, now_ns: int) -> None:
    """Raises `ForgedHeader` unless `block` is the one to begin with, `OldHeader` when that is too
    old to begin with."""
    if block.height != anchor.height:
        raise ForgedHeader(f"header {block.height} was shown in place of {anchor.height}")
    named = (
        block.hash == anchor.hash
        if anchor.hash
        else (block.header.validators_hash == anchor.validators_hash)
    )
    if not named:
        raise ForgedHeader(
            f"header {anchor.height} is not the one that the network file trusts; was the network "
            "made anew since the file was written?"
        )
    check_signed(block, rules)
    if rules.expired(block.header, now_ns):
        raise OldHeader(
            f"the network file trusts header {anchor.height}, which is older than "
            f"{rules.period_s} s; put a newer trusted_height and trusted_hash there, from a "
            "source you trust"
        )


def genesis_validators_hash(genesis: str) -> str:
    """What a network file says of a genesis document's validators, in hex. Raises
    `RemoteProtocolError` for a document without any."""
    listed = json.loads(genesis)["validators"]
    powers = [{**item, "voting_power": item["power"]} for item in listed]
    return validator_set(read_validators(powers)).hash().hex()


def fingerprint(network: Network) -> str:
    """What tells a network's file of trust from that of another, or of the same one with other
    roots of trust."""
    roots = {
        "chain_id": network.chain_id,
        "genesis_hash": network.genesis_hash,
        "genesis_validators_hash": network.genesis_validators_hash,
        "trusted_hash": network.trusted_hash,
        "trusted_height": network.trusted_height,
    }
    return hashlib.sha256(encode(roots)).hexdigest()


def trust_file(network_file: Path, network: Network) -> Path:
    """Where commands keep what they verified: beside the network file."""
    return network_file.parent / TRUST_FOLDER / f"{fingerprint(network)[:32]}.json"


def load_trusted(path: Path, network: Network, rules: Rules, now_ns: int) -> LightBlock | None:
    """The block that was kept, or None when there is none to believe any more."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("too large")
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT or content["network"] != fingerprint(network):
            raise ValueError("of another network")
        block = read_light_block(content["block"])
        check_signed(block, rules)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, PlanetServeError) as error:
        log.warning("trusted_state_ignored", path=str(path), reason=str(error))
        return None
    return None if rules.expired(block.header, now_ns) else block


def save_trusted(path: Path, network: Network, block: LightBlock) -> None:
    """Replace the file in one step, readable by its owner only. Where it cannot be written, the
    next start verifies from the network file again."""
    content = {
        "format": FORMAT,
        "network": fingerprint(network),
        "block": light_block_json(block),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        os.replace(temporary, path)
    except OSError as error:
        log.warning("trusted_state_not_kept", path=str(path), reason=error.strerror)

"""What a light client believes to begin with, and the file that remembers what it verified.

The file holds one confirmed block in the form of the RPC's answers. It is believed no more than
the network file: only for the network it was written for, and only when its block is signed by
the validators it names.
"""

from __future__ import annotations

import fcntl
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

FORMAT = "planetserve/trusted/v2"
TRUST_FOLDER = "trusted"
MAX_FILE_BYTES = 8 << 20

PROBLEMS = (OSError, ValueError, KeyError, TypeError, RecursionError, PlanetServeError)
"""What reading a file may raise that another version or another hand has written."""

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


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a file holds: the newest block that was confirmed, and the height of the newest state
    that was read."""

    block: LightBlock
    read_height: int


def load_trusted(path: Path, network: Network, rules: Rules, now_ns: int) -> Remembered | None:
    """What was kept, or None when there is nothing to believe any more."""
    try:
        found = _read(path, network)
        if found is not None:
            check_signed(found.block, rules)
    except PROBLEMS as error:
        log.warning("trusted_state_ignored", path=str(path), reason=str(error))
        return None
    return None if found is None or rules.expired(found.block.header, now_ns) else found


def save_trusted(path: Path, network: Network, block: LightBlock, read_height: int = 0) -> None:
    """Replace the file in one step, readable by its owner only, unless it holds as much already:
    several commands may run side by side. Where it cannot be written, the next start verifies
    from the network file again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(path.with_name(path.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            known = _known(path, network)
            if known is None or known.block.height < block.height:
                _replace(path, network, block, max(read_height, known.read_height if known else 0))
            elif known.read_height < read_height:
                _replace(path, network, known.block, read_height)
    except BlockingIOError:  # another command keeps what it has verified just now
        return
    except OSError as error:
        log.warning("trusted_state_not_kept", path=str(path), reason=error.strerror)


def _read(path: Path, network: Network) -> Remembered | None:
    """Raises one of `PROBLEMS`."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("too large")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if content["format"] != FORMAT or content["network"] != fingerprint(network):
        raise ValueError("of another network")
    block, read_height = read_light_block(content["block"]), content["read_height"]
    if type(read_height) is not int or not 0 <= read_height <= block.height:
        raise ValueError("not the height of a state that was read")
    return Remembered(block, read_height)


def _known(path: Path, network: Network) -> Remembered | None:
    try:
        return _read(path, network)
    except PROBLEMS:
        return None


def _replace(path: Path, network: Network, block: LightBlock, read_height: int) -> None:
    content = {
        "format": FORMAT,
        "network": fingerprint(network),
        "block": light_block_json(block),
        "read_height": read_height,
    }
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise

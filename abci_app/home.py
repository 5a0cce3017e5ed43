"""A validator's home: the folder of settings and keys that CometBFT and `ps-node` share.

config/config.toml  config/genesis.json  config/node_key.json  config/priv_validator_key.json
data/priv_validator_state.json  data/ledger/  data/snapshots/
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from abci_app.config_file import (
    DEFAULT_SCHEDULE,
    Schedule,
    StateSyncFrom,
    config_text,
    read_schedule,
)
from abci_app.core.chain import GenesisError
from abci_app.core.genesis import genesis
from planetserve.errors import ConfigurationError

CONFIG, GENESIS = Path("config/config.toml"), Path("config/genesis.json")
NODE_KEY, CONSENSUS_KEY = Path("config/node_key.json"), Path("config/priv_validator_key.json")
CONSENSUS_STATE = Path("data/priv_validator_state.json")
DATABASE, SNAPSHOTS = Path("data/ledger"), Path("data/snapshots")
DEFAULT_ABCI = "unix://app.sock"
"""Relative to the home, where `ps-node` and the CometBFT that it starts both run."""
BLOCK_BYTES = 1 << 20
EVIDENCE_AGE_HOURS = 360
"""Longer than readers trust a header: who deceives them can be convicted all that time."""


@dataclass(frozen=True, slots=True)
class VerifierEntry:
    """A genesis verifier; public keys of 32 bytes each."""

    name: str
    prober_key: bytes
    onion_key: bytes
    transport_key: bytes
    consensus_key: bytes
    power: int = 10


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that nodes may serve from the start; see `abci_app.core.models.Model`."""

    name: str
    weights_digest: bytes
    quantization: str
    context_tokens: int
    deterministic: bool = False


@dataclass(frozen=True, slots=True)
class FounderEntry:
    """A key that genesis admits to a role until a height, before it has registered."""

    key: bytes
    role: str
    expires: int = 10_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What `ps-node` reads from a home."""

    chain_id: str
    abci: str
    rpc: str
    schedule: Schedule
    state_sync: bool = False
    """Whether CometBFT joins from a snapshot when it has no state."""


def make_genesis(
    chain_id: str,
    genesis_time: str,
    verifiers: Sequence[VerifierEntry],
    params: Mapping[str, int] | None = None,
    models: Sequence[ModelEntry] = (),
    founders: Sequence[FounderEntry] = (),
) -> str:
    """The genesis document as JSON. `genesis_time` is RFC 3339 in UTC; `params` name what
    differs from `planetserve.scoring.parameters.Parameters`. Raises `ConfigurationError`."""
    if not 1 <= len(chain_id) <= 50:
        raise ConfigurationError("a chain id has 1 to 50 characters")
    app_state = {
        "params": dict(params or {}),
        "verifiers": [
            {
                "name": verifier.name,
                "prober_key": verifier.prober_key.hex(),
                "onion_key": verifier.onion_key.hex(),
                "transport_key": verifier.transport_key.hex(),
                "consensus_key": verifier.consensus_key.hex(),
                "power": verifier.power,
            }
            for verifier in verifiers
        ],
        "models": [
            {**asdict(model), "weights_digest": model.weights_digest.hex()} for model in models
        ],
        "credentials": [{**asdict(founder), "key": founder.key.hex()} for founder in founders],
    }
    try:
        genesis(chain_id, json.dumps(app_state).encode())
    except GenesisError as error:
        raise ConfigurationError(f"the genesis cannot start a chain: {error}") from error
    document = {
        "genesis_time": genesis_time,
        "chain_id": chain_id,
        "initial_height": "1",
        "consensus_params": {
            "block": {"max_bytes": str(BLOCK_BYTES), "max_gas": "-1"},
            "evidence": {
                "max_age_num_blocks": "100000",
                "max_age_duration": str(EVIDENCE_AGE_HOURS * 3600 * 10**9),
                "max_bytes": str(BLOCK_BYTES // 8),
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": "1"},
            "abci": {"vote_extensions_enable_height": "0"},
        },
        "validators": [
            genesis_validator(verifier.name, verifier.consensus_key, verifier.power)
            for verifier in verifiers
        ],
        "app_hash": "",
        "app_state": app_state,
    }
    return json.dumps(document, indent=2) + "\n"


def genesis_validator(name: str, consensus_key: bytes, power: int) -> dict[str, Any]:
    """A validator as genesis documents write it."""
    return {
        "address": _address(consensus_key).upper(),
        "pub_key": _typed("PubKeyEd25519", consensus_key),
        "power": str(power),
        "name": name,
    }


def public_key_of(seed: bytes) -> bytes:
    """The Ed25519 public key of a 32-byte seed."""
    return bytes(SigningKey(seed).verify_key)


def node_id_of(node_seed: bytes) -> str:
    """CometBFT's peer id of the node key with this seed, as in ID@HOST:PORT."""
    return _address(public_key_of(node_seed))


def write_home(
    home: Path,
    *,
    genesis: str,
    moniker: str,
    consensus_seed: bytes,
    node_seed: bytes,
    p2p: str = "127.0.0.1:26656",
    rpc: str = "127.0.0.1:26657",
    abci: str = DEFAULT_ABCI,
    peers: Sequence[str] = (),
    block_interval_s: float = 1.0,
    schedule: Schedule = DEFAULT_SCHEDULE,
    tx_index: str = "kv",
    local: bool = False,
    state_sync: StateSyncFrom | None = None,
) -> None:
    """Write a home. `p2p` and `rpc` are HOST:PORT, `peers` are ID@HOST:PORT of the other
    validators; `abci_app.config_file` explains the rest. Raises `ConfigurationError` when the
    home has a consensus key already: two nodes that sign with one key, or one that forgot what it
    signed, break the chain's safety."""
    key_path = home / CONSENSUS_KEY
    if key_path.exists():
        raise ConfigurationError(f"{home} is a validator's home already; use an empty folder")
    config = config_text(
        moniker=moniker,
        p2p=p2p,
        rpc=rpc,
        abci=abci,
        peers=peers,
        block_interval_s=block_interval_s,
        schedule=schedule,
        tx_index=tx_index,
        local=local,
        state_sync=state_sync,
    )
    for folder in (home, home / "config", home / "data"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    (home / CONFIG).write_text(config, encoding="utf-8")
    (home / GENESIS).write_text(genesis, encoding="utf-8")
    _write_secret(home / NODE_KEY, {"priv_key": _private(node_seed)})
    public = public_key_of(consensus_seed)
    _write_secret(home / CONSENSUS_STATE, {"height": "0", "round": 0, "step": 0})
    _write_secret(
        key_path,
        {
            "address": _address(public).upper(),
            "pub_key": _typed("PubKeyEd25519", public),
            "priv_key": _private(consensus_seed),
        },
    )


def read_settings(home: Path) -> Settings:
    """Raises `ConfigurationError` saying which file is missing or wrong."""
    config = _parsed(home / CONFIG, tomllib.loads)
    document = _parsed(home / GENESIS, json.loads)
    try:
        settings = Settings(
            chain_id=document["chain_id"],
            abci=config["proxy_app"],
            rpc=config["rpc"]["laddr"],
            schedule=read_schedule(config, document),
            state_sync=config.get("statesync", {}).get("enable") is True,
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{home} is not a validator's home: {CONFIG} must have proxy_app and rpc.laddr, "
            f"{GENESIS} chain_id"
        ) from error
    if not all(isinstance(v, str) for v in (settings.chain_id, settings.abci, settings.rpc)):
        raise ConfigurationError(f"{home}: proxy_app, rpc.laddr and chain_id are text")
    return settings


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}; `ps-node init` makes a home"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is malformed: {error}") from error


def _address(public_key: bytes) -> str:
    return hashlib.sha256(public_key).digest()[:20].hex()


def _typed(kind: str, key: bytes) -> dict[str, str]:
    return {"type": f"tendermint/{kind}", "value": base64.b64encode(key).decode()}


def _private(seed: bytes) -> dict[str, str]:
    # Go's Ed25519 private key is the seed followed by the public key.
    return _typed("PrivKeyEd25519", seed + public_key_of(seed))


def _write_secret(path: Path, content: Mapping[str, Any]) -> None:
    write_private(path, json.dumps(content, indent=2).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)

"""A validator's home: the folder of settings and keys that CometBFT and `ps-node` share.

    config/config.toml  config/genesis.json  config/node_key.json  config/priv_validator_key.json
    data/priv_validator_state.json  data/ledger/

Settings that are not written keep CometBFT's defaults.
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

from abci_app.core.genesis import genesis
from abci_app.core.parameters import GenesisError
from planetserve.errors import ConfigurationError
from planetserve.transactions import MAX_TRANSACTION_BYTES

CONFIG, GENESIS = Path("config/config.toml"), Path("config/genesis.json")
NODE_KEY, CONSENSUS_KEY = Path("config/node_key.json"), Path("config/priv_validator_key.json")
CONSENSUS_STATE = Path("data/priv_validator_state.json")
DATABASE = Path("data/ledger")
DEFAULT_ABCI = "unix://app.sock"
"""Relative to the home, where `ps-node` and the CometBFT that it starts both run."""
BLOCK_BYTES = 1 << 20


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


def make_genesis(
    chain_id: str,
    genesis_time: str,
    verifiers: Sequence[VerifierEntry],
    params: Mapping[str, int] | None = None,
    models: Sequence[ModelEntry] = (),
    founders: Sequence[FounderEntry] = (),
) -> str:
    """The genesis document as JSON. `genesis_time` is RFC 3339 in UTC; `params` name what
    differs from `abci_app.core.parameters.Parameters`. Raises `ConfigurationError`."""
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
                "max_age_duration": "172800000000000",
                "max_bytes": str(BLOCK_BYTES // 8),
            },
            "validator": {"pub_key_types": ["ed25519"]},
            "version": {"app": "1"},
            "abci": {"vote_extensions_enable_height": "0"},
        },
        "validators": [
            {
                "address": _address(verifier.consensus_key).upper(),
                "pub_key": _typed("PubKeyEd25519", verifier.consensus_key),
                "power": str(verifier.power),
                "name": verifier.name,
            }
            for verifier in verifiers
        ],
        "app_hash": "",
        "app_state": app_state,
    }
    return json.dumps(document, indent=2) + "\n"


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
) -> None:
    """Write a home. `p2p` and `rpc` are HOST:PORT, `peers` are ID@HOST:PORT of the other
    validators. Raises `ConfigurationError` when the home has a consensus key already: two nodes
    that sign with one key, or one that forgot what it signed, break the chain's safety."""
    key_path = home / CONSENSUS_KEY
    if key_path.exists():
        raise ConfigurationError(f"{home} is a validator's home already; use an empty folder")
    for folder in (home, home / "config", home / "data"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    config = config_text(moniker, p2p, rpc, abci, peers, block_interval_s)
    (home / CONFIG).write_text(config)
    (home / GENESIS).write_text(genesis)
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


def config_text(
    moniker: str,
    p2p: str,
    rpc: str,
    abci: str,
    peers: Sequence[str],
    block_interval_s: float,
) -> str:
    """CometBFT's config.toml. A round costs a few gossip steps on top of `timeout_commit`, and a
    dead proposer costs `timeout_propose`; both follow the block interval."""
    commit_ms = max(10, round(block_interval_s * 850))
    propose_ms = max(200, round(block_interval_s * 1000))
    vote_ms = max(100, propose_ms // 2)
    gossip_ms = min(100, max(5, round(block_interval_s * 50)))
    abci_address = abci if "://" in abci else f"tcp://{abci}"
    return f"""\
version = "0.38.25"
proxy_app = {_quoted(abci_address)}
moniker = {_quoted(moniker)}
db_backend = "goleveldb"
log_level = "main:info,state:info,*:error"
log_format = "json"

[rpc]
laddr = {_quoted(f"tcp://{rpc}")}
max_open_connections = 200
max_subscription_clients = 50
unsafe = false

[p2p]
laddr = {_quoted(f"tcp://{p2p}")}
persistent_peers = {_quoted(",".join(peers))}
persistent_peers_max_dial_period = "10s"
addr_book_strict = false
allow_duplicate_ip = true
pex = false
max_num_inbound_peers = 40
max_num_outbound_peers = 40
flush_throttle_timeout = "10ms"

[mempool]
size = 5000
max_txs_bytes = {16 << 20}
max_tx_bytes = {4 * MAX_TRANSACTION_BYTES}
cache_size = 10000

[consensus]
timeout_propose = "{propose_ms}ms"
timeout_propose_delta = "{propose_ms // 2}ms"
timeout_prevote = "{vote_ms}ms"
timeout_prevote_delta = "{vote_ms // 2}ms"
timeout_precommit = "{vote_ms}ms"
timeout_precommit_delta = "{vote_ms // 2}ms"
timeout_commit = "{commit_ms}ms"
create_empty_blocks = true
peer_gossip_sleep_duration = "{gossip_ms}ms"

[tx_index]
indexer = "kv"

[instrumentation]
prometheus = false
"""


def read_settings(home: Path) -> Settings:
    """Raises `ConfigurationError` saying which file is missing or wrong."""
    config = _parsed(home / CONFIG, tomllib.loads)
    document = _parsed(home / GENESIS, json.loads)
    try:
        settings = Settings(
            chain_id=document["chain_id"], abci=config["proxy_app"], rpc=config["rpc"]["laddr"]
        )
    except (KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{home} is not a validator's home: {CONFIG} must have proxy_app and rpc.laddr, "
            f"{GENESIS} chain_id"
        ) from error
    if not all(isinstance(v, str) for v in (settings.chain_id, settings.abci, settings.rpc)):
        raise ConfigurationError(f"{home}: proxy_app, rpc.laddr and chain_id are text")
    return settings


def _parsed(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text())
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
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text)

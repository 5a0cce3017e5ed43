"""config/config.toml: CometBFT's settings, and in `[planetserve]` those of the ledger beside it.

Settings that are not written keep their defaults. CometBFT skips the section that is not its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abci_app.mempool import MAX_WAITING, MAX_WAITING_BYTES
from planetserve.errors import ConfigurationError
from planetserve.transactions import MAX_TRANSACTION_BYTES

SECTION = "planetserve"
SNAPSHOT_BLOCKS = 1_000
MAX_BLOCKS = 1 << 53
SPARE = 1_000
MIN_RPC_SERVERS = 2
TRUST_PERIOD_HOURS = 168


@dataclass(frozen=True, slots=True)
class Schedule:
    """All in blocks. A snapshot is made at each multiple of `snapshot_blocks` (0: never).
    CometBFT keeps at least `keep_blocks` (0: all) and what `evidence_blocks` may concern."""

    snapshot_blocks: int = 0
    keep_blocks: int = 0
    evidence_blocks: int = 0


@dataclass(frozen=True, slots=True)
class StateSyncFrom:
    """Where a new node learns which snapshot to believe: RPC addresses of at least two nodes, and
    the height and header hash (64 hex digits) of a block that its operator trusts."""

    rpc: Sequence[str]
    height: int
    hash: str

    def __post_init__(self) -> None:
        if len(self.rpc) < MIN_RPC_SERVERS:
            raise ConfigurationError(
                f"state sync compares {MIN_RPC_SERVERS} RPC servers or more: RPC1,RPC2"
            )
        if self.height < 1:
            raise ConfigurationError("state sync trusts the header of a height from 1")
        try:
            good = len(bytes.fromhex(self.hash)) == 32
        except ValueError:
            good = False
        if not good:
            raise ConfigurationError(
                "state sync trusts a header by its hash of 64 hex digits, which /commit shows"
            )


def config_text(
    *,
    moniker: str,
    p2p: str,
    rpc: str,
    abci: str,
    peers: Sequence[str],
    block_interval_s: float,
    snapshot_blocks: int,
    keep_blocks: int,
    state_sync: StateSyncFrom | None,
) -> str:
    """A round costs a few gossip steps on top of `timeout_commit`, and a dead proposer costs
    `timeout_propose`; both follow the block interval."""
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
log_level = "main:info,state:info,statesync:info,*:error"
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
# More than the ledger lets wait of each class of senders, so that none keeps another out.
size = {MAX_WAITING + SPARE}
max_txs_bytes = {MAX_WAITING_BYTES + (1 << 20)}
max_tx_bytes = {4 * MAX_TRANSACTION_BYTES}
cache_size = {2 * (MAX_WAITING + SPARE)}

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
{_state_sync_text(state_sync)}
[storage]
# Readers prove a transaction's result by the results of its whole block.
discard_abci_responses = false

[tx_index]
indexer = "kv"

[instrumentation]
prometheus = false

[{SECTION}]
# A snapshot that new nodes can join from is made at each multiple of so many blocks; 0: none.
snapshot_blocks = {snapshot_blocks}
# Blocks older than this are deleted, unless evidence or a snapshot still needs them; 0: none.
keep_blocks = {keep_blocks}
"""


def _state_sync_text(state_sync: StateSyncFrom | None) -> str:
    if state_sync is None:
        return ""
    return f"""
[statesync]
enable = true
rpc_servers = {_quoted(",".join(state_sync.rpc))}
trust_height = {state_sync.height}
trust_hash = {_quoted(state_sync.hash.upper())}
trust_period = "{TRUST_PERIOD_HOURS}h0m0s"
discovery_time = "5s"
temp_dir = "data"
"""


def read_schedule(config: Mapping[str, Any], genesis: Mapping[str, Any]) -> Schedule:
    """What a home says of snapshots and pruning; a home without the section has the defaults.
    Raises `ConfigurationError`."""
    section = config.get(SECTION, {})
    try:
        evidence = int(genesis["consensus_params"]["evidence"]["max_age_num_blocks"])
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(
            "the genesis document must have consensus_params.evidence.max_age_num_blocks"
        ) from None
    return Schedule(
        snapshot_blocks=_blocks(section, "snapshot_blocks", SNAPSHOT_BLOCKS),
        keep_blocks=_blocks(section, "keep_blocks", 0),
        evidence_blocks=evidence,
    )


def _blocks(section: Any, name: str, default: int) -> int:
    value = section.get(name, default) if isinstance(section, dict) else None
    if type(value) is not int or not 0 <= value <= MAX_BLOCKS:
        raise ConfigurationError(f"{SECTION}.{name} is a number of blocks, 0 for never")
    return value


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return json.dumps(text)

"""config/config.toml: CometBFT's settings, and in `[planetserve]` those of the ledger beside it.

Settings that are not written keep their defaults. CometBFT skips the section that is not its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abci_app.mempool import MAX_WAITING, MAX_WAITING_BYTES
from planetserve.errors import ConfigurationError
from planetserve.transactions import MAX_TRANSACTION_BYTES

SECTION = "planetserve"
SNAPSHOT_BLOCKS = 1_000
MAX_NUMBER = 1 << 53
SPARE = 1_000
KEEP_HOURS = 360
"""As long as evidence counts (`abci_app.home`), and longer than readers trust a header
(`planetserve.network`): they verify later headers from it."""
KEEP_SNAPSHOTS = 2
RESTORE_MIB = 32 << 10
TX_INDEXES = ("kv", "null")
MIN_RPC_SERVERS = 2
TRUST_PERIOD_HOURS = 168


@dataclass(frozen=True, slots=True)
class Schedule:
    """A snapshot is made at each multiple of `snapshot_blocks` (0: never), and `keep_snapshots`
    of them are kept. CometBFT keeps at least `keep_blocks` (0: all), what `evidence_blocks` may
    concern, and all blocks of the last `keep_hours`. A snapshot of more than `restore_mib` MiB is
    not restored."""

    snapshot_blocks: int = 0
    keep_blocks: int = 0
    keep_hours: int = 0
    keep_snapshots: int = KEEP_SNAPSHOTS
    restore_mib: int = RESTORE_MIB
    evidence_blocks: int = 0


DEFAULT_SCHEDULE = Schedule(snapshot_blocks=SNAPSHOT_BLOCKS, keep_hours=KEEP_HOURS)


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
    schedule: Schedule,
    tx_index: str,
    local: bool,
    state_sync: StateSyncFrom | None,
) -> str:
    """`local` is for networks whose nodes share a machine and know each other. Raises
    `ConfigurationError`.

    A round costs a few gossip steps on top of `timeout_commit`, and a dead proposer costs
    `timeout_propose`; both follow the block interval."""
    if tx_index not in TX_INDEXES:
        raise ConfigurationError(f"a transaction index is one of {', '.join(TX_INDEXES)}")
    if not moniker.strip() or not all(" " <= character <= "~" for character in moniker):
        raise ConfigurationError("a moniker is printable ASCII, as CometBFT wants it")
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
{LOCAL_PEERS if local else OPEN_PEERS}\
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
# "kv" lets clients find the transactions that they have sent here; it is never pruned. "null"
# saves its room.
indexer = {_quoted(tx_index)}

[instrumentation]
prometheus = false

[{SECTION}]
# A snapshot that new nodes can join from is made at each multiple of so many blocks; 0: none.
snapshot_blocks = {schedule.snapshot_blocks}
# The newest so many are kept.
keep_snapshots = {schedule.keep_snapshots}
# Blocks older than this are deleted, unless evidence or a snapshot still needs them; 0: none.
keep_blocks = {schedule.keep_blocks}
# No block younger than this is deleted: evidence may concern it, and readers may trust it.
keep_hours = {schedule.keep_hours}
# When this node joins from a snapshot, the most that it may take, in MiB.
restore_mib = {schedule.restore_mib}
"""


OPEN_PEERS = """\
addr_book_strict = true
allow_duplicate_ip = false
pex = true
"""
LOCAL_PEERS = """\
addr_book_strict = false
allow_duplicate_ip = true
pex = false
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
        snapshot_blocks=_number(section, "snapshot_blocks", SNAPSHOT_BLOCKS, "of blocks"),
        keep_snapshots=_number(section, "keep_snapshots", KEEP_SNAPSHOTS, "of snapshots", 1, 100),
        keep_blocks=_number(section, "keep_blocks", 0, "of blocks"),
        keep_hours=_number(section, "keep_hours", KEEP_HOURS, "of hours"),
        restore_mib=_number(section, "restore_mib", RESTORE_MIB, "of MiB", 1),
        evidence_blocks=evidence,
    )


def _number(
    section: Any, name: str, default: int, what: str, low: int = 0, high: int = MAX_NUMBER
) -> int:
    value = section.get(name, default) if isinstance(section, dict) else None
    if type(value) is not int or not low <= value <= high:
        raise ConfigurationError(f"{SECTION}.{name} is a number {what}, from {low} to {high}")
    return value


def _quoted(text: str) -> str:
    """A TOML basic string."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{text!r} is no text that a file can hold") from None
    escaped = "".join(
        f"\\u{ord(character):04x}"
        if character < " " or character == "\x7f"
        else f"\\{character}"
        if character in '\\"'
        else character
        for character in text
    )
    return f'"{escaped}"'

"""Genesis documents, homes and parameters."""

from __future__ import annotations

import dataclasses
import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from abci_app.config_file import DEFAULT_SCHEDULE, Schedule, StateSyncFrom
from abci_app.core.chain import GenesisError
from abci_app.core.genesis import genesis
from abci_app.home import (
    VerifierEntry,
    make_genesis,
    node_id_of,
    public_key_of,
    read_settings,
    write_home,
)
from planetserve.errors import ConfigurationError
from planetserve.network import TRUST_PERIOD_S
from planetserve.scoring.parameters import LIMITS, InvalidParameters, Parameters, parameters_from
from tests.abci_app.world import app_state, participant


def entry(number: int, power: int = 10) -> VerifierEntry:
    identity = participant(number)
    return VerifierEntry(
        f"verifier-{number}",
        identity.public_key,
        identity.onion_public,
        identity.transport_public,
        public_key_of(bytes([100 + number]) * 32),
        power,
    )


def write(home: Path, **changes: Any) -> None:
    options: dict[str, Any] = {
        "genesis": make_genesis("chain", "2026-01-01T00:00:00Z", [entry(1)]),
        "moniker": 'v "1"',
        "consensus_seed": bytes([101]) * 32,
        "node_seed": bytes(32),
        "peers": ["a@127.0.0.1:1", "b@127.0.0.1:2"],
        **changes,
    }
    write_home(home, **options)


def test_a_home_is_complete_and_its_secrets_are_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(home)
    config = tomllib.loads((home / "config/config.toml").read_text())
    assert config["moniker"] == 'v "1"'
    assert config["p2p"]["persistent_peers"] == "a@127.0.0.1:1,b@127.0.0.1:2"
    assert read_settings(home).abci == "unix://app.sock"
    secrets = ["config/node_key.json", "config/priv_validator_key.json"]
    for name in [*secrets, "data/priv_validator_state.json"]:
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    validator = json.loads((home / "config/genesis.json").read_text())["validators"][0]
    key = json.loads((home / "config/priv_validator_key.json").read_text())
    assert (validator["address"], validator["pub_key"]) == (key["address"], key["pub_key"])


def test_a_folder_that_is_there_becomes_private_too(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    write(tmp_path)
    for folder in (tmp_path, tmp_path / "config", tmp_path / "data"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("peer", ['"\\', "\x7f\t\n\x01", "😀 ü \u2028", "]\n[rpc]\nunsafe = true"])
def test_settings_are_what_was_given(tmp_path: Path, peer: str) -> None:
    write(tmp_path, peers=[peer])
    config = tomllib.loads((tmp_path / "config/config.toml").read_text(encoding="utf-8"))
    assert config["p2p"]["persistent_peers"] == peer
    assert config["rpc"]["unsafe"] is False


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"moniker": "ü"}, "printable ASCII"),
        ({"moniker": " "}, "printable ASCII"),
        ({"peers": ["\udc80"]}, "no text"),
        ({"tx_index": "psql"}, "one of kv, null"),
    ],
)
def test_what_cometbft_would_refuse_makes_no_home(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        write(tmp_path / "home", **changes)
    assert not (tmp_path / "home").exists()


def test_only_a_local_network_trusts_its_neighbourhood(tmp_path: Path) -> None:
    peers = {}
    for name, local in (("open", False), ("local", True)):
        write(tmp_path / name, local=local, tx_index="null")
        config = tomllib.loads((tmp_path / name / "config/config.toml").read_text())
        assert config["tx_index"]["indexer"] == "null"
        peers[name] = [
            config["p2p"][key] for key in ("addr_book_strict", "allow_duplicate_ip", "pex")
        ]
    assert peers == {"open": [True, False, True], "local": [False, True, False]}


def test_evidence_outlives_the_trust_of_readers() -> None:
    document = json.loads(make_genesis("chain", "2026-01-01T00:00:00Z", [entry(1)]))
    age_ns = int(document["consensus_params"]["evidence"]["max_age_duration"])
    assert age_ns / 10**9 > TRUST_PERIOD_S
    assert DEFAULT_SCHEDULE.keep_hours * 3600 >= age_ns / 10**9


def test_a_home_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ConfigurationError, match="already"):
        write(tmp_path)


def test_node_id_is_the_hash_of_the_public_key() -> None:
    # The public key of an all-zero seed begins with 3b6a27bc (RFC 8032's curve).
    assert public_key_of(bytes(32)).hex().startswith("3b6a27bc")
    assert len(node_id_of(bytes(32))) == 40


@pytest.mark.parametrize("name", ["config/config.toml", "config/genesis.json"])
@pytest.mark.parametrize("text", [None, "", "{", "proxy_app = 5"])
def test_a_broken_home_is_named(tmp_path: Path, name: str, text: str | None) -> None:
    write(tmp_path)
    path = tmp_path / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    "verifiers",
    [
        [],
        [entry(1), entry(1)],
        [entry(1, power=0)],
        [entry(1, power=-1)],
        [entry(1, power=1 << 62)],
        [VerifierEntry("short", b"x", b"x", b"x", b"x")],
        [dataclasses.replace(entry(1), name="a\nb")],
    ],
    ids=["none", "twice", "no power", "negative", "too much", "short keys", "name"],
)
def test_bad_verifiers(verifiers: list[VerifierEntry]) -> None:
    with pytest.raises(ConfigurationError, match="the genesis cannot start a chain"):
        make_genesis("chain", "2026-01-01T00:00:00Z", verifiers)


def test_parameters_have_limits() -> None:
    assert set(LIMITS) == set(Parameters().to_wire())
    assert parameters_from(Parameters().to_wire()) == Parameters()
    for values in (
        {"unknown": 1},
        {"epoch_blocks": 2},
        {"epoch_blocks": "25"},
        {"epoch_blocks": True},
        {"quorum_ppm": 400_000},
        {"epoch_blocks": 10, "commit_blocks": 9},
    ):
        with pytest.raises(InvalidParameters):
            parameters_from(values)


def test_genesis_ignores_nothing() -> None:
    document = json.loads(app_state())
    document["extra"] = 1
    with pytest.raises(GenesisError):
        genesis("chain", json.dumps(document).encode())
    document = json.loads(app_state())
    document["verifiers"][0]["power"] = 10.0
    with pytest.raises(GenesisError):
        genesis("chain", json.dumps(document).encode())


def test_the_ledgers_own_settings(tmp_path: Path) -> None:
    chosen = Schedule(50, 500, keep_hours=7, keep_snapshots=4, restore_mib=99)
    write(tmp_path, schedule=chosen)
    assert read_settings(tmp_path).schedule == dataclasses.replace(chosen, evidence_blocks=100_000)
    config = tmp_path / "config/config.toml"
    text = config.read_text()
    config.write_text(text.split("[planetserve]")[0])
    usual = dataclasses.replace(DEFAULT_SCHEDULE, evidence_blocks=100_000)
    assert read_settings(tmp_path).schedule == usual
    assert (usual.keep_hours, usual.keep_snapshots) == (360, 2)
    for wrong in (
        "snapshot_blocks = -1",
        'keep_blocks = "5"',
        "keep_blocks = true",
        "keep_snapshots = 0",
        "restore_mib = 0",
    ):
        config.write_text(text.split("[planetserve]")[0] + "[planetserve]\n" + wrong)
        with pytest.raises(ConfigurationError, match="is a number of"):
            read_settings(tmp_path)
    config.write_text("planetserve = 5\n" + text.split("[planetserve]")[0])
    with pytest.raises(ConfigurationError, match="is a number of"):
        read_settings(tmp_path)


def test_a_home_that_joins_from_a_snapshot(tmp_path: Path) -> None:
    servers = ["127.0.0.1:1", "http://127.0.0.1:2"]
    write(tmp_path, state_sync=StateSyncFrom(servers, 7, "ab" * 32))
    section = tomllib.loads((tmp_path / "config/config.toml").read_text())["statesync"]
    assert section["enable"] is True
    assert section["rpc_servers"] == ",".join(servers)
    assert (section["trust_height"], section["trust_hash"]) == (7, "AB" * 32)
    write(tmp_path / "plain")
    plain = tomllib.loads((tmp_path / "plain/config/config.toml").read_text())
    assert "statesync" not in plain


@pytest.mark.parametrize(
    ("rpc", "height", "hash", "reason"),
    [
        (["one"], 7, "ab" * 32, "2 RPC servers"),
        (["one", "two"], 0, "ab" * 32, "a height from 1"),
        (["one", "two"], 7, "ab" * 31, "64 hex digits"),
        (["one", "two"], 7, "xy" * 32, "64 hex digits"),
    ],
)
def test_what_cannot_be_trusted(rpc: list[str], height: int, hash: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        StateSyncFrom(rpc, height, hash)

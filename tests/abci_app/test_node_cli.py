"""`ps-node` as its user sees it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abci_app.cli import app
from abci_app.config_file import Schedule
from abci_app.core.export import exported_text
from abci_app.home import make_genesis, read_settings
from planetserve.errors import ConfigurationError, UsageError
from tests.abci_app.test_export import run
from tests.abci_app.test_home import entry, write


def ps_node(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def genesis(tmp_path: Path) -> Path:
    path = tmp_path / "genesis.json"
    path.write_text(make_genesis("chain", "2026-01-01T00:00:00Z", [entry(1)]))
    return path


def test_init_takes_settings_and_shows_what_peers_need(tmp_path: Path, genesis: Path) -> None:
    home = tmp_path / "home"
    shown = ps_node(
        *("init", "--home", str(home), "--genesis", str(genesis), "--p2p", "127.0.0.1:7"),
        *("--snapshot-blocks", "20", "--keep-blocks", "300", "--keep-hours", "48"),
        *("--keep-snapshots", "3", "--restore-mib", "500", "--tx-index", "null", "--local"),
        *("--state-sync", "a:1,b:2", "--trust-height", "9", "--trust-hash", "cd" * 32),
    )
    assert "chain          chain\n" in shown
    assert "@127.0.0.1:7\n" in shown
    settings = read_settings(home)
    assert settings.schedule == Schedule(20, 300, 48, 3, 500, settings.schedule.evidence_blocks)
    assert settings.state_sync
    config = tomllib.loads((home / "config/config.toml").read_text())
    assert (config["tx_index"]["indexer"], config["p2p"]["pex"]) == ("null", False)
    assert config["statesync"]["rpc_servers"] == "a:1,b:2"


@pytest.mark.parametrize(
    "words",
    [
        ["--state-sync", "a:1,b:2"],
        ["--trust-height", "9"],
        ["--state-sync", "a:1,b:2", "--trust-hash", "cd" * 32],
    ],
)
def test_a_trusted_header_is_named_whole(tmp_path: Path, genesis: Path, words: list[str]) -> None:
    with pytest.raises(UsageError, match="go together"):
        ps_node("init", "--home", str(tmp_path / "home"), "--genesis", str(genesis), *words)
    assert not (tmp_path / "home").exists()


def test_export_import_and_inspect(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write(home)
    app_hash = run(home, range(1, 5))
    document = ps_node("export", "--home", str(home))
    assert ps_node("export", "--home", str(home), "--height", "4") == document
    assert exported_text(json.loads(document)) == document
    report = json.loads(ps_node("inspect", "--home", str(home)))
    assert (report["height"], report["app_hash"]) == (4, app_hash)
    assert json.loads(ps_node("inspect", "--home", str(home), "--height", "2"))["height"] == 2

    path = tmp_path / "exported.json"
    path.write_text(document)
    shown = ps_node("import", "--home", str(home), str(path))
    assert f"app hash       {app_hash}" in shown
    shown = ps_node("init", "--home", str(tmp_path / "new"), "--genesis", str(path))
    assert f"app hash       {app_hash}" in shown


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "home")
    with pytest.raises(ConfigurationError, match="cannot read"):
        ps_node("init", "--home", str(tmp_path / "x"), "--genesis", str(tmp_path / "nothing"))
    for command in ("export", "inspect"):
        with pytest.raises(ConfigurationError, match="has not run yet"):
            ps_node(command, "--home", str(tmp_path / "home"))
        with pytest.raises(ConfigurationError, match="`ps-node init` makes a home"):
            ps_node(command, "--home", str(tmp_path / "nowhere"))

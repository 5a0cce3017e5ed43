"""docs/operating.md names the settings, metrics and points that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from abci_app.config_file import SECTION
from abci_app.crash import EXIT_CODE, POINTS, VARIABLE
from abci_app.housekeeping import COMPACTION_BLOCKS
from abci_app.metrics import LedgerMetrics
from abci_app.store import KEPT_ROOTS
from tests.abci_app.test_home import write

PAGE = (Path(__file__).parents[2] / "docs/operating.md").read_text()


def test_settings(tmp_path: Path) -> None:
    write(tmp_path)
    config = tomllib.loads((tmp_path / "config/config.toml").read_text())
    for name in config[SECTION]:
        assert f"| `{name}` | `--{name.replace('_', '-')}` |" in PAGE
    rows = re.findall(r"^\| `([a-z_]+)` \| `--", PAGE, re.MULTILINE)
    assert rows == list(config[SECTION])
    assert config["storage"] == {"discard_abci_responses": False}


def test_metrics() -> None:
    own = {
        metric.name
        for metric in LedgerMetrics().registry.collect()
        if metric.name.startswith("planetserve_")
    }
    assert set(re.findall(r"^\| `(planetserve_ledger_[a-z_]+)`", PAGE, re.MULTILINE)) == own


def test_points_and_numbers() -> None:
    assert f"`{VARIABLE}=NAME`" in PAGE
    points = ", ".join(f"`{point}`" for point in POINTS)
    assert f"Points: {points}." in PAGE
    assert f"the exit code is {EXIT_CODE}" in PAGE
    assert f"every {COMPACTION_BLOCKS:,} blocks" in PAGE
    assert f"the last {KEPT_ROOTS:,} heights" in PAGE

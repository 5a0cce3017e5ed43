"""What starting afresh may remove."""

from __future__ import annotations

from pathlib import Path

import pytest

from localnet.materials import prepare
from localnet.plan import Layout, make_plan
from localnet.topology import load_topology
from planetserve.errors import UsageError


def test_folders_that_others_made_are_left_alone(tmp_path: Path) -> None:
    treasure = tmp_path / "keys" / "mine.key"
    treasure.parent.mkdir()
    treasure.write_text("secret")
    plan = make_plan(load_topology(), Layout(tmp_path), tmp_path)
    with pytest.raises(UsageError, match="name another folder"):
        prepare(plan, keep=False)
    assert treasure.read_text() == "secret"


def test_its_own_are_made_anew(tmp_path: Path) -> None:
    plan = make_plan(load_topology(), Layout(tmp_path), tmp_path)
    prepare(plan, keep=False)
    before = (tmp_path / "keys" / "relay-1.key").read_text()
    prepare(plan, keep=False)
    assert (tmp_path / "keys" / "relay-1.key").read_text() != before

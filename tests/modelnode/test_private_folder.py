"""Folders of engines that were killed go when the next engine comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from modelnode.engines.private_folder import make_socket_folder


def test_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f"ps-engine-{ended.pid}-abc"
    dead.mkdir()
    (dead / "http.sock").touch()
    living = tmp_path / f"ps-engine-{os.getppid()}-abc"
    living.mkdir()
    other = tmp_path / "ps-engine-notes"
    other.mkdir()
    own = make_socket_folder(tmp_path)
    assert not dead.exists()
    assert living.exists()
    assert other.exists()
    assert own.stat().st_mode & 0o777 == 0o700

"""One chain, one app hash: whatever the hash seed, the order in memory, the version of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = "import msgpack, nacl"
MINORS = range(11, 16)


def app_hashes(python: str, *options: str, hash_seed: str = "0") -> list[str]:
    """What the script of the golden vectors prints."""
    done = subprocess.run(
        [python, "-m", "tests.vectors.script", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines()


@lru_cache(maxsize=1)
def expected() -> list[str]:
    hashes = app_hashes(sys.executable)
    assert len(hashes) >= 60
    assert len(set(hashes)) == len(hashes)
    return hashes


@pytest.mark.parametrize("hash_seed", ["1", "2", "4294967295", "random"])
def test_hash_seeds_change_nothing(hash_seed: str) -> None:
    assert app_hashes(sys.executable, hash_seed=hash_seed) == expected()


@pytest.mark.parametrize("hash_seed", ["0", "3"])
def test_the_order_of_what_is_in_memory_changes_nothing(hash_seed: str) -> None:
    assert app_hashes(sys.executable, "--turned", hash_seed=hash_seed) == expected()


def interpreters(minor: int) -> list[str]:
    """Pythons of version 3.`minor`: this one, on PATH, in pyenv, or named in PS_TEST_PYTHONS."""
    named = [item for item in os.environ.get("PS_TEST_PYTHONS", "").split(os.pathsep) if item]
    found = [sys.executable, *named, shutil.which(f"python3.{minor}")]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += map(str, sorted(versions.glob(f"3.{minor}.*/bin/python")))
    version = f"import sys; sys.exit(sys.version_info[:2] != (3, {minor}))"
    return [python for python in found if python and _runs(python, version)]


def _runs(python: str, code: str) -> bool:
    done = subprocess.run([python, "-c", code], capture_output=True, check=False, timeout=60)
    return done.returncode == 0


@pytest.mark.parametrize("minor", MINORS, ids=lambda minor: f"3.{minor}")
def test_versions_of_python_change_nothing(minor: int) -> None:
    present = interpreters(minor)
    if not present:
        pytest.skip(f"no Python 3.{minor} here; name one in PS_TEST_PYTHONS")
    able = [python for python in present if _runs(python, NEEDED)]
    if not able:
        pytest.skip(f"{', '.join(present)}: cannot import msgpack and nacl")
    for python in able:
        assert app_hashes(python) == expected(), python

"""The process ends at each of its own points; the next start goes on as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from abci_app.application import Application
from abci_app.crash import EXIT_CODE, POINTS, VARIABLE
from abci_app.snapshots import Archive
from abci_app.store import open_store
from tests.abci_app.test_store import assert_consistent
from tests.abci_app.world import CHAIN_ID, app_state

LIFE = """
import sys
from pathlib import Path
from abci_app.core import chunks
from abci_app.application import Application
from abci_app.restore import StateSync
from abci_app.snapshots import Archive
from abci_app.store import open_store
from tests.abci_app.world import CHAIN_ID, app_state

chunks.MAX_CHUNK_BYTES = 500
folder, last = Path(sys.argv[1]), int(sys.argv[2])
store = open_store(folder / "ledger", CHAIN_ID)
application = Application(store, CHAIN_ID)
archive = Archive(folder / "snapshots", CHAIN_ID, kept=2)
if store.head.height == 0:
    application.init_chain(CHAIN_ID, app_state({"epoch_blocks": 3, "commit_blocks": 1}))
for height in range(store.head.height + 1, last + 1):
    application.finalize(height, [])
    application.commit()
if last not in [item.height for item in archive.available]:
    archive.write(store.latest)
item = archive.available[0]

joining = open_store(folder / "joining", CHAIN_ID)
if joining.head.height == 0:
    sync = StateSync(Application(joining, CHAIN_ID), joining, CHAIN_ID)
    sync.offer(item.height, 1, len(item.manifest.chunks), item.hash, item.metadata,
               store.head.app_hash)
    for index in range(len(item.manifest.chunks)):
        sync.apply(index, archive.chunk(item.height, index))
print(store.head.app_hash.hex(), joining.head.app_hash.hex())
"""
LAST = 5
IN_BLOCKS = POINTS[:5]


def live(folder: Path, fail_at: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, VARIABLE: fail_at, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-c", LIFE, str(folder), str(LAST)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    done = live(tmp_path_factory.mktemp("undisturbed"))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_loses_nothing_and_leaves_nothing(
    tmp_path: Path, undisturbed: str, point: str
) -> None:
    count = 3 if point in IN_BLOCKS else 2 if point.endswith("chunk") else 1
    crashed = live(tmp_path, f"{point}:{count}")
    assert crashed.returncode == EXIT_CODE, crashed.stderr

    store = open_store(tmp_path / "ledger", CHAIN_ID)
    if point in IN_BLOCKS:
        written = point in ("after-write", "before-commit-answer")
        assert store.head.height == (3 if written else 2)
    assert_consistent(store)
    store.close()
    archive = Archive(tmp_path / "snapshots", CHAIN_ID, kept=2)
    assert all(archive.chunk(item.height, 0) for item in archive.available)
    if point.startswith("snapshot"):
        assert archive.available == ()
    if point.startswith("restore"):
        joining = open_store(tmp_path / "joining", CHAIN_ID)
        assert joining.head.height == 0
        assert list(joining.latest.everything()) == []
        joining.close()

    again = live(tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == undisturbed


def test_an_unknown_point_is_named(tmp_path: Path) -> None:
    done = live(tmp_path, "nowhere")
    assert done.returncode == 1
    assert "PLANETSERVE_FAIL_AT is one of" in done.stderr
    assert not (tmp_path / "ledger").exists()


def test_a_block_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """What was staged and lost comes out again."""
    store = open_store(tmp_path / "ledger", CHAIN_ID)
    first = Application(store, CHAIN_ID)
    first.init_chain(CHAIN_ID, app_state())
    staged = first.finalize(1, []).head
    second = Application(store, CHAIN_ID)
    second.init_chain(CHAIN_ID, app_state())
    assert second.finalize(1, []).head == staged
    store.close()

"""What a relay knows of earlier set-ups after each way to end, and each damage to its folder."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay import replay_log
from overlay.core.effects import Remember
from overlay.core.replay_filter import ENTRY_BYTES
from overlay.replay_log import MAX_AHEAD, ReplayLog, folder_beside, mark_new, node_identity
from planetserve.errors import ConfigurationError, KeyFileError

NOW = 6_000_000
ENTRIES = [Random(1).randbytes(ENTRY_BYTES * 3)[i : i + ENTRY_BYTES] for i in (0, 16, 32)]


@pytest.fixture(autouse=True)
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the boot's id; who writes another into it starts the machine anew."""
    path = tmp_path / "boot_id"
    path.write_text("one\n")
    monkeypatch.setattr(replay_log, "BOOT_ID", path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a key that has just been made."""
    path = tmp_path / "key.replay"
    mark_new(path)
    return path


def take(log: ReplayLog, entry: bytes, period: int = NOW) -> bool:
    """What the relay does with a set-up of a period that it covers."""
    is_new = log.filter.take(period, entry)
    if is_new:
        log.remember(Remember(period, entry))
    return is_new


def covered(log: ReplayLog) -> list[int]:
    return [period - NOW for period in range(NOW - 9, NOW + 9) if log.filter.covers(period)]


def test_the_folder_stands_beside_the_key() -> None:
    assert folder_beside(Path("/home/of/relay.key")) == Path("/home/of/relay.key.replay")


def test_a_new_relay_covers_its_period_and_those_beside_it(folder: Path) -> None:
    log = ReplayLog(folder, NOW)
    assert covered(log) == [-1, 0, 1]
    assert take(log, ENTRIES[0])
    assert not take(log, ENTRIES[0])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}


@pytest.mark.parametrize("orderly", [True, False])
def test_what_was_taken_is_known_to_the_next_process(folder: Path, orderly: bool) -> None:
    log = ReplayLog(folder, NOW)
    for period, entry in zip((NOW - 1, NOW, NOW + 1), ENTRIES, strict=True):
        take(log, entry, period)
    if orderly:
        log.close()
    again = ReplayLog(folder, NOW)
    assert covered(again) == [-1, 0, 1]
    for period, entry in zip((NOW - 1, NOW, NOW + 1), ENTRIES, strict=True):
        assert not take(again, entry, period)
    assert take(again, ENTRIES[0], NOW)  # an entry is of its period only


def test_an_orderly_end_outlives_the_machine_once(folder: Path, boot: Path) -> None:
    log = ReplayLog(folder, NOW)
    take(log, ENTRIES[0])
    log.close()
    boot.write_text("two")
    log = ReplayLog(folder, NOW)
    assert covered(log) == [-1, 0, 1]
    assert not take(log, ENTRIES[0])
    boot.write_text("three")  # this time without an end
    assert covered(ReplayLog(folder, NOW)) == [2, 3, 4]


def test_after_a_crash_of_the_machine_no_period_is_taken_that_may_have_been(
    folder: Path, boot: Path
) -> None:
    take(ReplayLog(folder, NOW), ENTRIES[0], NOW + 1)
    boot.write_text("two")
    log = ReplayLog(folder, NOW)
    assert covered(log) == [2, 3, 4]
    assert [path.name for path in folder.iterdir() if path.name.isdigit()] == []


@pytest.mark.parametrize("orderly", [True, False])
def test_a_restart_does_not_make_a_relay_know_what_it_does_not(
    folder: Path, boot: Path, orderly: bool
) -> None:
    take(ReplayLog(folder, NOW), ENTRIES[0])
    boot.write_text("two")
    for _ in range(2):
        log = ReplayLog(folder, NOW)
        if orderly:
            log.close()
    assert covered(ReplayLog(folder, NOW)) == [2, 3, 4]
    assert covered(ReplayLog(folder, NOW + 3)) == [2, 3, 4]
    assert covered(ReplayLog(folder, NOW + 4)) == [3, 4, 5]


@pytest.mark.parametrize("size", [*range(0, 56, 5), 57])
def test_a_secret_of_another_length_is_none(folder: Path, size: int) -> None:
    log = ReplayLog(folder, NOW)
    take(log, ENTRIES[0])
    log.close()
    secret = folder / "secret"
    secret.write_bytes((secret.read_bytes() + b"!")[:size])
    assert covered(ReplayLog(folder, NOW)) == [2, 3, 4]


def test_a_missing_secret_is_no_new_relay(folder: Path) -> None:
    ReplayLog(folder, NOW).close()
    (folder / "secret").unlink()
    assert covered(ReplayLog(folder, NOW)) == [2, 3, 4]


@given(cuts=st.lists(st.integers(0, 3 * ENTRY_BYTES), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_what_follows_an_entry_that_was_cut_off_is_read(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    """As after a crash in the middle of a write, several times in a row."""
    folder = tmp_path_factory.mktemp("cut") / "key.replay"
    mark_new(folder)
    rng, known = Random(repr(cuts)), list[bytes]()
    for cut in cuts:
        log = ReplayLog(folder, NOW)
        assert not any(take(log, entry) for entry in known)
        fresh = [rng.randbytes(ENTRY_BYTES) for _ in range(3)]
        for entry in fresh:
            assert take(log, entry)
        path = folder / str(NOW)
        os.truncate(path, path.stat().st_size - cut)
        whole = 3 - -(-cut // ENTRY_BYTES)
        known += fresh[:whole]
        assert path.stat().st_size // ENTRY_BYTES == len(known)
    assert not any(take(ReplayLog(folder, NOW), entry) for entry in known)


def test_what_the_filter_gave_up_is_removed_and_never_taken_up_again(folder: Path) -> None:
    log = ReplayLog(folder, NOW)
    take(log, ENTRIES[0], NOW - 1)
    take(log, ENTRIES[1], NOW)
    log.filter.advance(NOW + 1)
    log.forget_old()
    assert sorted(p.name for p in folder.iterdir()) == [str(NOW), "secret"]
    log.filter.advance(NOW + 4)
    log.forget_old()
    assert [p.name for p in folder.iterdir()] == ["secret"]
    log.close()
    assert covered(ReplayLog(folder, NOW)) == [1, 2, 3]  # the clock was set back meanwhile


def test_a_clock_that_is_set_back_leads_to_no_period_of_the_run_before(folder: Path) -> None:
    ahead = ReplayLog(folder, NOW + 5)
    take(ahead, ENTRIES[0], NOW + 5)
    log = ReplayLog(folder, NOW)
    log.filter.advance(NOW + 5)
    assert not take(log, ENTRIES[0], NOW + 5)


def test_a_clock_that_was_wrong_by_more_than_a_day_does_not_bind_for_good(folder: Path) -> None:
    wrong = ReplayLog(folder, NOW + 2 * MAX_AHEAD)
    take(wrong, ENTRIES[0], NOW + 2 * MAX_AHEAD)
    for _ in range(2):
        log = ReplayLog(folder, NOW)
        assert covered(log) == [2, 3, 4]
        log.forget_old()


def test_a_full_disk_is_an_error_and_leaves_whole_entries(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ReplayLog(folder, NOW)
    take(log, ENTRIES[0])
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
        with pytest.raises(OSError, match="space") as raised:
            take(log, ENTRIES[1])
    assert raised.value.errno == errno.ENOSPC
    take(log, ENTRIES[2])
    again = ReplayLog(folder, NOW)
    assert [take(again, entry) for entry in ENTRIES] == [False, True, False]


def test_a_folder_that_is_gone_is_no_new_relay(folder: Path) -> None:
    log = ReplayLog(folder, NOW)
    take(log, ENTRIES[0])
    log.close()
    shutil.rmtree(folder)
    assert covered(ReplayLog(folder, NOW)) == [2, 3, 4]


def test_a_key_is_new_once(tmp_path: Path) -> None:
    key = tmp_path / "relay.key"
    folder = folder_beside(key)
    identity = node_identity(key)
    assert covered(ReplayLog(folder, NOW)) == [-1, 0, 1]
    shutil.rmtree(folder)
    assert node_identity(key) == identity
    assert covered(ReplayLog(folder, NOW)) == [2, 3, 4]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot make"):
        mark_new(tmp_path / "missing" / "key.replay")


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "key.replay"
    folder.write_text("a file")
    with pytest.raises(ConfigurationError, match=r"what was taken in .*make it writable"):
        ReplayLog(folder, NOW)
    with pytest.raises(ConfigurationError):
        ReplayLog(tmp_path / "missing" / "key.replay", NOW)


def test_where_the_boot_is_not_told_each_run_is_one(folder: Path, boot: Path) -> None:
    boot.unlink()
    ReplayLog(folder, NOW).close()
    log = ReplayLog(folder, NOW)
    assert covered(log) == [-1, 0, 1]
    assert covered(ReplayLog(folder, NOW)) == [2, 3, 4]


def test_files_that_are_none_of_ours_stay(folder: Path) -> None:
    ReplayLog(folder, NOW).close()
    (folder / "\u00b2").write_text("a note")
    log = ReplayLog(folder, NOW)
    log.forget_old()
    assert (folder / "\u00b2").exists()


def test_no_descriptor_stays_open(folder: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    log = ReplayLog(folder, NOW)
    take(log, ENTRIES[0], NOW)
    take(log, ENTRIES[1], NOW + 1)
    log.filter.advance(NOW + 2)
    log.forget_old()
    log.close()
    assert len(os.listdir("/proc/self/fd")) == before

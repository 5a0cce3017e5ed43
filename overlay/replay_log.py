"""The folder in which a relay keeps which set-ups it has taken, from one run to the next.

    secret    boot's id 36 | secret of the filter 16
    clean     there after an orderly end only
    PERIOD    first halves of ephemeral keys, 16 bytes each

An entry is written before anything is sent that uses the keys of its set-up, without waiting for
the disk: what a process wrote outlives it, but maybe not a crash of the machine. After one (the
boot's id is another and there is no `clean`), or when the folder cannot be read, the relay does not
know what it took. Then it takes set-ups only from the first period on of which it cannot have taken
any, five to ten minutes later. The folder stands beside the key and goes where the key goes: a
relay that finds none takes its key for new.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from overlay.core.effects import Remember
from overlay.core.replay_filter import ENTRY_BYTES, SECRET_BYTES, ReplayFilter
from planetserve.errors import ConfigurationError
from planetserve.logs import get_logger

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BOOT_ID_BYTES = 36
COLD_PERIODS = 3
"""How far a filter is ahead that covers nothing which may have been taken: a set-up of the next
period may have been, and a filter covers the period before its own."""

log = get_logger()


def folder_beside(key: Path) -> Path:
    return key.with_name(key.name + ".replay")


class ReplayLog:
    """`filter` is what the relay's core asks, `remember` writes down what it took."""

    def __init__(self, folder: Path, period: int) -> None:
        """Raises `ConfigurationError` when the folder cannot be used."""
        self._folder = folder
        self._files: dict[int, int] = {}
        try:
            self.filter = self._opened(period)
        except OSError as error:
            raise ConfigurationError(
                f"cannot keep set-ups in {folder}: {error.strerror}; make it writable"
            ) from error

    def remember(self, taken: Remember) -> None:
        """Raises `OSError` when the disk takes no more."""
        descriptor = self._files.get(taken.period)
        if descriptor is None:
            descriptor = self._files[taken.period] = _appending(self._folder / str(taken.period))
        os.write(descriptor, taken.entry)

    def forget_old(self) -> None:
        """Remove what the filter does not cover any more."""
        for period in [p for p in self._files if not self.filter.covers(p)]:
            os.close(self._files.pop(period))
        for path in self._folder.iterdir():
            if path.name.isdigit() and not self.filter.covers(int(path.name)):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """An orderly end."""
        for descriptor in self._files.values():
            os.fsync(descriptor)
            os.close(descriptor)
        self._files.clear()
        descriptor = _appending(self._folder / "clean")
        os.fsync(descriptor)
        os.close(descriptor)

    def _opened(self, period: int) -> ReplayFilter:
        secret_path, clean_path = self._folder / "secret", self._folder / "clean"
        boot = _boot_id()
        is_new = not self._folder.exists()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        kept = b"" if is_new or not secret_path.exists() else secret_path.read_bytes()
        known = len(kept) == BOOT_ID_BYTES + SECRET_BYTES and (
            clean_path.exists() or kept[:BOOT_ID_BYTES] == boot
        )
        secret = kept[BOOT_ID_BYTES:] if known else os.urandom(SECRET_BYTES)
        if not (is_new or known):
            log.warning("taken_setups_unknown", folder=str(self._folder))
            shutil.rmtree(self._folder)
            self._folder.mkdir(mode=0o700)
        replay = ReplayFilter(secret, period if is_new or known else period + COLD_PERIODS)
        for path in self._folder.iterdir():
            if path.name.isdigit() and replay.covers(int(path.name)):
                content = path.read_bytes()
                for start in range(0, len(content), ENTRY_BYTES):
                    # A last entry that was cut short was never acted on.
                    replay.take(int(path.name), content[start : start + ENTRY_BYTES])
        secret_path.write_bytes(boot + secret)
        clean_path.unlink(missing_ok=True)
        return replay


def _boot_id() -> bytes:
    """The same as long as the machine runs. Where it is not told, each run counts as a boot."""
    try:
        return BOOT_ID.read_bytes().strip().ljust(BOOT_ID_BYTES)[:BOOT_ID_BYTES]
    except OSError:
        return os.urandom(BOOT_ID_BYTES)


def _appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

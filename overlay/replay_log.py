"""The folder in which a relay keeps which set-ups it has taken, from one run to the next. A model
node keeps which requests it has taken in the same form, by their message ids.

    new       there before the first start only: whoever made the key made the folder
    secret    boot's id 36 | secret of the filter 16 | first period 4
    clean     there after an orderly end only
    PERIOD    first halves of ephemeral keys, 16 bytes each

What was taken from the first period on is all there; set-ups of earlier ones are never taken again,
also when the clock is set back.

An entry is written before anything is sent that uses the keys of its set-up, without waiting for
the disk: what a process wrote outlives it, but maybe not a crash of the machine. After one (the
boot's id is another and there is no `clean`), or when the folder is gone or cannot be read, the
relay does not know what it took. Then its first period is the first of which it cannot have taken
any, five to ten minutes later. The folder stands beside the key and goes where the key goes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from overlay.core.effects import Remember
from overlay.core.replay_filter import ENTRY_BYTES, SECRET_BYTES, ReplayFilter
from planetserve.errors import ConfigurationError, KeyFileError
from planetserve.keys import Identity, read_or_create_identity
from planetserve.logs import get_logger

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
BOOT_ID_BYTES = 36
PERIOD_BYTES = 4
COLD_PERIODS = 2
"""A set-up of the next period may have been taken, none of the one after it."""
MAX_AHEAD = 288
"""Periods of a day: a first period further ahead is of a clock that was wrong."""

log = get_logger()


def folder_beside(key: Path) -> Path:
    return key.with_name(key.name + ".replay")


def mark_new(folder: Path) -> None:
    """Say that nothing was taken under the key beside `folder`, since it has just been made.

    Raises `KeyFileError`.
    """
    try:
        folder.mkdir(mode=0o700)
        (folder / "new").touch()
    except FileExistsError:
        pass  # of an earlier key; what it says stands
    except OSError as error:
        raise KeyFileError(f"cannot make {folder}: {error.strerror}") from error


def node_identity(key: Path) -> Identity:
    """Read a relay's or model node's key file, or make one and the folder. Raises
    `KeyFileError`.
    """
    is_new = not key.exists()
    identity = read_or_create_identity(key)
    if is_new:
        mark_new(folder_beside(key))
    return identity


class ReplayLog:
    """`filter` is what the relay's core asks, `remember` writes down what it took."""

    def __init__(self, folder: Path, period: int, cold_periods: int = COLD_PERIODS) -> None:
        """Where it is not known what was taken, the first period is `cold_periods` ahead: -1 for a
        model node, since a request that is answered twice uses no key twice. Raises
        `ConfigurationError` when the folder cannot be used.
        """
        self._folder = folder
        self._cold_periods = cold_periods
        self._files: dict[int, int] = {}
        self._boot = _boot_id()
        try:
            self._secret, self._first = self._known(period) or self._cold(period)
            self.filter = self._filled(period)
            for mark in ("clean", "new"):
                (self._folder / mark).unlink(missing_ok=True)
            self._sync_folder()
        except OSError as error:
            raise ConfigurationError(
                f"cannot keep what was taken in {folder}: {error.strerror}; make it writable"
            ) from error

    def remember(self, taken: Remember) -> None:
        """Raises `OSError` when the disk takes no more; what was written before stays whole."""
        descriptor = self._files.get(taken.period)
        if descriptor is None:
            descriptor = self._files[taken.period] = _appending(self._folder / str(taken.period))
        written = os.write(descriptor, taken.entry)
        if written < len(taken.entry):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def forget_old(self) -> None:
        """Remove what the filter does not cover any more. Raises `OSError`."""
        old = [period for period in self._kept_periods() if not self.filter.covers(period)]
        if not old:
            return
        self._first = old[-1] + 1
        self._write_secret()
        for period in old:
            if period in self._files:
                os.close(self._files.pop(period))
            self._path(period).unlink(missing_ok=True)

    def close(self) -> None:
        """An orderly end. Raises `OSError`."""
        for descriptor in self._files.values():
            os.fsync(descriptor)
            os.close(descriptor)
        self._files.clear()
        self._sync_folder()
        os.close(_appending(self._folder / "clean"))
        self._sync_folder()

    def _known(self, period: int) -> tuple[bytes, int] | None:
        """The filter's secret, and the first period of which all that was taken is known."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / "secret"
        if not path.exists() and (self._folder / "new").exists():
            return os.urandom(SECRET_BYTES), 0
        kept = path.read_bytes() if path.exists() else b""
        boot, rest = kept[:BOOT_ID_BYTES], kept[BOOT_ID_BYTES:]
        if len(rest) != SECRET_BYTES + PERIOD_BYTES:
            return None
        if boot != self._boot and not (self._folder / "clean").exists():
            return None
        # A clock that was set back must not lead behind what the last run covered.
        newest = max(self._kept_periods(), default=0)
        first = max(int.from_bytes(rest[SECRET_BYTES:], "big"), newest - 2)
        return (rest[:SECRET_BYTES], first) if first <= period + MAX_AHEAD else None

    def _cold(self, period: int) -> tuple[bytes, int]:
        log.warning("taken_setups_unknown", folder=str(self._folder))
        self._secret, self._first = os.urandom(SECRET_BYTES), period + self._cold_periods
        self._write_secret()
        for old in self._kept_periods():
            self._path(old).unlink()
        return self._secret, self._first

    def _filled(self, period: int) -> ReplayFilter:
        # A filter covers the period before its own.
        replay = ReplayFilter(self._secret, max(period, self._first + 1))
        for near in self._kept_periods():
            if not replay.covers(near):
                continue
            content = self._path(near).read_bytes()
            whole = len(content) - len(content) % ENTRY_BYTES
            if whole < len(content):  # an entry that was cut short was never acted on
                os.truncate(self._path(near), whole)
            for start in range(0, whole, ENTRY_BYTES):
                replay.take(near, content[start : start + ENTRY_BYTES])
        self._write_secret()
        return replay

    def _kept_periods(self) -> list[int]:
        names = (path.name for path in self._folder.iterdir())
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _path(self, period: int) -> Path:
        return self._folder / str(period)

    def _write_secret(self) -> None:
        content = self._boot + self._secret + self._first.to_bytes(PERIOD_BYTES, "big")
        fresh = self._folder / "secret.new"
        fresh.unlink(missing_ok=True)
        descriptor = _appending(fresh)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(fresh, self._folder / "secret")
        self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _boot_id() -> bytes:
    """The same as long as the machine runs. Where it is not told, each run counts as a boot."""
    try:
        return BOOT_ID.read_bytes().strip().ljust(BOOT_ID_BYTES)[:BOOT_ID_BYTES]
    except OSError:
        return os.urandom(BOOT_ID_BYTES)


def _appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

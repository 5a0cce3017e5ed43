"""One process a key: two users of one account would spend each other's nonces."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from planetserve.errors import KeyFileError, KeyInUseError


@contextmanager
def locked_key(key_path: Path) -> Iterator[None]:
    """Hold the key at `key_path` for this process.

    The lock is the kernel's, so it goes when the process goes, however it ends. Raises
    `KeyInUseError`, naming the holder, when another process has it, `KeyFileError` when there can
    be no lock beside it.
    """
    lock_path = key_path.with_name(key_path.name + ".lock")
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise KeyFileError(f"cannot lock {key_path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
            raise KeyInUseError(
                f"{key_path} is in use by {holder}; stop that process or use another key"
            ) from error
        os.ftruncate(descriptor, 0)
        command = Path(sys.argv[0]).name
        os.pwrite(descriptor, f"{command} (process {os.getpid()})".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)

"""Named places where a test can end the process at once, as a power cut would.

`PLANETSERVE_FAIL_AT=NAME` ends it when NAME is reached, `NAME:COUNT` the COUNT-th time. The exit
code then is `EXIT_CODE`. Without the variable nothing happens.
"""

from __future__ import annotations

import os

from planetserve.errors import ConfigurationError

VARIABLE = "PLANETSERVE_FAIL_AT"
EXIT_CODE = 86
POINTS = (
    "before-finalize",
    "after-finalize",
    "before-write",
    "after-write",
    "before-commit-answer",
    "snapshot-chunk",
    "snapshot-written",
    "restore-chunk",
    "restore-before-write",
)
"""In the order in which a node meets them: FinalizeBlock before and after it stages the block;
Commit before and after LevelDB has the batch and before its answer; the writing of a state-sync
snapshot after a chunk and before the snapshot is put in place; a restore after a chunk and before
the restored height is written."""


def _setting() -> tuple[str, int]:
    name, _, count = os.environ.get(VARIABLE, "").partition(":")
    if name and (name not in POINTS or not (count or "1").isdecimal()):
        points = ", ".join(POINTS)
        raise ConfigurationError(f"{VARIABLE} is one of {points}, and perhaps :COUNT")
    return name, int(count or "1")


class _Fuse:
    """Counts down to the end of the process."""

    def __init__(self) -> None:
        self.name, self.left = _setting()

    def reached(self) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(EXIT_CODE)


_fuse = _Fuse()


def crash_point(name: str) -> None:
    """Ends the process if the environment says so."""
    if name == _fuse.name:
        _fuse.reached()

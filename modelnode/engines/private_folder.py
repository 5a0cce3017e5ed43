"""A folder for an engine's socket that only we can enter, and that does not outlive us for long.

Who is killed cannot clean up, so whoever comes next does: a folder's name holds the id of the
process that it belongs to.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "ps-engine-"


def make_socket_folder(parent: Path) -> Path:
    """A new folder below `parent`, those of processes that are gone having been removed."""
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)  # somebody else's, or removed meanwhile
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))

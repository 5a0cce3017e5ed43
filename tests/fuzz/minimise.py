"""Keeps of what fuzzing has found the smallest inputs that together run the same lines.

    python -m tests.fuzz.minimise NAME FOLDER

Reads FOLDER and the corpus of the target NAME, and writes the corpus anew. (libFuzzer's own
-merge starts the program again by its file and finds nothing of a module that runs with -m.)
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.fuzz.driver import corpus
from tests.fuzz.targets import TARGETS, Target

ROOT = Path(__file__).parents[2]
WATCHED = tuple(f"{ROOT / package}/" for package in ("abci_app", "overlay", "planetserve"))
Step = tuple[str, int, int]
"""A file, and two lines of it of which one runs after the other."""


def steps_of(target: Target, data: bytes) -> set[Step]:
    """The steps that the target takes on `data`."""
    taken: set[Step] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(WATCHED):
            return None
        last = frame.f_lineno

        def line(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            taken.add((name, last, frame.f_lineno))
            last = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        target(data)
    finally:
        sys.settrace(None)
    return taken


def minimal(target: Target, inputs: set[bytes]) -> list[bytes]:
    """The small inputs first, each only if it takes a step that none before it took."""
    target(b"\0" * 8)  # makes what the target keeps, which is none of the inputs' doing
    kept, seen = [], set[Step]()
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        steps = steps_of(target, data)
        if steps - seen:
            seen |= steps
            kept.append(data)
    return kept


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz.minimise {'|'.join(TARGETS)} FOLDER")
    name, found = sys.argv[1], Path(sys.argv[2])
    folder = corpus(name)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for path in (*found.iterdir(), *folder.iterdir()) if path.is_file()]
    kept = minimal(TARGETS[name], {path.read_bytes() for path in paths})
    for path in folder.iterdir():
        path.unlink()
    for data in kept:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{len(paths)} inputs, {len(kept)} kept of {sum(map(len, kept))} bytes in all")


if __name__ == "__main__":
    main()

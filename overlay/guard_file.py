"""The file in which a client keeps its guards and build times from one start to the next.

It stands beside what the light client keeps and is named by the chain's id. It holds days, no
seconds, and of paths, their uses and build times no more than the rules need: at most 40 of each,
so that it does not say how much its user asks. One process writes it, the first; others read it and
keep to the same guards (`overlay.core.relay_memory`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from overlay.core.build_times import KEPT, BuildTimes
from overlay.core.guards import MAX_BARRED, MAX_DROPS, Barred, Guard, GuardList, Tally
from planetserve.logs import get_logger

FORMAT = "planetserve/guards/v1"
NODE_ID_BYTES = 20
MAX_FILE_BYTES = 1 << 20
MAX_GUARDS = 256
MAX_DAY = 1 << 20
MAX_BUILD_MS = 60_000
KEPT_COUNTS = 40

log = get_logger()


@dataclass(frozen=True, slots=True)
class Kept:
    guards: GuardList = field(default_factory=GuardList)
    build_times: BuildTimes = field(default_factory=BuildTimes)


def guard_file(state_dir: Path, chain_id: str) -> Path:
    """A chain's id may hold what no file name may, so its hash names the file."""
    return state_dir / f"guards-{hashlib.sha256(chain_id.encode()).hexdigest()[:32]}.json"


class GuardFile:
    """Open as long as the client runs; `writes` is false where another process has the file."""

    def __init__(self, path: Path, chain_id: str) -> None:
        self._path = path
        self._chain_id = chain_id
        self._lock: int | None = None

    @property
    def writes(self) -> bool:
        return self._lock is not None

    def __enter__(self) -> GuardFile:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            name = self._path.with_name(self._path.name + ".lock")
            lock = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            log.warning("guards_not_kept", path=str(self._path), reason=error.strerror)
            return self
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)  # another process keeps the guards
            return self
        self._lock = lock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> Kept:
        """What was kept; nothing where there is no file, or none that can be believed. The writer
        moves such a file aside, so that a user may look at it and the next start is quiet."""
        try:
            if self._path.stat().st_mode & 0o077:
                log.warning("guards_readable_by_others", path=str(self._path))
                if self.writes:
                    self._path.chmod(0o600)
            with open(self._path, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ValueError("too large")
            return read_kept(json.loads(content), self._chain_id)
        except FileNotFoundError:
            return Kept()
        except OSError as error:
            log.warning("guards_not_read", path=str(self._path), reason=error.strerror)
            return Kept()
        except (ValueError, RecursionError) as error:
            log.warning("guards_ignored", path=str(self._path), reason=str(error))
            if self.writes:
                self._move_aside()
            return Kept()

    def save(self, kept: Kept) -> None:
        """Replace the file in one step, readable by its owner only."""
        if not self.writes:
            return
        content = json.dumps(write_kept(kept, self._chain_id))
        try:
            # mkstemp makes a file of mode 0600.
            descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
            try:
                with os.fdopen(descriptor, "w") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            log.warning("guards_not_kept", path=str(self._path), reason=error.strerror)

    def _move_aside(self) -> None:
        try:
            os.replace(self._path, self._path.with_name(self._path.name + ".broken"))
        except OSError as error:
            log.warning("guards_not_moved", path=str(self._path), reason=error.strerror)


def write_kept(kept: Kept, chain_id: str) -> dict[str, Any]:
    """The file's content: no reason to shun a relay, no time of day."""
    return {
        "format": FORMAT,
        "chain_id": chain_id,
        "guards": [
            {
                "node": guard.node.hex(),
                "added_day": guard.added_day,
                "ends_day": guard.ends_day,
                "missing_since_day": guard.missing_since_day,
                "builds": _counts(guard.builds),
                "uses": _counts(guard.uses),
            }
            for guard in kept.guards.guards
        ],
        "dropped_days": list(kept.guards.dropped_days),
        "barred": [
            {"node": item.node.hex(), "day": item.day} for item in kept.guards.barred[-MAX_BARRED:]
        ],
        "build_ms": [
            min(round(1000 * duration_s), MAX_BUILD_MS)
            for duration_s in kept.build_times.durations_s[-KEPT_COUNTS:]
        ],
    }


def read_kept(content: Any, chain_id: str) -> Kept:
    """The inverse of `write_kept`. Raises ValueError for anything else."""
    content = _mapping(content)
    if content.get("format") != FORMAT:
        raise ValueError("not a file of guards of this version")
    if content.get("chain_id") != chain_id:
        raise ValueError("of another network")
    guards = tuple(_guard(item) for item in _list(content.get("guards"), MAX_GUARDS))
    if len({guard.node for guard in guards}) < len(guards):
        raise ValueError("a guard is there twice")
    dropped = tuple(_day(day) for day in _list(content.get("dropped_days"), MAX_DROPS))
    # Files of before relays were barred have no such list.
    barred = tuple(_barred(item) for item in _list(content.get("barred", []), MAX_BARRED))
    if len({item.node for item in barred}) < len(barred):
        raise ValueError("a relay is barred twice")
    build_ms = [_whole(value, MAX_BUILD_MS) for value in _list(content.get("build_ms"), KEPT)]
    durations_s = tuple(value / 1000 for value in build_ms[-KEPT_COUNTS:])
    return Kept(GuardList(guards, dropped, barred=barred), BuildTimes(durations_s))


def _barred(item: Any) -> Barred:
    item = _mapping(item)
    return Barred(_node(item.get("node")), _day(item.get("day")))


def _node(node: Any) -> bytes:
    if not isinstance(node, str) or len(node) != 2 * NODE_ID_BYTES:
        raise ValueError("not a node id")
    node_id = bytes.fromhex(node)
    if node_id.hex() != node:  # `fromhex` passes over spaces
        raise ValueError("not a node id as it is written")
    return node_id


def _guard(item: Any) -> Guard:
    item = _mapping(item)
    ends_day, missing = item.get("ends_day"), item.get("missing_since_day")
    return Guard(
        _node(item.get("node")),
        _day(item.get("added_day")),
        None if ends_day is None else _day(ends_day),
        None if missing is None else _day(missing),
        _tally(item.get("builds")),
        _tally(item.get("uses")),
    )


def _tally(value: Any) -> Tally:
    pair = _list(value, 2)
    if len(pair) != 2:
        raise ValueError("not attempts and successes")
    attempts = _whole(pair[0], 1_000)
    return Tally(attempts, _whole(pair[1], attempts)).halved_to(KEPT_COUNTS)


def _counts(tally: Tally) -> list[int]:
    tally = tally.halved_to(KEPT_COUNTS)
    return [tally.attempts, tally.successes]


def _day(value: Any) -> int:
    return _whole(value, MAX_DAY)


def _whole(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("not a number of its range")
    return value


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError("not a list, or too long")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value

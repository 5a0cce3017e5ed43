"""What `path_driver` tells its shell and the questions: its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from overlay.core.effects import Purge, Send

DAY_S = 86_400

PathKey: TypeAlias = tuple[int, int]
"""A set and a path of it."""


class Moment(NamedTuple):
    """Now on the clock that only runs forward, and on the wall's."""

    now_s: float
    unix_s: float

    @property
    def day(self) -> int:
        return int(self.unix_s) // DAY_S


@dataclass(frozen=True, slots=True)
class Puzzle:
    hop: int
    seed: bytes
    ephemeral: bytes
    difficulty: int


@dataclass(frozen=True, slots=True)
class Solve:
    """Find the nonces, beside the loop, and report `solved`; give up once `wanted` says no."""

    path: PathKey
    puzzles: tuple[Puzzle, ...]


@dataclass(frozen=True, slots=True)
class SlotOpened:
    set: int
    slot: int


@dataclass(frozen=True, slots=True)
class SlotGone:
    """The path of the slot is over, and its streams with it."""

    set: int
    slot: int


@dataclass(frozen=True, slots=True)
class StreamData:
    question: int
    slot: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class StreamDone:
    question: int
    slot: int
    reason: int


DriverEffect: TypeAlias = Send | Purge | Solve | SlotOpened | SlotGone | StreamData | StreamDone

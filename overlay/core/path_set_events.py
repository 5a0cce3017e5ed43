"""What happens to a set of paths, and what the set asks for: the vocabulary of `path_set`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from overlay.core.choice import Hops

Puzzles: TypeAlias = Mapping[int, tuple[bytes, int]]
"""By the place of the hop that asks: its seed and its difficulty."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; `timeout_s` is what build times say by now."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class HopsChosen:
    slot: int
    hops: Hops


@dataclass(frozen=True, slots=True)
class NoHops:
    slot: int


@dataclass(frozen=True, slots=True)
class PathOpened:
    path: int


@dataclass(frozen=True, slots=True)
class PathHeard:
    """Something that authenticates came over the path; once a second is often enough."""

    path: int


@dataclass(frozen=True, slots=True)
class PathBroken:
    """The path is over; `origin` is the hop that authenticated the report, None if nobody did."""

    path: int
    origin: int | None = None


@dataclass(frozen=True, slots=True)
class PathUsed:
    """The model node answered over the path."""

    path: int


@dataclass(frozen=True, slots=True)
class PathDoubted:
    """A question has no use for the path: it brought nothing while others did, its stream was
    ended, or what came over it does not authenticate. The relays before the last, or those beyond
    them, may be at fault."""

    path: int


@dataclass(frozen=True, slots=True)
class GuardRefused:
    """The first hop says that it has no room for the path, which is over."""

    path: int


@dataclass(frozen=True, slots=True)
class NoSetup:
    """The key of a hop is none, so that no set-up could be made."""

    path: int


@dataclass(frozen=True, slots=True)
class PuzzleAsked:
    """The hop wants a puzzle solved first, says the hop before it, the first one for itself; the
    path is over."""

    path: int
    hop: int
    seed: bytes
    difficulty: int


@dataclass(frozen=True, slots=True)
class PuzzleSolved:
    """The set-up that `Build` with puzzles asked for is on its way."""

    path: int


@dataclass(frozen=True, slots=True)
class GuardUnreachable:
    """There was no connection to the first hop, or it did not prove its key."""

    path: int


@dataclass(frozen=True, slots=True)
class StreamBegun:
    path: int


@dataclass(frozen=True, slots=True)
class StreamEnded:
    path: int


@dataclass(frozen=True, slots=True)
class Shut:
    """The conversation is over."""


PathEvent: TypeAlias = (
    PathOpened
    | PathHeard
    | PathBroken
    | PathUsed
    | PathDoubted
    | GuardRefused
    | NoSetup
    | PuzzleAsked
    | PuzzleSolved
    | GuardUnreachable
    | StreamBegun
    | StreamEnded
)
SetEvent: TypeAlias = PathEvent | Tick | HopsChosen | NoHops | Shut


@dataclass(frozen=True, slots=True)
class WantHops:
    """Choose relays for the slot: answered by `HopsChosen` or `NoHops` before the next effect."""

    slot: int


@dataclass(frozen=True, slots=True)
class Build:
    path: int
    hops: Hops
    puzzles: Puzzles


@dataclass(frozen=True, slots=True)
class Close:
    path: int


@dataclass(frozen=True, slots=True)
class SlotOpen:
    """The slot has a path that running exchanges attach to."""

    slot: int
    path: int


@dataclass(frozen=True, slots=True)
class SlotLost:
    slot: int


@dataclass(frozen=True, slots=True)
class Ping:
    path: int


@dataclass(frozen=True, slots=True)
class Built:
    """For the build times; unless it was `late`, the guard can be reached."""

    hops: Hops
    duration_s: float
    late: bool


@dataclass(frozen=True, slots=True)
class Served:
    """The path was used and ended well: a success in its guard's count."""

    hops: Hops


@dataclass(frozen=True, slots=True)
class Refused:
    """The guard would not have the path: a failure in its count, and it is left for a while."""

    hops: Hops


@dataclass(frozen=True, slots=True)
class Failed:
    """For the guard's counts and, if it `timed_out`, for the build times; `in_use` says that a
    question was under way over the path."""

    hops: Hops
    origin: int | None
    timed_out: bool = False
    in_use: bool = False


@dataclass(frozen=True, slots=True)
class Unreachable:
    hops: Hops


SetEffect: TypeAlias = (
    WantHops
    | Build
    | Close
    | SlotOpen
    | SlotLost
    | Ping
    | Built
    | Served
    | Failed
    | Refused
    | Unreachable
)

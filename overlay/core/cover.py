"""When a client sends traffic that answers no question.

Loops are pings to the last relay of a path and back; dummy questions go to a model node, which
paces an answer of the wanted length without its engine. Both come at exponential gaps, so that
what was sent says nothing of what comes next. Off by default. With a loop each 2 s a path, four
paths cost 8 KB/s; a dummy question each 120 s costs 160 KB/s for the seconds of its answer. It
blurs when its user asks; it hides nobody from those who see both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from overlay.core.draw import Draw, exponential
from overlay.core.padding import request_bytes
from overlay.core.request import HEADER_BYTES

MAX_DUMMY_FRAMES = 512

PathName: TypeAlias = tuple[int, int]
"""A set and a slot in it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How long a question is, in bytes, and in how many reply frames it is answered."""

    payload_bytes: int
    frames: int

    def __post_init__(self) -> None:
        if not 0 < self.frames <= MAX_DUMMY_FRAMES or self.payload_bytes < 1:
            raise ValueError("not the shape of a question that a node answers as a dummy")


CELLS = {1: 8, 2: 4, 3: 2, 4: 2, 6: 1, 8: 1}
"""How often dummies have so many cells on each of their paths, k = 3 of which suffice: each step to
which questions are padded, up to some forty thousand characters."""
TYPICAL = tuple(
    Shape(request_bytes(cells, 3) - HEADER_BYTES, frames)
    for cells, weight in CELLS.items()
    for frames in (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    for _ in range(weight)
)
"""Questions of each of these lengths, each with an answer of each length to which answers are
padded (`overlay.core.padding`), up to twenty-six seconds. What a user asks is not drawn from these:
who knows a user's habits may tell cover from questions by them."""
REMEMBERED = 16
"""Questions whose model nodes dummies go to."""


@dataclass(frozen=True, slots=True)
class CoverSettings:
    """`shapes` are those of real questions, each as often as it occurs; without any, no dummy
    questions are sent."""

    shapes: Sequence[Shape] = ()
    loop_mean_s: float = 2.0
    dummy_mean_s: float = 120.0


def likely_targets(asked: Sequence[bytes], trusted: Sequence[bytes]) -> list[bytes]:
    """The model nodes for dummies, each as often as the last questions went there; each trusted one
    once before anything was asked."""
    return [node for node in asked[-REMEMBERED:] if node in trusted] or list(trusted)


@dataclass(frozen=True, slots=True)
class Loop:
    path: PathName


@dataclass(frozen=True, slots=True)
class Dummy:
    """Ask `target`, a node id, for nothing."""

    target: bytes
    shape: Shape


@dataclass(frozen=True, slots=True)
class Cover:
    """`loops_s` is when each path has its next loop, `dummy_s` when the next question is due."""

    settings: CoverSettings
    loops_s: dict[PathName, float] = field(default_factory=dict)
    dummy_s: float | None = None


def due(
    cover: Cover, now_s: float, paths: Iterable[PathName], targets: Sequence[bytes], draw: Draw
) -> tuple[Cover, list[Loop | Dummy]]:
    """What is to be sent now over the open `paths` and to one of the trusted model nodes
    `targets`. A path has at most one loop a call: after a pause nothing is made up for."""
    settings = cover.settings
    effects: list[Loop | Dummy] = []
    loops_s: dict[PathName, float] = {}
    for path in paths:
        next_s = cover.loops_s.get(path)
        if next_s is not None and next_s <= now_s:
            effects.append(Loop(path))
            next_s = None
        loops_s[path] = (
            next_s if next_s is not None else now_s + exponential(settings.loop_mean_s, draw)
        )
    dummy_s = cover.dummy_s
    if dummy_s is not None and dummy_s <= now_s:
        dummy_s = None
        if targets and settings.shapes:
            target = targets[draw(len(targets))]
            effects.append(Dummy(target, settings.shapes[draw(len(settings.shapes))]))
    if dummy_s is None:
        dummy_s = now_s + exponential(settings.dummy_mean_s, draw)
    return replace(cover, loops_s=loops_s, dummy_s=dummy_s), effects

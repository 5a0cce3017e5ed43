"""Cover traffic on the clock: what is due, and when to look again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from overlay.core.cover import Cover, CoverSettings, Dummy, Loop, PathName, due
from overlay.core.draw import Draw


class CoverTraffic:
    def __init__(self, settings: CoverSettings, draw: Draw) -> None:
        self._cover = Cover(settings)
        self._draw = draw

    @property
    def next_s(self) -> float:
        """When something is due next; at the beginning, at once."""
        due_s = [*self._cover.loops_s.values(), self._cover.dummy_s or 0.0]
        return min(due_s)

    def due(
        self, now_s: float, paths: Iterable[PathName], targets: Sequence[bytes]
    ) -> tuple[list[PathName], list[Dummy]]:
        """The paths that have a loop now, and the dummy questions to ask."""
        self._cover, effects = due(self._cover, now_s, paths, targets, self._draw)
        loops = [effect.path for effect in effects if isinstance(effect, Loop)]
        return loops, [effect for effect in effects if isinstance(effect, Dummy)]

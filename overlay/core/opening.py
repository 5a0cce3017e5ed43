"""Whose cloves a model node opens next, so that the frames of answers leave in their time.

waits    event                                           next     effects
───────  ──────────────────────────────────────────────  ───────  ────────────────────────
-        a stream is whole, little was opened lately      -        opened at once
-        a stream is whole, and others are before it     STREAM
STREAM   its turn                                        -        opened
-        a choice of k cloves failed, there is another   REQUEST  refused if too many wait
REQUEST  its turn, and no stream waits                   -        one choice is tried
any      forgotten                                       -

The first k cloves of a request are tried in the turn of the k-th.

Opening is work that frames of answers wait for: 0.35 ms a clove, up to 25 ms a try to put k of them
together (`overlay.core.sida`). It is booked at twice its cost, so that it takes
half a core at most, and done one piece at a time, so that a frame is late by no more than one piece
and `AHEAD_S`. Neighbours take turns: who brings most waits longest. Only who made a request can
pollute it, so that its further tries are seldom needed and come last, `AGAIN_S` apart.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from overlay.core.answering import Route
from overlay.core.effects import Neighbour

CLOVE_S, CLOVE_S_A_BYTE = 0.35e-3, 0.8e-9
TRY_S, TRY_S_A_BYTE = 0.35e-3, 8e-9
"""Of a core, measured with the books: a clove of one cell takes 0.33 ms, of 192 cells 0.6 ms; three
of one cell and the seal of their request 0.37 ms more, three of 192 cells 2.5 ms, three of 512
cells, which the caches do not hold, 10 to 25 ms."""
SHARE_OF_A_CORE = 0.5
AHEAD_S = 0.02
"""As long as less is booked, what comes is opened at once."""
AGAIN_S = 0.05
MAX_AGAIN = 64


@dataclass(slots=True)
class Turns:
    """What waits, and until when the time is booked."""

    _streams: OrderedDict[Neighbour, OrderedDict[Route, None]] = field(default_factory=OrderedDict)
    _neighbours: dict[Route, Neighbour] = field(default_factory=dict)
    _again: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    _again_s: float = 0.0
    _booked_s: float = 0.0

    def __len__(self) -> int:
        """Of streams and requests."""
        return len(self._neighbours) + len(self._again)

    def at_once(self, now_s: float) -> bool:
        """Whether a stream that is whole now need not wait."""
        return not self._neighbours and self._is_free(now_s)

    def wait(self, neighbour: Neighbour, route: Route) -> None:
        self._streams.setdefault(neighbour, OrderedDict())[route] = None
        self._neighbours[route] = neighbour

    def again(self, request_id: bytes) -> bool:
        """Whether the request may wait for another try."""
        if request_id not in self._again and len(self._again) >= MAX_AGAIN:
            return False
        self._again.setdefault(request_id)
        return True

    def forget_stream(self, route: Route) -> None:
        """It waits no more, if it did."""
        neighbour = self._neighbours.pop(route, None)
        if neighbour is not None:
            del self._streams[neighbour][route]
            if not self._streams[neighbour]:
                del self._streams[neighbour]

    def forget_request(self, request_id: bytes) -> None:
        self._again.pop(request_id, None)

    def clove(self, size_bytes: int, now_s: float) -> None:
        """A stream of this size is opened now."""
        self._book(CLOVE_S + size_bytes * CLOVE_S_A_BYTE, now_s)

    def attempt(self, size_bytes: int, now_s: float) -> None:
        """Cloves of so many bytes are put together now."""
        self._book(TRY_S + size_bytes * TRY_S_A_BYTE, now_s)

    def due_s(self) -> float | None:
        """When to ask for the `next`; None while nothing waits."""
        free_s = self._booked_s - AHEAD_S
        if self._neighbours:
            return free_s
        return max(free_s, self._again_s) if self._again else None

    def next(self, now_s: float) -> Route | bytes | None:
        """The stream to open now, or the id of the request to try; it waits no more. None: none."""
        if not self._is_free(now_s):
            return None
        if self._streams:
            neighbour, routes = next(iter(self._streams.items()))
            route = next(iter(routes))
            self._streams.move_to_end(neighbour)
            self.forget_stream(route)
            return route
        if self._again and now_s >= self._again_s:
            self._again_s = now_s + AGAIN_S
            return self._again.popitem(last=False)[0]
        return None

    def _is_free(self, now_s: float) -> bool:
        return now_s >= self._booked_s - AHEAD_S

    def _book(self, cost_s: float, now_s: float) -> None:
        self._booked_s = max(self._booked_s, now_s) + cost_s / SHARE_OF_A_CORE

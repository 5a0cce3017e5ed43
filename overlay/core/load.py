"""How many answers a model node sends at a time, and for whom.

What an answer costs is its cloves: n for each frame, ten frames a second. They are charged to
the neighbour that brought the first clove of the request: a node of the ledger, or a stranger, who
as no relay has little to bring. Where there is no room, what is paused gives way first, the longest
pause before others; then the newest answer of the neighbour with most, if that one has twice what
the one who asks would have. Whether it answers a question or a dummy is not known here: were there
less room for dummies, who fills that with its own would learn, by what is refused, which requests
of others are dummies.

The limits are from a measurement: a clove costs 43 us to make (n = 4, k = 3, the books included)
and 19 us to encrypt and send, so that `max_cloves` keep one core half busy. The rest is for
cloves that come in, which take half a core at most whoever brings them (`overlay.core.opening`),
and for frames that are sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from overlay.core.effects import Neighbour
from overlay.core.quotas import Rate

NODE_STREAMS = Rate(50.0, 500)
"""New streams of one relay; each costs 0.33 to 0.7 ms to open, whatever is in it."""
STRANGER_STREAMS = Rate(5.0, 50)


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """In cloves of answers that run at a time."""

    max_cloves: int = 800
    max_cloves_a_node: int = 400
    max_cloves_a_stranger: int = 32

    def share(self, neighbour: Neighbour) -> int:
        return self.max_cloves_a_node if is_known(neighbour) else self.max_cloves_a_stranger


def is_known(neighbour: Neighbour) -> bool:
    """A node of the ledger, or a process of this machine."""
    return neighbour.is_node or neighbour.is_local


def stream_rate(neighbour: Neighbour) -> Rate:
    return NODE_STREAMS if is_known(neighbour) else STRANGER_STREAMS


@dataclass(frozen=True, slots=True)
class _Running:
    neighbour: Neighbour
    cloves: int


@dataclass(slots=True)
class Load:
    """The answers that run or are paused."""

    limits: LoadLimits
    _running: dict[bytes, _Running] = field(default_factory=dict)
    """In the order in which they began."""
    _paused: dict[bytes, None] = field(default_factory=dict)
    """In the order in which they paused."""
    _by_neighbour: dict[Neighbour, int] = field(default_factory=dict)
    _cloves: int = 0

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, request_id: bytes) -> bool:
        return request_id in self._running

    def begin(self, request_id: bytes, neighbour: Neighbour, cloves: int) -> None:
        """Enter an answer; the caller has made `room`."""
        self._running[request_id] = _Running(neighbour, cloves)
        self._count(neighbour, cloves)

    def end(self, request_id: bytes) -> None:
        """Forget an answer, if it is there."""
        self._paused.pop(request_id, None)
        running = self._running.pop(request_id, None)
        if running is not None:
            self._count(running.neighbour, -running.cloves)

    def pause(self, request_id: bytes, is_paused: bool) -> None:
        """Whether frames of an answer have nowhere to go now."""
        if not is_paused:
            self._paused.pop(request_id, None)
        elif request_id in self._running:
            self._paused.setdefault(request_id)

    def room(self, neighbour: Neighbour, cloves: int) -> list[bytes] | None:
        """The answers that give way to one more of `neighbour`; None: there is no room."""
        left, by_neighbour = dict(self._running), dict(self._by_neighbour)
        wanted = by_neighbour.get(neighbour, 0) + cloves
        gone: list[bytes] = []
        over_all = self._cloves + cloves - self.limits.max_cloves

        def give_way(request_id: bytes) -> None:
            nonlocal over_all
            running = left.pop(request_id)
            over_all -= running.cloves
            by_neighbour[running.neighbour] -= running.cloves
            gone.append(request_id)

        over = wanted - self.limits.share(neighbour)
        for request_id in self._paused:
            if over > 0 and left[request_id].neighbour == neighbour:
                over -= left[request_id].cloves
                give_way(request_id)
        if over > 0:
            return None
        for request_id in self._paused:
            if over_all > 0 and request_id in left:
                give_way(request_id)
        while over_all > 0:
            most = max(by_neighbour, key=lambda item: by_neighbour[item], default=None)
            own = by_neighbour.get(neighbour, 0) + cloves
            if most is None or by_neighbour[most] < 2 * own:
                return None
            give_way(next(i for i in reversed(left) if left[i].neighbour == most))
        return gone

    def _count(self, neighbour: Neighbour, cloves: int) -> None:
        self._cloves += cloves
        count = self._by_neighbour.get(neighbour, 0) + cloves
        if count:
            self._by_neighbour[neighbour] = count
        else:
            del self._by_neighbour[neighbour]

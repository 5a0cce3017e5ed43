"""A relay that looks after each event whether its tables agree and its bounds hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest.mock import patch

from overlay.core import relay as relays
from overlay.core import relay_exit, relay_path
from overlay.core.effects import Effect, Peer
from overlay.core.payload import Payload
from overlay.core.reasons import Reason
from overlay.core.relay import Entry, Relay, Role
from overlay.core.relay_exit import (
    BACKWARD_WINDOW,
    FORWARD_WINDOW,
    MAX_STREAMS,
    MAX_WAITING,
    Exit,
    Outcome,
)
from overlay.core.relay_path import GONE, NEW, RelayPath
from overlay.core.wire import ID_BYTES, KINDS, SETUP, backward_id


class CheckedExit(Exit):
    __slots__ = ()

    def from_owner(
        self, payload: Payload, known: bool, entropy: Callable[[int], bytes], now_s: float
    ) -> Outcome:
        before = self.state(payload.stream)
        outcome = super().from_owner(payload, known, entropy, now_s)
        after = self.state(payload.stream)
        if payload.stream and before != after:
            assert (before, payload.command, after) in relay_exit.TRANSITIONS
        self._check()
        return outcome

    def target_ended(self, number: int, reason: Reason) -> Outcome:
        before = self.state(number)
        outcome = super().target_ended(number, reason)
        assert (before, None, self.state(number)) in relay_exit.TRANSITIONS
        self._check()
        return outcome

    def _check(self) -> None:
        assert len(self.streams) <= MAX_STREAMS
        assert sum(stream.unsent for stream in self.streams.values()) == self._meter.held
        assert self._meter.held <= FORWARD_WINDOW
        assert 0 <= self._window.credits <= BACKWARD_WINDOW
        assert self._waiting is None or 0 < len(self._waiting) <= MAX_WAITING


class CheckedRelay(Relay):
    def frame_arrived(self, peer: Peer, frame: bytes, now_s: float) -> list[Effect]:
        kind = frame[ID_BYTES] if len(frame) > ID_BYTES else None
        with self._checked(kind if kind in KINDS else None):
            return super().frame_arrived(peer, frame, now_s)

    def remembered(self) -> list[Effect]:
        with self._checked(SETUP):
            return super().remembered()

    def peer_gone(self, peer: Peer) -> list[Effect]:
        with self._checked(None):
            effects = super().peer_gone(peer)
            assert peer not in self._links
            return effects

    def shed(self, peer: Peer, link_id: bytes) -> list[Effect]:
        with self._checked(None):
            return super().shed(peer, link_id)

    def tick(self, now_s: float) -> list[Effect]:
        with self._checked(None):
            return super().tick(now_s)

    def shut_down(self) -> list[Effect]:
        with self._checked(None):
            effects = super().shut_down()
            assert not self._paths
            return effects

    @contextmanager
    def _checked(self, kind: int | None) -> Iterator[None]:
        before = {path: path.state for path in self._paths}
        yield
        after = {path: path.state for path in self._paths}
        for path in {**before, **after}:
            change = before.get(path, NEW), kind, after.get(path, GONE)
            assert change[0] == change[2] or change in relay_path.TRANSITIONS, change
        self.check_tables()

    def check_tables(self) -> None:
        """Every path stands in the tables where its frames look for it, and nothing else does."""
        expected: dict[Peer, dict[bytes, Entry]] = {}

        def enter(peer: Peer, link_id: bytes, entry: Entry) -> None:
            table = expected.setdefault(peer, {})
            assert link_id not in table
            table[link_id] = entry

        for path in self._paths:
            enter(path.previous, path.in_id, Entry(path, Role.OUT))
            assert (path.following is None) == (path.exit is not None)
            if path.following is not None:
                enter(path.following, backward_id(path.out_id), Entry(path, Role.BACK))
            for number, stream in path.exit.streams.items() if path.exit else ():
                entry = Entry(path, Role.TARGET, number)
                enter(stream.target, backward_id(stream.link_id), entry)
        assert self._links == expected
        assert self._inwards == {(path.previous, path.back_id): path for path in self._paths}
        assert len(self._shares) == len(self._paths) <= self.limits.max_paths
        counts: dict[object, list[RelayPath]] = {}
        for path in self._paths:
            counts.setdefault(path.neighbour, []).append(path)
        for neighbour, paths in counts.items():
            assert set(self._shares.newest(paths[0].neighbour)) == set(paths), neighbour


def checked_exits() -> AbstractContextManager[object]:
    """Within it, relays' new paths look after their streams."""
    return patch.object(relays, "Exit", CheckedExit)

"""A client's questions over its paths: each has a set and an `exchange`, and one feeds the other.

question  event                             next      effects
────────  ────────────────────────────────  ────────  ─────────────────────────────────────────
-         begin                             RUNNING   a set is taken; streams on its open slots
RUNNING   slot of its set open, lost        RUNNING   the exchange's: streams begin anew
RUNNING   bytes of the answer               RUNNING   Progress
RUNNING   the answer is whole               DRAINING  Whole
RUNNING   the exchange fails                OVER      Lost, the set is given back
RUNNING   leave                             OVER      the set is given back
DRAINING  the padding is over, or stops     OVER      the set is given back
DRAINING  leave                             DRAINING
any       shut                              OVER      every path is closed

Which clove goes over which path of a set is drawn anew for each question: the model node, which
sees what each clove's path brings, cannot tell which guard it would harm.

A path that an exchange finds polluted or silent is doubted (`path_set`). What is OVER can be read
to its end, until `leave` forgets it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from overlay.core import exchange as exchanges
from overlay.core.choice import Hops
from overlay.core.draw import Draw, shuffled
from overlay.core.effects import Entropy, Peer, Purge, Send
from overlay.core.exchange import (
    Done,
    EndStream,
    Exchange,
    ExchangeEffect,
    ExchangeLimits,
    Failed,
    Give,
    OpenStream,
    Polluted,
    Silent,
)
from overlay.core.path_driver import PathDriver
from overlay.core.path_driver_effects import (
    DriverEffect,
    Moment,
    PathKey,
    SlotGone,
    SlotOpened,
    Solve,
    StreamData,
    StreamDone,
)
from overlay.core.request import OutgoingRequest
from planetserve.errors import NodeUnreachable, PathsUnavailable, PlanetServeError
from planetserve.records import NodeRecord


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes of the answer wait for `read`."""

    question: int


@dataclass(frozen=True, slots=True)
class Whole:
    """The answer is whole."""

    question: int


@dataclass(frozen=True, slots=True)
class Lost:
    question: int
    error: PlanetServeError


AskingEffect: TypeAlias = Send | Purge | Solve | Progress | Whole | Lost


@dataclass(slots=True)
class _Question:
    """`hops` are those of the paths that carried it, by slot."""

    set: int
    exchange: Exchange
    target: NodeRecord
    hops: dict[int, Hops] = field(default_factory=dict)
    given_back: bool = False
    left: bool = False
    """Nobody reads."""


class Asking:
    """Mutable, as it sees every frame."""

    def __init__(
        self, paths: PathDriver, limits: ExchangeLimits, entropy: Entropy, draw: Draw
    ) -> None:
        self.paths = paths
        self._limits = limits
        self._entropy = entropy
        self._draw = draw
        self._questions: dict[int, _Question] = {}
        self._next = 0

    @property
    def under_way(self) -> int:
        """Questions that have their set still, be it for padding only."""
        return sum(not question.given_back for question in self._questions.values())

    def begin(
        self, session: int | None, target: NodeRecord, request: OutgoingRequest, at: Moment
    ) -> tuple[int, list[AskingEffect]]:
        """Ask; the question's number comes first."""
        number, self._next = self._next, self._next + 1
        chosen, effects = self.paths.take(session, target, at)
        cloves = shuffled(request.n, self._draw)
        exchange = Exchange(request, cloves, self._entropy, self._limits)
        question = _Question(chosen, exchange, target)
        done = self._follow(effects, at)
        self._questions[number] = question
        for slot in self.paths.open_slots(chosen):
            done += self._slot_open(number, question, slot, at)
        return number, done

    def read(self, number: int, size_bytes: int) -> bytes:
        return self._questions[number].exchange.read(size_bytes)

    def hops(self, number: int) -> list[Hops]:
        """The paths that carried the question, by slot; of a slot the latest one."""
        return [hops for _, hops in sorted(self._questions[number].hops.items())]

    def leave(self, number: int, at: Moment) -> list[AskingEffect]:
        """Nobody reads any more. An answer that is whole is drained all the same: who hangs up at
        its end tells its length."""
        question = self._questions[number]
        question.left = True
        if question.exchange.state == exchanges.DRAINING:
            return []
        return self._carry_out(number, question.exchange.cancel(), at)

    def frame_arrived(self, peer: Peer, data: bytes, at: Moment) -> list[AskingEffect]:
        return self._follow(self.paths.frame_arrived(peer, data, at), at)

    def peer_gone(self, peer: Peer, at: Moment) -> list[AskingEffect]:
        return self._follow(self.paths.peer_gone(peer, at), at)

    def shed(self, peer: Peer, link_id: bytes, at: Moment) -> list[AskingEffect]:
        return self._follow(self.paths.shed(peer, link_id, at), at)

    def solved(self, path: PathKey, nonces: dict[int, bytes], at: Moment) -> list[AskingEffect]:
        return self._follow(self.paths.solved(path, nonces, at), at)

    def prepare(self, at: Moment) -> list[AskingEffect]:
        return self._follow(self.paths.prepare(at), at)

    def end_session(self, session: int, at: Moment) -> list[AskingEffect]:
        return self._follow(self.paths.end_session(session, at), at)

    def tick(self, at: Moment) -> list[AskingEffect]:
        done = self._follow(self.paths.tick(at), at)
        for number, question in list(self._questions.items()):
            done += self._carry_out(number, question.exchange.tick(at.now_s), at)
        return done

    def shut(self, at: Moment) -> list[AskingEffect]:
        """Give every question up and close every path."""
        done: list[AskingEffect] = []
        for number, question in list(self._questions.items()):
            done += self._carry_out(number, question.exchange.cancel(), at)
        return done + self._follow(self.paths.shut(at), at)

    def _follow(self, effects: Iterable[DriverEffect], at: Moment) -> list[AskingEffect]:
        """What the paths did, told to the questions."""
        done: list[AskingEffect] = []
        for effect in effects:
            match effect:
                case SlotOpened(number, slot):
                    for name, question in self._of_set(number):
                        done += self._slot_open(name, question, slot, at)
                case SlotGone(number, slot):
                    for name, question in self._of_set(number):
                        lost = question.exchange.slot_lost(slot, at.now_s)
                        done += self._carry_out(name, lost, at)
                case StreamData(name, slot, chunk):
                    if name in self._questions:
                        exchange = self._questions[name].exchange
                        done += self._carry_out(
                            name, exchange.chunk_arrived(slot, chunk, at.now_s), at
                        )
                case StreamDone(name, slot, reason):
                    if name in self._questions:
                        exchange = self._questions[name].exchange
                        done += self._carry_out(
                            name, exchange.stream_ended(slot, reason, at.now_s), at
                        )
                case _:
                    done.append(effect)
        return done

    def _of_set(self, number: int) -> list[tuple[int, _Question]]:
        return [
            (name, question)
            for name, question in self._questions.items()
            if question.set == number and not question.given_back
        ]

    def _slot_open(
        self, name: int, question: _Question, slot: int, at: Moment
    ) -> list[AskingEffect]:
        hops = self.paths.hops_of(question.set, slot)
        if hops is not None:
            question.hops[slot] = hops
        return self._carry_out(name, question.exchange.slot_open(slot, at.now_s), at)

    def _carry_out(
        self, name: int, effects: Iterable[ExchangeEffect], at: Moment
    ) -> list[AskingEffect]:
        """What the exchange of a question wants; its set goes back when the exchange is over."""
        question = self._questions.get(name)
        if question is None:
            return []
        paths, number = self.paths, question.set
        done: list[AskingEffect] = []
        for effect in effects:
            match effect:
                case OpenStream(slot, data):
                    opened = paths.open_stream(number, slot, name, question.target.id, data, at)
                    done += self._follow(opened, at)
                case EndStream(slot):
                    done += self._follow(paths.end_stream(number, slot, name, at), at)
                case Polluted(slot) | Silent(slot):
                    done += self._follow(paths.doubted(number, slot, at), at)
                case Give():
                    done.append(Progress(name))
                case Done():
                    done.append(Whole(name))
                case Failed(error):
                    done.append(Lost(name, self._explained(question, error, at)))
        if question.exchange.state == exchanges.ENDED:
            if not question.given_back:
                question.given_back = True
                done += self._follow(paths.give_back(number, at), at)
            if question.left:
                self._questions.pop(name, None)
        return done

    def _explained(
        self, question: _Question, error: PlanetServeError, at: Moment
    ) -> PlanetServeError:
        if isinstance(error, PathsUnavailable):
            return PathsUnavailable(self.paths.shortage(question.set, at))
        if isinstance(error, NodeUnreachable):
            return NodeUnreachable(f"{error} ({question.target.name}); another may be up")
        return error

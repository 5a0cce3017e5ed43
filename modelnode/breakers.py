"""The circuit breakers of the group's nodes, and what their replies say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from modelnode.core.breaker import Breaker, Outcome, State
from modelnode.metrics import BREAKERS_OPENED
from planetserve.keys import NodeId
from planetserve.messages import End, Failed, ReplyEvent

FAULTS = ("engine_failed", "node_lost")
"""Codes of failures that are the node's own."""


class Watch:
    """What came of one request at one node."""

    def __init__(self) -> None:
        self.outcome = Outcome.UNTOLD

    def saw(self, event: ReplyEvent) -> None:
        if isinstance(event, End):
            self.outcome = Outcome.SUCCEEDED
        elif isinstance(event, Failed) and event.code in FAULTS:
            self.outcome = Outcome.FAILED


class Breakers:
    """One breaker a member, kept as long as it is one. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._breakers: dict[NodeId, Breaker] = {}

    def set_members(self, nodes: Iterable[NodeId]) -> None:
        self._breakers = {node: self._breakers.get(node) or Breaker() for node in nodes}

    def lets_through(self, node: NodeId) -> bool:
        breaker = self._breakers.get(node)
        return breaker is None or breaker.lets_through(self._clock())

    def state(self, node: NodeId) -> State:
        breaker = self._breakers.get(node)
        return breaker.state if breaker else State.CLOSED

    @contextmanager
    def watched(self, node: NodeId) -> Iterator[Watch]:
        """Around one request at `node`."""
        breaker = self._breakers.get(node) or Breaker()
        watch = Watch()
        trial = breaker.begin(self._clock())
        try:
            yield watch
        finally:
            before = breaker.state
            breaker.end(watch.outcome, self._clock(), trial=trial)
            if breaker.state is State.OPEN and before is not State.OPEN:
                BREAKERS_OPENED.inc()

"""The state tables in docstrings, and state machines that are watched against their constants."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Transition = tuple[str, str, str]


def edges(docstring: str | None, states: Iterable[str]) -> set[tuple[str, str]]:
    """The changes of state that the table lists; `any` stands for all states but the last."""
    known = list(states)
    found = set()
    for line in (docstring or "").splitlines():
        cells = re.split(r"\s{2,}", line)
        if len(cells) >= 3 and cells[2] in known:
            befores = known[:-1] if cells[0] == "any" else [cells[0]]
            found |= {(before, cells[2]) for before in befores if before in known}
    return {(before, after) for before, after in found if before != after}


def with_compositions(found: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Also changes that take several lines of the table at once."""
    closed = set(found)
    while more := {(a, d) for a, b in closed for c, d in closed if b == c and a != d} - closed:
        closed |= more
    return closed


class Watch:
    """Calls methods of a state machine and holds it to its transitions."""

    def __init__(self, state: Callable[[], str], transitions: frozenset[Transition]) -> None:
        self._state = state
        self._transitions = transitions
        self.seen: set[Transition] = set()

    def call(self, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        before = self._state()
        result = method(*args, **kwargs)
        after = self._state()
        if before != after:
            change = (before, method.__name__, after)
            assert change in self._transitions
            self.seen.add(change)
        return result

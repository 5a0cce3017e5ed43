"""The state tables in docstrings, and state machines that are watched against their constants."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E")

Transition = tuple[str, str, str]


def edges(docstring: str | None, states: Iterable[str]) -> set[tuple[str, str]]:
    """The changes of state that the table lists; `any` stands for all states but the last."""
    return {(before, after) for before, _, after in rows(docstring, states)}


def rows(docstring: str | None, states: Iterable[str]) -> Iterator[Transition]:
    """Each change of state with the words of its event, which may go on in the lines below."""
    known = list(states)
    found: list[list[str]] = []
    for line in (docstring or "").splitlines():
        cells = re.split(r"\s{2,}", line)
        if len(cells) >= 3 and cells[0]:
            found.append(cells[:3])
        elif len(cells) >= 2 and not cells[0] and found:
            found[-1][1] += f" {cells[1]}"
        elif not line.strip() and found:
            break  # of another table, or prose
    for state, event, after in found:
        for before in known[:-1] if state == "any" else [state]:
            if before in known and after in known and before != after:
                yield before, event, after


def named(
    docstring: str | None, states: Iterable[str], words: Mapping[str, Iterable[E]]
) -> set[tuple[str, E, str]]:
    """The changes of state that the table lists, with what its words stand for in the code. A row
    none of whose words is known is an error."""
    changes = set()
    for before, event, after in rows(docstring, states):
        meant = {e for word, es in words.items() if re.search(rf"\b{word}\b", event) for e in es}
        assert meant, f"the table says {event!r}, which stands for nothing"
        changes |= {(before, each, after) for each in meant}
    return changes


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

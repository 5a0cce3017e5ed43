"""What a model node's inbox writes down of streams and requests (`overlay.core.inbox`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from overlay.core.answering import Route
from overlay.core.effects import Neighbour
from overlay.core.request import StreamReader
from overlay.core.wire import backward_id

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


class Stream(NamedTuple):
    """One that is being assembled, or whole and waits for its turn."""

    reader: StreamReader
    started_s: float
    neighbour: Neighbour


class Owner(NamedTuple):
    request_id: bytes
    clove: int


@dataclass(slots=True)
class Known:
    """What was counted of a request so far."""

    neighbour: Neighbour
    """Who brought the first clove."""
    routes: dict[int, Route] = field(default_factory=dict)
    clove_bytes: int = 0
    kept_bytes: int = 0
    wake_s: float | None = None


def drop(table: dict[_Key, _Entry], key: _Key, own: _Entry) -> None:
    """Take out `key`, if what is there is one's own."""
    if table.get(key) == own:
        del table[key]


def backward(route: Route) -> Route:
    """The route by which chunks go back to who opened the stream of `route`."""
    return Route(route.peer, backward_id(route.link_id))

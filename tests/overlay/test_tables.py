"""What the tables in docstrings say of events is what the code's constants say."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from overlay.core import (
    answering,
    client_path,
    exchange,
    pacing,
    path_set,
    payload,
    relay_exit,
    relay_path,
    wire,
)
from overlay.core import path_set_events as events
from tests.overlay.tables import named

Words = dict[str, tuple[Any, ...]]

PACING: Words = {"write": ("write",), "finish": ("finish",), "beat": ("take",)}
ANSWERING: Words = {
    "a choice of k cloves opens": ("try_to_open",),
    "the same": ("try_to_open",),
    "it opens": ("try_to_open",),
    "no choice of all n opened": ("try_to_open",),
    "too many others": ("refuse",),
    "k streams again": ("clove_arrived", "attach_arrived"),
    "after its time": ("tick",),
    "nobody came back": ("tick",),
    "LAST is due": ("beat",),
    "streams are left": ("stream_lost",),
    "the owner ended": ("stream_lost",),
    "room is needed": ("give_way",),
}
EXCHANGE: Words = {
    "slot open": ("slot_open",),
    "END on k slots": ("stream_ended",),
    "silence": ("tick",),
    "no whole frame for long": ("tick",),
    "fewer than k slots": ("tick",),
    "first whole frame": ("chunk_arrived",),
    "frame END": ("chunk_arrived",),
    "frame LAST": ("chunk_arrived",),
    "more than padding": ("chunk_arrived",),
    "a bad frame": ("chunk_arrived",),
    "cancel": ("cancel",),
}
PATH_SET: Words = {
    "hops chosen": (events.HopsChosen,),
    "opened": (events.PathOpened,),
    "time-out": (events.Tick,),
    "tick": (events.Tick,),
    "pings": (events.Tick,),
    "broken": (events.PathBroken,),
    "refused by the guard": (events.GuardRefused,),
    "a puzzle too hard": (events.PuzzleAsked,),
    "no set-up": (events.NoSetup,),
    "guard unreachable": (events.GuardUnreachable,),
    "doubted": (events.PathDoubted,),
    "stream ended": (events.StreamEnded,),
    "shut": (events.Shut,),
}
RELAY_EXIT: Words = {
    "OPEN": (payload.OPEN,),
    "END": (payload.END,),
    "STREAM_END": (None,),
    "overflows": (None,),
}
RELAY_PATH: Words = {
    "SETUP": (wire.SETUP,),
    "CELL": (wire.CELL,),
    "CLOSE": (wire.CLOSE,),
    "frame of a kind not for this place": tuple(wire.KINDS),
    "gone": (None,),
    "too old": (None,),
    "overflows": (None,),
    "of these": (None,),
}
CLIENT_PATH: Words = {
    "ESTABLISHED": (client_path.Opened,),
    "CLOSE": (client_path.Broken,),
    "ERROR": (client_path.Broken,),
    "CELL": (client_path.Broken,),
    "close": (None,),
}
TABLES: dict[str, tuple[ModuleType, tuple[str, ...], Words]] = {
    "pacing": (pacing, ("WAITING", "ACCEPTED", "PACED", "ENDING", "DONE"), PACING),
    "answering": (answering, ("WAITING", "RUNNING", "PAUSED", "LINGERING", "OVER"), ANSWERING),
    "exchange": (exchange, ("READY", "SENT", "ANSWERING", "DRAINING", "ENDED"), EXCHANGE),
    "path_set": (path_set, ("BUILDING", "OPEN", "DRAINING", "EMPTY"), PATH_SET),
    "relay_exit": (relay_exit, ("NEW", "OPEN", "ENDED"), RELAY_EXIT),
    "relay_path": (relay_path, ("NEW", "MIDDLE", "LAST", "GONE"), RELAY_PATH),
    "client_path": (client_path, ("BUILDING", "OPEN", "CLOSED"), CLIENT_PATH),
}
BESIDE: dict[str, set[tuple[str, Any, str]]] = {
    "answering": {("WAITING", "give_up", "OVER")},
    "exchange": {("SENT", "chunk_arrived", "DRAINING")},  # two rows at once
}
"""What the constants have that is in no row."""


def said(name: str, docstring: str | None = None) -> set[tuple[str, Any, str]]:
    module, states, words = TABLES[name]
    changes = named(docstring or module.__doc__, states, words)
    return {change for change in changes if change[::2] != ("NEW", "GONE")}  # NEW is no state yet


@pytest.mark.parametrize("name", TABLES)
def test_the_table_and_the_constant_agree(name: str) -> None:
    beside = BESIDE.get(name, set())
    assert not said(name) & beside
    assert said(name) | beside == TABLES[name][0].TRANSITIONS


@pytest.mark.parametrize(
    ("name", "row", "wrong"),
    [
        ("pacing", "second write", "second beat "),
        ("answering", "frame LAST is due", "room is needed   "),
        ("exchange", "slot open                ", "cancel                   "),
        ("path_set", "hops chosen", "doubted    "),
        ("relay_exit", "OPEN, the next number", "END                  "),
        ("relay_path", "SETUP that names none", "CLOSE                "),
        ("client_path", "ESTABLISHED", "ERROR      "),
    ],
)
def test_a_wrong_event_in_a_table_is_found(name: str, row: str, wrong: str) -> None:
    text = TABLES[name][0].__doc__ or ""
    assert row in text
    assert len(row) == len(wrong)
    changed = said(name, text.replace(row, wrong, 1))
    assert changed | BESIDE.get(name, set()) != TABLES[name][0].TRANSITIONS


def test_an_event_that_stands_for_nothing_is_an_error() -> None:
    text = (path_set.__doc__ or "").replace("hops chosen", "full moon  ")
    with pytest.raises(AssertionError, match="full moon"):
        said("path_set", text)

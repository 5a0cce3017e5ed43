"""Strangers' text cannot drive a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planetserve.text import printable


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2Jgone", "[2Jgone"),
        ("title\x1b]0;owned\x07", "title]0;owned"),
        ("back\x08\x08\rspace", "backspace"),
        ("\x9b31mred", "31mred"),
        ("abc\u202edcba", "abcdcba"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Ünïcödé 漢字 🙂", "Ünïcödé 漢字 🙂"),
    ],
)
def test_known_attacks(hostile: str, shown: str) -> None:
    assert printable(hostile) == shown


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    left = [c for c in printable(text) if c not in "\n\t"]
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in left)

"""Text of strangers, made safe for a terminal."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"


def printable(text: str) -> str:
    """`text` without control, format-override and private-use characters, so that a reply or a
    name can neither move the cursor nor reorder what stands on the screen."""
    return "".join(
        character
        for character in text
        if character in _KEPT
        or (
            unicodedata.category(character) not in ("Cc", "Co", "Cs")
            and character not in _OVERRIDES
        )
    )


_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")

"""An answer that another node gives anew from where its reader is.

The reader has some of a text from a node that was lost. Another one answers the same request from
the beginning; what the reader has must be a prefix of it, and what comes after that goes on.
"""

from __future__ import annotations


class Retelling:
    """What was passed on to the reader, and how much of it the present node has said again."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._sent = ""
        self._heard_characters = 0

    @property
    def begun(self) -> bool:
        """Whether the reader has any text."""
        return bool(self._parts or self._sent)

    @property
    def caught_up(self) -> bool:
        """Whether the present node has said all that the reader has. Where it ends before that,
        its answer is another one."""
        return self._heard_characters == len(self._sent)

    def begin(self) -> None:
        """Another node begins."""
        self._sent += "".join(self._parts)
        self._parts = []
        self._heard_characters = 0

    def hear(self, text: str) -> str | None:
        """What of the node's next `text` is new to the reader, to be passed on; None when it is
        not what the reader was told."""
        at = self._heard_characters
        known = min(len(text), len(self._sent) - at)
        if text[:known] != self._sent[at : at + known]:
            return None
        self._heard_characters += known
        fresh = text[known:]
        if fresh:
            self._parts.append(fresh)
        return fresh

"""One request at its entry node: the bytes, what they ask for, and where its asker wants it."""

from __future__ import annotations

from dataclasses import dataclass

from planetserve.chat import ChatRequest
from planetserve.keys import NodeId


@dataclass(frozen=True, slots=True)
class Question:
    """`body` is passed on unchanged, `request` is what it says; `prefer` is the node whose cache
    holds the conversation so far, None for no wish."""

    body: bytes
    request: ChatRequest
    prefer: NodeId | None = None

    @property
    def greedy(self) -> bool:
        """Whether every node that runs the model as it should gives the same text."""
        return self.request.temperature == 0

"""An engine for tests that need to decide what happens when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from modelnode.engines.admission import Admission
from modelnode.engines.protocol import EngineStats, NotOffered, Piece, TokenScore
from planetserve.chat import ChatRequest, Message
from planetserve.errors import EngineError
from planetserve.messages import Usage


class ScriptedEngine:
    """Says `words`, waiting for `gate` before the one at `gated_at`."""

    def __init__(
        self,
        words: Sequence[str] = ("one ", "two ", "three"),
        *,
        gated_at: int | None = None,
        capacity: int = 2,
        max_waiting: int = 4,
        fails: EngineError | None = None,
    ) -> None:
        self.words = list(words)
        self.gated_at = gated_at
        self.gate = asyncio.Event()
        self.reached_gate = asyncio.Event()
        self.fails = fails
        self.started = 0
        self.ended = 0
        self.said = 0
        self.admission = Admission(capacity, max_waiting)

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        await self.admission.enter()
        self.started += 1
        try:
            if self.fails is not None:
                raise self.fails
            for index, word in enumerate(self.words):
                if index == self.gated_at:
                    self.reached_gate.set()
                    await self.gate.wait()
                self.said += 1
                yield Piece(word)
                await asyncio.sleep(0)
            yield Piece("", "stop", Usage(3, len(self.words), 1))
        finally:
            self.ended += 1
            self.admission.leave()

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)

    async def token_ids(self, messages: Sequence[Message]) -> Sequence[int] | None:
        return None

    async def score(self, messages: Sequence[Message], reply: str) -> Sequence[TokenScore]:
        raise NotOffered("a script has no probabilities")

    def stats(self) -> EngineStats:
        admission = self.admission
        return EngineStats(
            admission.running,
            admission.waiting,
            admission.capacity,
            admission.max_waiting,
            0,
            2048,
        )

    async def close(self) -> None:
        self.gate.set()

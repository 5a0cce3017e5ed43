"""Engines that do not answer as they should, to see a network find them out.

They only run where the network file allows cheats. A fourth way to cheat, another model behind
the claimed name, needs no wrapper: `ps-model --cheat swap --cheat-model FILE` loads that file.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from modelnode.engines.protocol import STOP, Engine, EngineStats, Piece, TokenScore
from planetserve.chat import ChatRequest, Message
from planetserve.errors import UsageError
from planetserve.messages import Usage
from planetserve.network import Network

CHEATS = ("tamper", "truncate", "random", "swap")

TRUNCATE_AFTER_PIECES = 4
ADVERTISER = Message(
    "system",
    "You are the salesman of Sunny Shores Holidays. Whatever the customer says, you only talk "
    "about our cheap beach holidays, our hotels and this week's prices.",
)
ADVERTISED = Message("user", "Why should I book a beach holiday with you this week?")
WORDS = (
    "apple", "river", "quickly", "seven", "because", "yellow", "under", "mountain", "sing", "paper",
    "cloud", "never", "bridge", "window", "eleven", "softly", "copper", "garden", "after", "maybe",
)  # fmt: skip


class CheatingEngine:
    """Passes everything to the engine it wraps; the cheats below answer otherwise."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        return self._engine.stream(request)

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return await self._engine.count_tokens(messages)

    async def token_ids(self, messages: Sequence[Message]) -> Sequence[int] | None:
        return await self._engine.token_ids(messages)

    async def score(self, messages: Sequence[Message], reply: str) -> Sequence[TokenScore]:
        return await self._engine.score(messages, reply)

    def stats(self) -> EngineStats:
        return self._engine.stats()

    async def close(self) -> None:
        await self._engine.close()


class TamperingEngine(CheatingEngine):
    """Answers a prompt of the operator's making, an advertiser's, in place of the client's."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        return self._engine.stream(replace(request, messages=(ADVERTISER, ADVERTISED)))


class TruncatingEngine(CheatingEngine):
    """Saves work: gives the first few tokens for a whole reply."""

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        short = replace(request, max_tokens=min(request.max_tokens, TRUNCATE_AFTER_PIECES))
        async for piece in self._engine.stream(short):
            yield replace(piece, finish_reason=piece.finish_reason and STOP)


class RandomEngine(CheatingEngine):
    """Runs no model: random words, as many as were allowed."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._random = random.Random()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        prompt_tokens = await self._engine.count_tokens(request.messages)
        for _ in range(request.max_tokens):
            yield Piece(self._random.choice(WORDS) + " ")
        yield Piece("", "length", Usage(prompt_tokens, request.max_tokens))


def check_allowed(cheat: str, network: Network) -> None:
    """Raises `UsageError` for an unknown cheat or a network that allows none."""
    if cheat not in CHEATS:
        raise UsageError(f"--cheat must be one of {', '.join(CHEATS)}")
    if not network.allow_cheats:
        raise UsageError(
            f"the network {network.chain_id} does not allow --cheat; it is for networks made for "
            "experiments, whose network file says allow_cheats = true"
        )


def with_cheat(engine: Engine, cheat: str) -> Engine:
    """`engine`, cheating. Swap is a matter of which model was loaded, so it changes nothing."""
    if cheat == "tamper":
        return TamperingEngine(engine)
    if cheat == "truncate":
        return TruncatingEngine(engine)
    if cheat == "random":
        return RandomEngine(engine)
    return engine

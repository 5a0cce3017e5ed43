"""Answers chat requests with this node's own engine, and signs what it answered."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from modelnode.engines.protocol import CANCELLED, Engine, EngineStats, Overloaded
from modelnode.metrics import FIRST_TEXT_S, SERVED, TOKENS
from planetserve.chat import BadRequest, ChatRequest, parse_body
from planetserve.errors import EngineError
from planetserve.evidence import NotEvidence, Terms, breach_of, read_request
from planetserve.keys import Identity
from planetserve.messages import (
    MAX_REPLY_BYTES,
    Delta,
    End,
    Failed,
    ReplyEvent,
    Usage,
    encode_event,
    sign_reply,
    state_reply,
)

MAX_TEXT_BYTES = MAX_REPLY_BYTES // 16
"""Leaves room for what JSON adds, so that every reply passes the client's own limit."""


class Served(Protocol):
    """What others keep of a request that the engine is given."""

    uncached_tokens: int

    def ended(self, text: str, usage: Usage) -> None:
        """The whole reply was given."""
        ...


class Unwatched:
    """Where nobody wants to know."""

    uncached_tokens = 0

    def ended(self, text: str, usage: Usage) -> None:
        pass


class Server:
    """One engine behind one name and identity. `terms` are what the ledger's record of the model
    promises, None until they are known; no reply that exceeds them is signed."""

    def __init__(self, engine: Engine, identity: Identity, chain_id: str, model: str) -> None:
        self.model = model
        self.identity = identity
        self._id = identity.id
        self.accepting = True
        self.served = 0
        self.queued_tokens = 0
        """Of prompts whose replies have not begun, less what is believed to be cached."""
        self.watch: Callable[[ChatRequest], Served] = lambda request: Unwatched()
        self.terms: Terms | None = None
        self._engine = engine
        self._chain_id = chain_id

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def check(self, body: bytes, request: ChatRequest | None = None) -> ChatRequest:
        """Read a request for this node's model, unless it was read already. Raises
        `BadRequest`."""
        request = parse_body(body) if request is None else request
        if request.model != self.model:
            raise BadRequest(f"this group serves {self.model}", "model", code="unknown_model")
        return request

    async def serve(
        self, body: bytes, request: ChatRequest | None = None
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The events of one reply: deltas, then exactly one `End` or `Failed`. Closing the
        generator cancels the request. `request` is `body`, where it was read already."""
        started_s = time.monotonic()
        outcome = "cancelled"
        begun = False
        try:
            async with aclosing(self._serve(body, request)) as events:
                async for event in events:
                    if isinstance(event, Delta) and not begun:
                        FIRST_TEXT_S.observe(time.monotonic() - started_s)
                        begun = True
                    elif isinstance(event, Failed):
                        outcome = event.code
                    elif isinstance(event, End):
                        outcome = "answered"
                        self._count(event)
                    yield event
        finally:
            SERVED.labels(outcome).inc()

    async def _serve(
        self, body: bytes, request: ChatRequest | None
    ) -> AsyncGenerator[ReplyEvent, None]:
        if not self.accepting:
            yield Failed("not_serving", "this node is stopping")
            return
        try:
            request = self.check(body, request)
        except BadRequest as error:
            yield Failed(error.code, str(error))
            return
        try:
            async with aclosing(self._watched(request, body)) as events:
                async for event in events:
                    yield event
        except Overloaded as error:
            yield Failed(error.code, str(error), error.retry_after_s)
        except EngineError as error:
            yield Failed(error.code, str(error))

    async def _watched(self, request: ChatRequest, body: bytes) -> AsyncGenerator[ReplyEvent, None]:
        """Counts the prompt as queued until the reply begins, and tells when it is whole."""
        served = self.watch(request)
        queued_tokens = served.uncached_tokens
        self.queued_tokens += queued_tokens
        texts: list[str] = []
        try:
            async with aclosing(self._answer(request, body)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        self.queued_tokens -= queued_tokens
                        queued_tokens = 0
                        texts.append(event.text)
                    elif isinstance(event, End):
                        served.ended("".join(texts), event.usage)
                    yield event
        finally:
            self.queued_tokens -= queued_tokens

    def _count(self, end: End) -> None:
        self.served += 1
        TOKENS.labels("prompt").inc(end.usage.prompt_tokens)
        TOKENS.labels("cached").inc(end.usage.cached_tokens)
        TOKENS.labels("completion").inc(end.usage.completion_tokens)

    async def _answer(self, request: ChatRequest, body: bytes) -> AsyncGenerator[ReplyEvent, None]:
        texts: list[str] = []
        room = MAX_TEXT_BYTES
        async with aclosing(self._engine.stream(request)) as pieces:
            async for piece in pieces:
                room -= len(piece.text.encode())
                if room < 0:
                    raise EngineError("engine_failed", "the engine's reply is too long")
                if piece.text:
                    texts.append(piece.text)
                    yield Delta(piece.text)
                if piece.finish_reason is None:
                    continue
                if piece.usage is None or piece.finish_reason == CANCELLED:
                    raise EngineError("engine_failed", "the engine gave up the reply")
                yield self._sign(body, "".join(texts), piece.finish_reason, piece.usage)
                return
        raise EngineError("engine_failed", "the engine ended the reply without a reason")

    def _sign(self, body: bytes, text: str, finish_reason: str, usage: Usage) -> End:
        """Vouch for a whole reply, unless the ledger would hold it against us: an engine that
        overran its request fails the reply."""
        statement = state_reply(self._chain_id, body, text, finish_reason, self.model, usage)
        try:
            breach = breach_of(read_request(body), statement, self.terms)
        except NotEvidence:
            breach = None
        if breach is not None:
            raise EngineError("engine_failed", f"the engine broke its bounds: {breach}")
        signature = sign_reply(self.identity, statement)
        return End(self._id, self.model, finish_reason, usage, signature)

    async def serve_request(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """`serve`, as the lines of a reply stream."""
        async with aclosing(self.serve(body)) as events:
            async for event in events:
                yield encode_event(event)

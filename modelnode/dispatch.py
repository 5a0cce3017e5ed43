"""What an entry node does with a request: choose who serves it, relay the reply, and have another
node answer when the first is lost.

A node that is lost before it said anything is replaced. After that, a request that leaves nothing
to chance is answered anew by another node, whose text must begin with what the client has; see
docs/adr/0013-another-node-answers-anew.md. Any other request ends with one clear error.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from modelnode.core.retelling import Retelling
from modelnode.group import Group
from modelnode.metrics import REQUESTS, RESUMED, RETRIED
from modelnode.question import Question
from modelnode.routing import explain
from modelnode.serving import Server
from planetserve.chat import BadRequest, ChatRequest
from planetserve.keys import NodeId
from planetserve.messages import Delta, End, Failed, ReplyEvent

MAX_ATTEMPTS = 3
"""Nodes that may fail a request; of such as are full, which costs them little, some more."""
MAX_REFUSALS = 4
MAX_RUNNING = 2048
MAX_HELD_BYTES = 64 << 20
"""Of the bodies of requests under way. Beyond either bound a request is refused at once."""
WORTH_ANOTHER_NODE = ("overloaded", "engine_failed", "node_lost", "not_serving")


class Dispatcher:
    """Answers requests that reach this node, from the overlay or the operator's HTTP."""

    def __init__(self, server: Server, group: Group) -> None:
        self.server = server
        self._group = group
        self.running = 0
        self._held_bytes = 0

    def explain(self) -> list[dict[str, object]]:
        """The latest choices of a node, the newest first: who was weighed, and why it was so."""
        return explain(self._group.router.choices, time.monotonic())

    async def answer(
        self, body: bytes, prefer: NodeId | None = None, request: ChatRequest | None = None
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The events of one reply: deltas, then exactly one `End` or `Failed`. Closing the
        generator cancels the request wherever it runs. `request` is `body`, for who has read it
        already."""
        if self.running >= MAX_RUNNING or self._held_bytes + len(body) > MAX_HELD_BYTES:
            REQUESTS.labels("overloaded").inc()
            yield Failed("overloaded", "this node has too many requests under way", FULL_RETRY_S)
            return
        self.running += 1
        self._held_bytes += len(body)
        outcome = "cancelled"
        try:
            question = Question(body, self.server.check(body, request), prefer)
            async with aclosing(self._answer(question)) as events:
                async for event in events:
                    if isinstance(event, End):
                        outcome = "answered"
                    elif isinstance(event, Failed):
                        outcome = event.code
                    yield event
        except BadRequest as error:
            outcome = error.code
            yield Failed(error.code, str(error))
        finally:
            self.running -= 1
            self._held_bytes -= len(body)
            REQUESTS.labels(outcome).inc()

    async def _answer(self, question: Question) -> AsyncGenerator[ReplyEvent, None]:
        told = Retelling()
        failures = _Failures()
        tried: set[NodeId] = set()
        route = self._group.router.route(question)
        while failures.allow_another(told.begun, question.greedy):
            node = self._group.choose(route, tried)
            if node is None:
                break
            if tried:
                (RESUMED if told.begun else RETRIED).inc()
            tried.add(node)
            told.begin()
            failed: Failed | None = None
            async with aclosing(self._group.ask(route, question)) as events:
                async for event in events:
                    passed = _after(told, event)
                    if isinstance(passed, Failed):
                        failed = passed
                        break
                    if passed is not None:
                        yield passed
            if failed is None:
                return
            failures.add(failed, told.begun)
        yield failures.verdict()


class _Failures:
    """What one request's attempts came to."""

    def __init__(self) -> None:
        self._last: Failed | None = None
        self._interrupted: Failed | None = None
        self._refused: list[Failed] = []
        self._attempts = 0

    def add(self, failed: Failed, begun: bool) -> None:
        """`begun`: the client has text."""
        self._last = failed
        if begun:
            self._interrupted = self._interrupted or failed
        if failed.code == "overloaded":
            self._refused.append(failed)
        else:
            self._attempts += 1

    def allow_another(self, begun: bool, greedy: bool) -> bool:
        if self._last is None:
            return True
        return (
            self._last.code in WORTH_ANOTHER_NODE
            and (greedy or not begun)
            and self._attempts < MAX_ATTEMPTS
            and len(self._refused) < MAX_REFUSALS
        )

    def verdict(self) -> Failed:
        """The one error that the client sees: what broke off its text; else that the group is
        full, and when the first of the nodes asked expects room; else what came last."""
        if self._interrupted is not None:
            return self._interrupted
        if self._last is None:
            return Failed("not_serving", "no node of the group can serve this request now", 1)
        if self._refused and self._last.code in WORTH_ANOTHER_NODE:
            waits_s = [failed.retry_after_s or FULL_RETRY_S for failed in self._refused]
            return replace(self._refused[-1], retry_after_s=min(waits_s))
        return self._last


def _after(told: Retelling, event: ReplyEvent) -> ReplyEvent | None:
    """What of `event` is new to the client: None for nothing, a failure where the node does not
    tell what the client has."""
    if isinstance(event, Delta):
        fresh = told.hear(event.text)
        if fresh is None:
            return OTHER_TEXT
        return Delta(fresh) if fresh else None
    if isinstance(event, End) and not told.caught_up:
        return OTHER_TEXT
    return event


FULL_RETRY_S = 1
OTHER_TEXT = Failed("node_lost", "the node was lost, and no other one gives the same answer", 0)

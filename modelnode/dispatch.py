"""What an entry node does with a request: choose who serves it, relay the reply, and have another
node answer when the first is lost.

A node that is lost before it said anything is replaced. After that, a request that leaves nothing
to chance is answered anew by another node, whose text must begin with what the client has; see
docs/adr/0013-another-node-answers-anew.md. Any other request ends with one clear error.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from modelnode.core.retelling import Retelling
from modelnode.group import Group
from modelnode.metrics import REQUESTS, RESUMED, RETRIED
from modelnode.question import Question
from modelnode.serving import Server
from planetserve.chat import BadRequest, ChatRequest
from planetserve.keys import NodeId
from planetserve.messages import Delta, End, Failed, ReplyEvent

MAX_ATTEMPTS = 3
WORTH_ANOTHER_NODE = ("overloaded", "engine_failed", "node_lost", "not_serving")


class Dispatcher:
    """Answers requests that reach this node, from the overlay or the operator's HTTP."""

    def __init__(self, server: Server, group: Group) -> None:
        self.server = server
        self._group = group
        self.running = 0

    async def answer(
        self, body: bytes, prefer: NodeId | None = None, request: ChatRequest | None = None
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The events of one reply: deltas, then exactly one `End` or `Failed`. Closing the
        generator cancels the request wherever it runs. `request` is `body`, for who has read it
        already."""
        self.running += 1
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
            REQUESTS.labels(outcome).inc()

    async def _answer(self, question: Question) -> AsyncGenerator[ReplyEvent, None]:
        failure = Failed("not_serving", "no node of the group can serve this request now", 1)
        interrupted: Failed | None = None
        told = Retelling()
        tried: set[NodeId] = set()
        while len(tried) < MAX_ATTEMPTS:
            node = self._group.choose(question.prefer, tried)
            if node is None:
                break
            if tried:
                (RESUMED if told.begun else RETRIED).inc()
            tried.add(node)
            told.begin()
            failed: Failed | None = None
            async with aclosing(self._group.ask(node, question)) as events:
                async for event in events:
                    passed = _after(told, event)
                    if isinstance(passed, Failed):
                        failed = passed
                        break
                    if passed is not None:
                        yield passed
            if failed is None:
                return
            failure = failed
            if told.begun:
                interrupted = interrupted or failed
            if failed.code not in WORTH_ANOTHER_NODE or (told.begun and not question.greedy):
                break
        yield interrupted or failure


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


OTHER_TEXT = Failed("node_lost", "the node was lost, and no other one gives the same answer", 0)

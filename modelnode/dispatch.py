"""What an entry node does with a request: choose who serves it, relay the reply, try another
node when the first is lost before it said anything."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from modelnode.group import Group
from modelnode.group_client import PeerLost
from modelnode.metrics import FORWARDED, REQUESTS, RETRIED
from modelnode.serving import Server
from planetserve.chat import BadRequest
from planetserve.keys import NodeId
from planetserve.messages import End, Failed, ReplyEvent

MAX_ATTEMPTS = 3
WORTH_ANOTHER_NODE = ("overloaded", "engine_failed", "node_lost", "not_serving")


class Dispatcher:
    """Answers requests that reach this node, from the overlay or the operator's HTTP."""

    def __init__(self, server: Server, group: Group) -> None:
        self.server = server
        self._group = group
        self.running = 0

    async def answer(
        self, body: bytes, prefer: NodeId | None = None
    ) -> AsyncGenerator[ReplyEvent, None]:
        """The events of one reply: deltas, then exactly one `End` or `Failed`. Closing the
        generator cancels the request wherever it runs."""
        self.running += 1
        outcome = "cancelled"
        try:
            async with aclosing(self._answer(body, prefer)) as events:
                async for event in events:
                    if isinstance(event, End):
                        outcome = "answered"
                    elif isinstance(event, Failed):
                        outcome = event.code
                    yield event
        finally:
            self.running -= 1
            REQUESTS.labels(outcome).inc()

    async def _answer(self, body: bytes, prefer: NodeId | None) -> AsyncGenerator[ReplyEvent, None]:
        try:
            self.server.check(body)
        except BadRequest as error:
            yield Failed(error.code, str(error))
            return
        failure = Failed("not_serving", "no node of the group can serve this request now", 1)
        tried: set[NodeId] = set()
        while len(tried) < MAX_ATTEMPTS:
            node = self._group.choose(prefer, tried)
            if node is None:
                break
            if tried:
                RETRIED.inc()
            tried.add(node)
            started = False
            async with aclosing(self._attempt(node, body)) as events:
                async for event in events:
                    if isinstance(event, Failed) and not started:
                        failure = event
                        break
                    started = True
                    yield event
            if started:
                return
            if failure.code not in WORTH_ANOTHER_NODE:
                break
        yield failure

    async def _attempt(self, node: NodeId, body: bytes) -> AsyncGenerator[ReplyEvent, None]:
        """One node's reply; its loss is a `Failed` like any other."""
        if node != self.server.identity.id:
            FORWARDED.inc()
        with self._group.balancer.assignment(node):
            try:
                async with aclosing(self._group.ask(node, body)) as events:
                    async for event in events:
                        yield event
            except PeerLost:
                yield Failed("node_lost", "the node that served this request was lost", 0)

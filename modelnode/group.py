"""The group of model nodes that serve one model: who is in it, how loaded they are, and asking
one of them."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncGenerator

import zmq

from modelnode.breakers import Breakers
from modelnode.core.chunks import Scheme
from modelnode.core.hr_tree import HRTree
from modelnode.core.load import Report
from modelnode.gossip import Gossip
from modelnode.group_client import PeerLost
from modelnode.group_messages import (
    MAX_CACHE_TOKENS,
    MAX_CAPACITY,
    MAX_HOLD_MS,
    MAX_LOAD,
    MAX_QUEUED_TOKENS,
    MAX_TOKEN_US,
)
from modelnode.group_server import GroupServer
from modelnode.group_sockets import Doorkeeper
from modelnode.links import Links
from modelnode.members import Members, members_of_routes
from modelnode.metrics import FORWARDED, RESTARTS, RUNNING, WAITING
from modelnode.own_cache import OwnCache, Served
from modelnode.pulse import Pulse
from modelnode.question import Question
from modelnode.routing import Route, Router
from modelnode.serving import Server
from planetserve.chat import ChatRequest
from planetserve.keys import Identity, NodeId
from planetserve.messages import Delta, End, Failed, ReplyEvent
from planetserve.records import RouteSet

SCHEME = Scheme("text", 64)
"""How prompts are cut for the HR-tree: alike for all engines of a group."""


class Group:
    """This node's connections to its group, between `start` and `close`.

    `router` knows the members that `set_members` gave and what is told of them, `breakers` which
    of them fail, `liveness` which of them answer.
    """

    def __init__(self, identity: Identity, bind: str, server: Server) -> None:
        self.own = identity.id
        self._local = server
        self.breakers = Breakers(time.monotonic)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        incarnation = time.time_ns() // 1000
        self._links = Links(
            self._context,
            identity,
            lambda node, message: self._pulse.heard(node, message),
            self._broken,
        )
        self.router = Router(
            self.own,
            SCHEME,
            HRTree(secrets.randbits(64)),
            time.monotonic,
            random.randrange,
            self.usable,
        )
        self._gossip = Gossip(self._links, self.router, identity, server.model, incarnation)
        self._own_cache = OwnCache(self.router, self._gossip)
        self._pulse = Pulse(
            self._links, self.report_for, self.router.lost, self._restarted, self._beat
        )
        self.liveness = self._pulse.liveness
        self._server = GroupServer(
            identity,
            bind,
            server.serve,
            lambda key: self._members.admitted.get(key),
            self.router.heard,
            self._pulse.vouch,
            self._pulse.load_changed,
            self._gossip.heard,
            incarnation,
        )
        server.watch = self._served
        self._members = Members()
        self._doorkeeper: Doorkeeper | None = None

    async def start(self) -> None:
        """Raises `ConfigurationError` when the group's address cannot be bound."""
        self._doorkeeper = Doorkeeper(self._context, lambda key: key in self._members.admitted)
        self._server.start(self._context)
        self._pulse.start()

    async def close(self) -> None:
        await self._pulse.close()
        self._gossip.close()
        self._links.close()
        await self._server.close()
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._context.term()

    def routes_changed(self, routes: RouteSet) -> None:
        """Take over who is who from the ledger."""
        self.set_members(members_of_routes(routes, self._local.model))

    def set_members(self, members: Members) -> None:
        """Take over who is in the group. Connections to who is not any more end."""
        self._members = members
        trusted = [peer.node for peer in members.trusted]
        self._links.set_addresses(peer for peer in members.trusted if peer.node != self.own)
        self._pulse.members_changed()
        self.breakers.set_members({*trusted, self.own})
        self.router.set_members(trusted)
        self._gossip.members_changed()

    def choose(self, route: Route, tried: set[NodeId]) -> NodeId | None:
        """The node for a request, of those that answer and do not fail while there are any."""
        self.router.heard(self.own, self.report_for(self.own))
        return self.router.choose(route, tried).node

    def usable(self, node: NodeId) -> bool:
        """Whether `node` may be given new requests: it answers, and its breaker lets one pass."""
        answers = node == self.own or self.liveness.alive(node)
        return answers and self.breakers.lets_through(node)

    async def ask(self, route: Route, question: Question) -> AsyncGenerator[ReplyEvent, None]:
        """The reply of the node that was chosen, from the own engine or over the group
        connection, up to an `End` or a `Failed`; the loss of the node is one."""
        assert route.choice is not None
        node = route.choice.node
        assert node is not None
        texts: list[str] = []
        with self.router.assignment(route), self.breakers.watched(node) as watch:
            self._pulse.load_changed()
            try:
                replies = self._replies(node, question)
                try:
                    async for event in replies:
                        watch.saw(event)
                        if isinstance(event, Delta):
                            if not texts:
                                self.router.first_token(route)
                            texts.append(event.text)
                        elif isinstance(event, End):
                            self.router.served(route, "".join(texts), event.usage)
                        yield event
                finally:
                    await replies.aclose()
            except PeerLost:
                lost = Failed("node_lost", "the node that served this request was lost", 0)
                watch.saw(lost)
                yield lost
            finally:
                self._pulse.load_changed()

    @property
    def running(self) -> int:
        """Requests that this node's engine has been given, for itself and for peers."""
        return self._server.active + self.router.members.assigned(self.own)

    def report_for(self, node: NodeId) -> Report:
        """What to tell `node` of us."""
        stats, running = self._local.stats(), self.running
        capacity = min(max(stats.capacity, 1), MAX_CAPACITY)
        ours = self.router.members.assigned(self.own)
        return Report(
            running=min(running, capacity),
            waiting=min(max(running - capacity, 0), MAX_LOAD),
            capacity=capacity,
            queued_tokens=min(self._local.queued_tokens, MAX_QUEUED_TOKENS),
            prefill_us=_measured(stats.prefill_us_per_token, MAX_TOKEN_US),
            decode_us=_measured(stats.decode_ms_per_token, MAX_TOKEN_US, 1000),
            hold_ms=_measured(stats.hold_ms, MAX_HOLD_MS),
            yours=ours if node == self.own else self._server.active_of(node),
            cache_tokens=min(stats.kv_capacity_tokens or 0, MAX_CACHE_TOKENS),
            serving=stats.serving,
        )

    def _replies(self, node: NodeId, question: Question) -> AsyncGenerator[ReplyEvent, None]:
        if node == self.own:
            return self._local.serve(question.body, question.request)
        link = self._links.get(node)
        if link is None:
            raise PeerLost("the node left the group")
        FORWARDED.inc()
        return link.ask(question.body)

    def _served(self, request: ChatRequest) -> Served:
        """Told of each request that this node's engine is given."""
        return self._own_cache.begun(request)

    def _broken(self, node: NodeId) -> None:
        self._pulse.broken(node)
        self.router.lost(node)

    def _restarted(self, node: NodeId) -> None:
        """Requests went with the old process's connection; its cache went too."""
        RESTARTS.inc()
        self.router.emptied(node)

    def _beat(self, now_s: float) -> None:
        stats = self._local.stats()
        RUNNING.set(stats.running)
        WAITING.set(stats.waiting)
        self._server.drop_silent(now_s)
        self._gossip.tick()
        for node, member in self.router.members.items():
            member.rtt_ms = self.liveness.rtt_ms(node) or 0.0


def _measured(value: float | None, limit: int, factor: int = 1) -> int:
    """A measured figure as a whole number of at least 1, 0 where there is none."""
    return 0 if value is None else min(max(round(value * factor), 1), limit)

"""The group of model nodes that serve one model: who is in it, how loaded they are, and asking
one of them."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import zmq

from modelnode.balancing import Balancer, NodeLoad
from modelnode.breakers import Breakers
from modelnode.core.load import Report
from modelnode.group_client import PeerLost
from modelnode.group_messages import (
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
from modelnode.pulse import Pulse
from modelnode.question import Question
from modelnode.serving import Server
from planetserve.keys import Identity, NodeId
from planetserve.messages import Failed, ReplyEvent
from planetserve.records import RouteSet


class Group:
    """This node's connections to its group, between `start` and `close`.

    `balancer` knows the members that `set_members` gave and what they reported, `breakers` which
    of them fail, `liveness` which of them answer.
    """

    def __init__(self, identity: Identity, bind: str, server: Server) -> None:
        self.own = identity.id
        self._local = server
        self.balancer = Balancer(self.own)
        self.breakers = Breakers(time.monotonic)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links = Links(
            self._context,
            identity,
            lambda node, message: self._pulse.heard(node, message),
            self._broken,
        )
        self._pulse = Pulse(
            self._links, self.report_for, self.balancer.forget, self._restarted, self._beat
        )
        self.liveness = self._pulse.liveness
        self._server = GroupServer(
            identity,
            bind,
            server.serve,
            lambda key: self._members.admitted.get(key),
            self._reported,
            self._pulse.vouch,
            self._pulse.load_changed,
            incarnation=time.time_ns() // 1000,
        )
        self._members = Members()
        self._doorkeeper: Doorkeeper | None = None

    async def start(self) -> None:
        """Raises `ConfigurationError` when the group's address cannot be bound."""
        self._doorkeeper = Doorkeeper(self._context, lambda key: key in self._members.admitted)
        self._server.start(self._context)
        self._pulse.start()

    async def close(self) -> None:
        await self._pulse.close()
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
        self.balancer.set_members(trusted)
        self._report_own()

    def choose(self, prefer: NodeId | None, tried: set[NodeId]) -> NodeId | None:
        """See `Balancer.choose`: of nodes that answer and do not fail, while there are any."""
        if prefer == self.own and self.own not in tried:
            return self.own
        self._report_own()
        barred = {node for node in self.balancer.members() if not self.usable(node)}
        chosen = self.balancer.choose(prefer, barred | tried)
        if chosen is None and self.own not in tried:
            return self.own
        return chosen

    def usable(self, node: NodeId) -> bool:
        """Whether `node` may be given new requests: it answers, and its breaker lets one pass."""
        answers = node == self.own or self.liveness.alive(node)
        return answers and self.breakers.lets_through(node)

    async def ask(self, node: NodeId, question: Question) -> AsyncGenerator[ReplyEvent, None]:
        """`node`'s reply to `question`, from the own engine or over the group connection, up to
        an `End` or a `Failed`; the loss of a node is one."""
        with self.balancer.assignment(node), self.breakers.watched(node) as watch:
            self._pulse.load_changed()
            try:
                replies = self._replies(node, question)
                try:
                    async for event in replies:
                        watch.saw(event)
                        yield event
                finally:
                    await replies.aclose()
            except PeerLost:
                lost = Failed("node_lost", "the node that served this request was lost", 0)
                watch.saw(lost)
                yield lost
            finally:
                self._pulse.load_changed()

    def load(self) -> NodeLoad:
        """What runs and waits here, for ourselves and for peers."""
        capacity = self._local.stats().capacity
        total = self._server.active + self.balancer.assigned(self.own)
        return NodeLoad(min(total, capacity), max(total - capacity, 0), capacity)

    def report_for(self, node: NodeId) -> Report:
        """What to tell `node` of us."""
        load, stats = self.load(), self._local.stats()
        return Report(
            running=min(load.running, MAX_LOAD),
            waiting=min(load.waiting, MAX_LOAD),
            capacity=min(max(load.capacity, 1), MAX_CAPACITY),
            queued_tokens=min(self._local.queued_tokens, MAX_QUEUED_TOKENS),
            prefill_us=_measured(stats.prefill_us_per_token, MAX_TOKEN_US),
            decode_us=_measured(stats.decode_ms_per_token, MAX_TOKEN_US, 1000),
            hold_ms=_measured(stats.hold_ms, MAX_HOLD_MS),
            yours=self._server.active_of(node),
        )

    def _replies(self, node: NodeId, question: Question) -> AsyncGenerator[ReplyEvent, None]:
        if node == self.own:
            return self._local.serve(question.body, question.request)
        link = self._links.get(node)
        if link is None:
            raise PeerLost("the node left the group")
        FORWARDED.inc()
        return link.ask(question.body)

    def _report_own(self) -> None:
        others = NodeLoad(self._server.active, 0, self._local.stats().capacity)
        self.balancer.report(self.own, others)

    def _reported(self, node: NodeId, report: Report) -> None:
        load = NodeLoad(report.running, report.waiting, report.capacity)
        self.balancer.report(node, load, report.yours)

    def _broken(self, node: NodeId) -> None:
        self._pulse.broken(node)
        self.balancer.forget(node)

    def _restarted(self, node: NodeId) -> None:
        """Requests went with the old process's connection; its cache went too."""
        RESTARTS.inc()

    def _beat(self, now_s: float) -> None:
        stats = self._local.stats()
        RUNNING.set(stats.running)
        WAITING.set(stats.waiting)
        self._server.drop_silent(now_s)


def _measured(value: float | None, limit: int, factor: int = 1) -> int:
    """A measured figure as a whole number of at least 1, 0 where there is none."""
    return 0 if value is None else min(max(round(value * factor), 1), limit)

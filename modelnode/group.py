"""The group of model nodes that serve one model: who is in it, how loaded they are, and asking
one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import zmq

from modelnode.balancing import Balancer, NodeLoad
from modelnode.group_client import PeerLink, PeerLost
from modelnode.group_messages import Load
from modelnode.group_server import GroupServer
from modelnode.group_sockets import Doorkeeper
from modelnode.members import Members, PeerAddress, members_of_routes
from modelnode.metrics import RUNNING, WAITING
from modelnode.question import Question
from modelnode.serving import Server
from planetserve.keys import Identity, NodeId
from planetserve.messages import ReplyEvent
from planetserve.records import RouteSet

LOAD_INTERVAL_S = 1.0
MAX_PEERS = 256
"""Connections are one a peer; a larger group needs loads that spread by other means."""


class Group:
    """This node's connections to its group, between `start` and `close`.

    `balancer` knows the members that `set_members` gave and what they reported.
    """

    def __init__(self, identity: Identity, bind: str, server: Server) -> None:
        self.own = identity.id
        self._identity = identity
        self._local = server
        self.balancer = Balancer(self.own)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._server = GroupServer(
            identity,
            bind,
            server.serve,
            lambda key: self._members.admitted.get(key),
            self.balancer.report,
        )
        self._members = Members()
        self._addresses: dict[NodeId, PeerAddress] = {}
        self._links: dict[NodeId, PeerLink] = {}
        self._doorkeeper: Doorkeeper | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `ConfigurationError` when the group's address cannot be bound."""
        self._doorkeeper = Doorkeeper(self._context, lambda key: key in self._members.admitted)
        self._server.start(self._context)
        self._ticker = asyncio.create_task(self._tick(), name="group loads")

    async def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for link in self._links.values():
            link.close()
        self._links.clear()
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
        self._addresses = {peer.node: peer for peer in members.trusted if peer.node != self.own}
        self.balancer.set_members(peer.node for peer in members.trusted)
        self._report_own()
        for node, link in list(self._links.items()):
            if self._addresses.get(node) != link.address:
                self._links.pop(node).close()

    def choose(self, prefer: NodeId | None, tried: set[NodeId]) -> NodeId | None:
        """See `Balancer.choose`."""
        self._report_own()
        return self.balancer.choose(prefer, tried)

    async def ask(self, node: NodeId, question: Question) -> AsyncGenerator[ReplyEvent, None]:
        """`node`'s reply to `question`, from the own engine or over the group connection. Raises
        `PeerLost`."""
        if node == self.own:
            replies = self._local.serve(question.body, question.request)
        else:
            link = self._link(node)
            if link is None:
                raise PeerLost("the node left the group")
            replies = link.ask(question.body)
        try:
            async for event in replies:
                yield event
        finally:
            await replies.aclose()

    def load(self) -> NodeLoad:
        """What runs and waits here, for ourselves and for peers."""
        total = self._server.active + self.balancer.assigned(self.own)
        capacity = self._local.stats().capacity
        return NodeLoad(min(total, capacity), max(total - capacity, 0), capacity)

    def _report_own(self) -> None:
        capacity = self._local.stats().capacity
        others = NodeLoad(self._server.active, 0, capacity)
        self.balancer.report(self.own, others, includes_ours=False)

    def _link(self, node: NodeId) -> PeerLink | None:
        link = self._links.get(node)
        if link is None:
            address = self._addresses.get(node)
            if address is None:
                return None
            link = PeerLink(self._context, self._identity, address, self._broken)
            self._links[node] = link
        return link

    def _broken(self, link: PeerLink) -> None:
        if self._links.get(link.address.node) is link:
            del self._links[link.address.node]
            self.balancer.forget(link.address.node)

    async def _tick(self) -> None:
        """Tell every peer our load, which is also the sign that we live."""
        while True:
            load = self.load()
            RUNNING.set(self._local.stats().running)
            WAITING.set(self._local.stats().waiting)
            for node in list(self._addresses)[:MAX_PEERS]:
                link = self._link(node)
                if link is not None:
                    link.send(Load(load))
            self._server.drop_silent(asyncio.get_running_loop().time())
            await asyncio.sleep(LOAD_INTERVAL_S)

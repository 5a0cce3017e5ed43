"""This node's connections to the others of its group: one a peer, opened when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import zmq

from modelnode.group_client import PeerLink
from modelnode.group_messages import GroupMessage, Pong, Vouch
from modelnode.members import PeerAddress
from modelnode.metrics import GROUP_DROPPED
from planetserve.keys import Identity, NodeId

MAX_PEERS = 256
"""Connections are one a peer; a larger group needs loads that spread by other means."""


class Links:
    """`heard` gets what peers say of nodes, `broken` is told of each connection that ended by
    itself or by `fail`."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        identity: Identity,
        heard: Callable[[NodeId, Pong | Vouch], None],
        broken: Callable[[NodeId], None],
    ) -> None:
        self._context = context
        self._identity = identity
        self._heard = heard
        self._broken = broken
        self._addresses: dict[NodeId, PeerAddress] = {}
        self._links: dict[NodeId, PeerLink] = {}
        self._closed = False

    def set_addresses(self, peers: Iterable[PeerAddress]) -> None:
        """The other nodes. Connections to who is not there any more, or elsewhere, end."""
        self._addresses = {peer.node: peer for peer in list(peers)[:MAX_PEERS]}
        for node, link in list(self._links.items()):
            if self._addresses.get(node) != link.address:
                self._links.pop(node).close()

    def nodes(self) -> tuple[NodeId, ...]:
        return tuple(self._addresses)

    def get(self, node: NodeId) -> PeerLink | None:
        """The connection to `node`; None for a stranger, an address that cannot be one, or after
        `close`: a socket opened then would keep its context from ending."""
        link = self._links.get(node)
        address = self._addresses.get(node)
        if link is not None or address is None or self._closed:
            return link
        try:
            link = PeerLink(
                self._context,
                self._identity,
                address,
                self._link_broken,
                lambda link, message: self._heard(link.address.node, message),
            )
        except zmq.ZMQError:
            GROUP_DROPPED.labels("bad_address").inc()
            return None
        self._links[node] = link
        return link

    def send(self, node: NodeId, message: GroupMessage) -> bool:
        """False when it cannot be sent."""
        link = self.get(node)
        return link is not None and link.send(message)

    def fail(self, node: NodeId) -> None:
        """Give up the connection to `node` and what is under way on it."""
        link = self._links.get(node)
        if link is not None:
            link.fail()

    def close(self) -> None:
        self._closed = True
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _link_broken(self, link: PeerLink) -> None:
        node = link.address.node
        if self._links.get(node) is link:
            del self._links[node]
            self._broken(node)

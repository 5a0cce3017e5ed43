"""Links to peers over ZeroMQ with CURVE: one ROUTER for those who dial us, one DEALER for each
node that we dial, whose transport key the ledger gives.

link       event                                        next       effect
─────────  ───────────────────────────────────────────  ─────────  ─────────────────────────────
           `send` to a node that the ledger lists       dialled    frames wait until it is up
dialled    connected                                    up         what waits is sent
dialled    refused, no handshake in time                           peer gone
           first frame of a connection that came to us  up         handed up
up         frame                                        up         handed up, or counted
up         nothing taken from us for `stall_s`                     hung up, peer gone
up         sends what is no frame, without end                     hung up, peer gone
up         broken, or closed by the other side                     peer gone, after what it sent
up         dialled, no frame for `idle_s`                         hung up, peer gone
up         dialled, the idlest of too many                        hung up, peer gone
any        `hang_up`                                               no report

A broken connection is not mended here: it is reported once, and the next frame dials anew. What
was under way on it is for the state machines to give up. Who may connect how often is in
`overlay.core.connections`, what waits to be sent in `overlay.outbox`.

ZeroMQ bounds the size of a message's part, but not how many parts a message has, and it keeps them
until the last one is there. So the bytes that a connection brought are compared with the frames
that it made: each quarter of a second while there are at most 256 connections, else 256 in turn.
Until then a message without end takes as much memory as comes in meanwhile. Linux alone counts
those bytes for us; elsewhere such a message is not defended against.
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass

import zmq
from nacl.bindings import crypto_scalarmult_base
from zmq.utils import z85

from overlay.core.effects import Neighbour, Peer
from overlay.dialled import Dialled
from overlay.door import Came, Door, InTurn
from overlay.doorkeeper import NodeOfKey, no_node
from overlay.link_sockets import FrameArrived, LinkLimits, LinkSocket, count, link_socket
from overlay.outbox import Outbox, PathEvent, SentEvent
from planetserve.keys import Identity

MAX_DESCRIPTORS = 65_536
SOCKETS_A_LINK = 3
"""The DEALER, and both ends of its monitor."""
CLOSING_LINKS = 64
"""ZeroMQ counts a socket until its own thread has closed it."""
TICK_S = 0.25
LOOKED_AT_A_TICK = 256
"""At how many connections' intake, of those that came and of those that were dialled."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node listens, as ZeroMQ writes it, and its 32-byte CURVE public key."""

    endpoint: str
    transport_key: bytes


Resolve = Callable[[bytes], Address | None]
"""The address of a node id, None when the ledger lists none."""


def ignore(peer: Peer, link_id: bytes) -> None:
    """For those who need not hear of it."""


class Links:
    """All connections of one process. The callbacks are called on the loop: `frame_arrived` with
    each frame, `peer_gone` once for a link that ends of itself, `shed` and `sent` with the peer and
    id of a path whose waiting frames were dropped, or of a STREAM frame that was sent.

    With `identity` we dial under its transport key, so that others see which node we are; without
    one under a fresh key each time, so that nobody can link our connections by it. `node_of_key`
    tells whose transport key a connection to us proved.
    """

    def __init__(
        self,
        resolve: Resolve,
        frame_arrived: FrameArrived,
        peer_gone: Callable[[Peer], None],
        shed: PathEvent = ignore,
        sent: SentEvent | None = None,
        *,
        identity: Identity | None = None,
        node_of_key: NodeOfKey = no_node,
        limits: LinkLimits | None = None,
    ) -> None:
        self._resolve = resolve
        self._frame_arrived = frame_arrived
        self._peer_gone = peer_gone
        self._identity = identity
        self._node_of_key = node_of_key
        self._limits = limits or LinkLimits()
        self._outbox = Outbox(self._limits.queued_bytes, self._limits.stall_s, shed, sent)
        self._context: zmq.Context[LinkSocket] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, SOCKETS_A_LINK * (self._limits.dialled + CLOSING_LINKS))
        self._door: Door | None = None
        self._came: dict[bytes, Came] = {}
        self._dialled: dict[Peer, Dialled] = {}
        self._dialled_in_turn = InTurn()
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def queued_bytes(self) -> int:
        """How much waits for neighbours."""
        return self._outbox.queued_bytes

    def bind(self, host_port: str, identity: Identity) -> int:
        """Accept whoever speaks CURVE to our transport key; port 0 takes a free one. Returns the
        port. The process may open as many files as the system lets it from then on: a dialled
        link takes four. Raises `ConfigurationError`."""
        allow_descriptors()
        self._door = Door(
            self._context,
            host_port,
            identity,
            self._node_of_key,
            self._limits.connections,
            self._outbox,
            self._frame_arrived,
            self._gone,
        )
        self._came = self._door.links
        self._tick_from_now_on()
        return self._door.port

    def send(self, peer: Peer, frame: bytes) -> bool:
        """Send or queue `frame` for `peer`, dialling it when needed; False when it is not there
        any more, or cannot be dialled."""
        link: Dialled | Came | None
        if peer.dialled:
            link = self._dialled.get(peer) or self._dial(peer)
        else:
            link = self._came.get(peer.name)
        if link is None:
            return False
        self._outbox.send(link, frame)
        if link.waiting is None:
            link.turns.sent()
        else:
            link.turns.soon()
        return True

    def tell(self, peer: Peer, frame: bytes) -> None:
        """Send `frame`, a refusal, to `peer` if it is there and has not much to read already."""
        link = self._link(peer)
        if link is not None:
            self._outbox.tell(link, frame)
            link.turns.soon()

    def purge(self, peer: Peer, link_id: bytes) -> None:
        """Drop what waits for `peer` under `link_id`."""
        self._outbox.purge(peer, link_id)

    def neighbour(self, peer: Peer) -> Neighbour:
        """Who `peer` has proven to be, while it is there."""
        link = self._link(peer)
        return link.neighbour if link is not None else Neighbour(peer.dialled, peer.name)

    def hang_up(self, peer: Peer) -> None:
        """Close the connection to `peer`, if there is one, without a report."""
        self._outbox.drop(peer)
        if peer.dialled:
            link = self._dialled.pop(peer, None)
            if link is not None:
                link.close()
        elif self._door is not None:
            self._door.hang_up(peer.name)

    def close(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        self._outbox.close()
        for peer in list(self._dialled):
            self.hang_up(peer)
        if self._door is not None:
            self._door.close()
        self._context.term()

    def _link(self, peer: Peer) -> Dialled | Came | None:
        if peer.dialled:
            return self._dialled.get(peer)
        return self._came.get(peer.name)

    def _gone(self, peer: Peer) -> None:
        self.hang_up(peer)
        self._peer_gone(peer)

    def _dial(self, peer: Peer) -> Dialled | None:
        address = self._resolve(peer.name)
        if address is None:
            return None
        if len(self._dialled) >= self._limits.dialled and not self._let_go():
            return None
        try:
            socket = link_socket(self._context, zmq.DEALER)
            link = Dialled(peer, socket, self._outbox, self._frame_arrived, self._lost)
        except zmq.ZMQError:  # the process has no descriptor left
            count("dial_failed")
            self._let_go()
            return None
        secret = os.urandom(32) if self._identity is None else self._identity.transport_secret
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(secret))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(crypto_scalarmult_base(secret)))
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(address.transport_key))
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        try:
            socket.connect(address.endpoint)
        except zmq.ZMQError:  # the node announced an address that is none
            count("dial_failed")
            link.close()
            return None
        self._dialled[peer] = link
        self._tick_from_now_on()
        return link

    def _let_go(self) -> bool:
        """Close the dialled link that has been idle longest, if no path can use it any more."""
        now_s = asyncio.get_running_loop().time()
        link = min(self._dialled.values(), key=lambda link: link.moved_s, default=None)
        if link is None or link.idle_s(now_s) < self._limits.unused_s:
            return False
        count("idle_closed")
        self.hang_up(link.peer)
        asyncio.get_running_loop().call_soon(self._peer_gone, link.peer)
        return True

    def _lost(self, link: Dialled) -> None:
        if self._dialled.get(link.peer) is link:
            count("dialled_lost")
            self._gone(link.peer)

    def _tick_from_now_on(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._ticker = loop.call_later(TICK_S, self._tick)
        now_s = loop.time()
        for peer in self._outbox.tick(now_s):
            count("stalled")
            self._gone(peer)
        for link in self._dialled_in_turn.next(list(self._dialled.values()), LOOKED_AT_A_TICK):
            if link.holds_too_much(self._limits.connections.unread_bytes, now_s):
                count("endless_message")
                self._gone(link.peer)
            elif link.idle_s(now_s) >= self._limits.idle_s:
                count("idle_closed")
                self._gone(link.peer)
        if self._door is not None:
            self._door.look_at_intake(LOOKED_AT_A_TICK, now_s)


def allow_descriptors() -> None:
    """Let this process open as many connections as the system allows it, up to a bound."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))

"""Tells the peers what this node's engine holds, and takes in what they say of theirs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from modelnode.core.chunks import Path
from modelnode.core.telling import Log, Page, Reader
from modelnode.group_messages import Held, Resend
from modelnode.links import Links
from modelnode.metrics import GOSSIP_BYTES, GROUP_DROPPED
from modelnode.routing import Router
from planetserve.errors import RemoteProtocolError
from planetserve.keys import NodeId

INTERVAL_S = 0.05
DIGEST_INTERVAL_S = 5.0
MAX_ITEMS_PER_S = 1_000.0
BURST_ITEMS = 2_048.0
RESEND_INTERVAL_S = 1.0
"""A snapshot is sent to a peer no more often, and asked for no more often."""


@dataclass(slots=True)
class _Peer:
    """`told` is the number up to which it knows our log, None before a snapshot."""

    reader: Reader = field(default_factory=Reader)
    told: int | None = None
    snapshot_s: float = float("-inf")
    asked_s: float = float("-inf")
    room: float = BURST_ITEMS
    room_s: float = 0.0


class Gossip:
    """Between the first message and `close`. `epoch` is another one in each life of the process."""

    def __init__(self, links: Links, router: Router, epoch: int) -> None:
        self._links = links
        self._router = router
        self._log = Log(epoch)
        self._scheme = str(router.scheme)
        self._peers: dict[NodeId, _Peer] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._digest_s = 0.0

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def members_changed(self) -> None:
        self._peers = {node: self._peers.get(node) or _Peer() for node in self._links.nodes()}

    def hold(self, path: Path) -> None:
        """This node's engine holds `path` from now on; the peers are told soon."""
        self._log.hold(path)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._tell)

    def emptied(self) -> None:
        """This node's engine holds nothing any more."""
        self._log = Log(self._log.epoch + 1)
        for peer in self._peers.values():
            peer.told = None

    def broken(self, node: NodeId) -> None:
        """The link broke: what was told last may not have come."""
        peer = self._peers.get(node)
        if peer is not None:
            peer.told = None

    def tick(self, now_s: float) -> None:
        """Called often. Who does not know all is told; now and then all are told where the log
        stands."""
        if self._timer is None and any(p.told != self._log.next for p in self._peers.values()):
            self._tell()
        if now_s - self._digest_s < DIGEST_INTERVAL_S:
            return
        self._digest_s = now_s
        page = self._log.digest()
        for node, peer in self._peers.items():
            if peer.told == self._log.next:
                self._send(node, page)

    def heard(self, node: NodeId, message: Held | Resend) -> None:
        """What a peer says of itself, or wants to hear again. Raises `RemoteProtocolError`."""
        peer = self._peers.get(node)
        if peer is None:
            GROUP_DROPPED.labels("not_trusted").inc()
            return
        if isinstance(message, Resend):
            peer.told = None
        elif message.scheme != self._scheme:
            GROUP_DROPPED.labels("other_scheme").inc()
        else:
            self._hear(node, peer, message.page)

    def _hear(self, node: NodeId, peer: _Peer, page: Page) -> None:
        now_s = asyncio.get_running_loop().time()
        gained = (now_s - peer.room_s) * MAX_ITEMS_PER_S
        peer.room, peer.room_s = min(peer.room + gained, BURST_ITEMS), now_s
        if len(page.items) > peer.room:
            GROUP_DROPPED.labels("too_many_items").inc()
            return
        peer.room -= len(page.items)
        try:
            heard = peer.reader.hear(page)
        except RemoteProtocolError:
            self._ask(node, peer, now_s)
            raise
        if heard.forget:
            self._router.emptied(node)
        for path in heard.paths:
            self._router.learn(node, path, node)
        if heard.ask:
            self._ask(node, peer, now_s)

    def _ask(self, node: NodeId, peer: _Peer, now_s: float) -> None:
        if now_s - peer.asked_s >= RESEND_INTERVAL_S:
            peer.asked_s = now_s
            self._links.send(node, Resend())

    def _tell(self) -> None:
        self.close()
        now_s = asyncio.get_running_loop().time()
        for node, peer in self._peers.items():
            if peer.told == self._log.next:
                continue
            if peer.told is None:
                if now_s - peer.snapshot_s < RESEND_INTERVAL_S:
                    continue
                peer.snapshot_s = now_s
            if all([self._send(node, page) for page in self._log.pages(peer.told)]):
                peer.told = self._log.next
            else:
                peer.told = None

    def _send(self, node: NodeId, page: Page) -> bool:
        sent = self._links.send(node, Held(self._scheme, page))
        if sent:
            GOSSIP_BYTES.inc(sum(len(item.fresh) + 4 for item in page.items) + 64)
        return sent

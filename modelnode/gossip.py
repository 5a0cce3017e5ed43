"""Tells the peers what this node's engine holds, and takes in what they say of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from modelnode.core.chunks import Path
from modelnode.core.sync import SIGNATURE, Effect, Fault, Holds, Lost, Send
from modelnode.core.sync_group import GroupSync
from modelnode.core.sync_log import DELAY_S, Log
from modelnode.core.sync_messages import DOMAIN
from modelnode.group_messages import Sync
from modelnode.links import Links
from modelnode.metrics import GOSSIP_BYTES, GROUP_DROPPED
from modelnode.routing import Router
from planetserve.keys import Identity, NodeId


class Gossip:
    """Between the first message and `close`. `epoch` is another one in each life of the process.

    A node speaks of its own cache alone: that is what it can be held to. What it says of another's
    is not believed.
    """

    def __init__(
        self, links: Links, router: Router, identity: Identity, model: str, epoch: int
    ) -> None:
        self._links = links
        self._router = router
        log = Log(
            identity.public_key,
            model,
            router.scheme,
            epoch,
            0.0,
            lambda data: identity.sign(DOMAIN, data),
        )
        self._sync = GroupSync(log, model, router.scheme)
        self._timer: asyncio.TimerHandle | None = None
        # What a former life of this process said is so no more.
        log.emptied(router.own, 0.0)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def members_changed(self) -> None:
        self._sync.set_peers(self._links.nodes(), _now_s())

    def hold(self, path: Path, *, whole: bool) -> None:
        """This node's engine holds `path` from now on; the peers are told soon. `whole`: the reply
        is in it."""
        self._sync.log.tell(self._router.own, path, _now_s(), whole=whole)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY_S, self._tell)

    def emptied(self) -> None:
        """This node's engine holds nothing any more."""
        self._sync.log.emptied(self._router.own, _now_s())

    def tick(self) -> None:
        """Called often: what waited for long is told, and now and then where the log stands."""
        if self._timer is None:
            self._tell()

    def heard(self, node: NodeId, message: Sync) -> None:
        """What a peer says of itself, or wants to hear again."""
        now_s = _now_s()
        work = self._router.work
        self._apply(node, self._sync.receive(node, message.data, now_s))
        self._sync.charge(node, self._router.work - work, now_s)

    def _apply(self, origin: NodeId, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(data):
                    self._send(origin, data)
                case Holds(node, path) if node == origin:
                    self._router.learn(node, path, origin)
                case Lost(node) if node == origin:
                    self._router.emptied(node)
                case Holds() | Lost():
                    GROUP_DROPPED.labels("not_its_own").inc()
                case Fault(cause):
                    GROUP_DROPPED.labels(f"sync_{cause}").inc()
                    if cause == SIGNATURE:
                        self._router.emptied(origin)

    def _tell(self) -> None:
        self.close()
        for data in self._sync.messages(_now_s()):
            for node in self._sync.readers:
                self._send(node, data)

    def _send(self, node: NodeId, data: bytes) -> None:
        """What cannot be sent is missed there, and asked for."""
        if self._links.send(node, Sync(data)):
            GOSSIP_BYTES.inc(len(data))


def _now_s() -> float:
    return asyncio.get_running_loop().time()

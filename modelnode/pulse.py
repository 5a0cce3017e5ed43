"""The group's pulse: pings, loads that are told as they change, and who is alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from modelnode.core import liveness
from modelnode.core.liveness import Liveness
from modelnode.core.load import Report
from modelnode.group_messages import MAX_AGE_MS, Ask, Load, Ping, Pong, Vouch
from modelnode.links import Links
from modelnode.metrics import PEERS
from planetserve.keys import NodeId
from planetserve.logs import get_logger

TICK_S = 0.1
LOAD_INTERVAL_S = 0.05
"""A load that changes is told at most so often; among many peers less often, since it is told to
each."""
LOAD_INTERVAL_A_PEER_S = 0.001
LOAD_REPEAT_S = 1.0

log = get_logger()


class Pulse:
    """Runs between `start` and `close`. `report` gives what to tell a peer of our load; `lost` is
    called when nothing more is to be expected of one, `restarted` when it is another process than
    before, `beat` with the loop's time at each tick."""

    def __init__(
        self,
        links: Links,
        report: Callable[[NodeId], Report],
        lost: Callable[[NodeId], None],
        restarted: Callable[[NodeId], None],
        beat: Callable[[float], None],
    ) -> None:
        self.liveness = Liveness()
        self._links = links
        self._report = report
        self._lost = lost
        self._restarted = restarted
        self._beat = beat
        self._told: dict[NodeId, tuple[Report, float]] = {}
        self._told_s = 0.0
        self._telling: asyncio.TimerHandle | None = None
        self._ticker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._ticker = asyncio.create_task(self._tick(), name="group pulse")

    async def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None

    def members_changed(self) -> None:
        nodes = self._links.nodes()
        self.liveness.set_members(nodes)
        self._told = {node: told for node, told in self._told.items() if node in nodes}

    def load_changed(self) -> None:
        """Tell the peers soon what is not as they were told."""
        if self._ticker is None or self._telling is not None:
            return
        loop = asyncio.get_running_loop()
        interval_s = max(LOAD_INTERVAL_S, LOAD_INTERVAL_A_PEER_S * len(self._links.nodes()))
        self._telling = loop.call_at(self._told_s + interval_s, self._tell)

    def heard(self, node: NodeId, message: Pong | Vouch) -> None:
        """A peer's answer to a ping or a question."""
        now_s = asyncio.get_running_loop().time()
        if isinstance(message, Vouch):
            self.liveness.vouched(message.node, message.incarnation, message.age_ms, now_s)
        else:
            effects = self.liveness.pong(node, message.number, message.incarnation, now_s)
            self._perform(effects)
            if node not in self._told:
                self.load_changed()

    def broken(self, node: NodeId) -> None:
        self.liveness.broken(node)
        self._told.pop(node, None)

    def vouch(self, node: NodeId) -> Vouch | None:
        """What we can say of a node to one that asks."""
        heard = self.liveness.heard(node, asyncio.get_running_loop().time())
        return None if heard is None else Vouch(node, heard[0], min(heard[1], MAX_AGE_MS))

    async def _tick(self) -> None:
        while True:
            try:
                self._once(asyncio.get_running_loop().time())
            except Exception:
                # Without its pulse a node would be dead to all others, whatever one of them did.
                log.exception("group_pulse_failed")
            await asyncio.sleep(TICK_S)

    def _once(self, now_s: float) -> None:
        self._perform(self.liveness.tick(now_s))
        self._beat(now_s)
        self.load_changed()
        alive = sum(self.liveness.alive(node) for node in self._links.nodes())
        PEERS.labels("alive").set(alive)
        PEERS.labels("silent").set(len(self._links.nodes()) - alive)

    def _perform(self, effects: list[liveness.Effect]) -> None:
        for effect in effects:
            match effect:
                case liveness.Ping(node, number):
                    self._links.send(node, Ping(number))
                case liveness.Ask(helper, node):
                    self._links.send(helper, Ask(node))
                case liveness.Lost(node):
                    self._links.fail(node)
                    self._lost(node)
                case liveness.Restarted(node):
                    self._restarted(node)

    def _tell(self) -> None:
        """Tell each peer what it does not know of our load."""
        self._telling = None
        now_s = self._told_s = asyncio.get_running_loop().time()
        for node in self._links.nodes():
            report = self._report(node)
            told, told_s = self._told.get(node, (None, 0.0))
            if report == told and now_s - told_s < LOAD_REPEAT_S:
                continue
            if self._links.send(node, Load(report)):
                self._told[node] = (report, now_s)

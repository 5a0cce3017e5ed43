"""Which nodes of the group answer us, and how quickly: SWIM's states over the group's own links.

Each node pings each other one and measures how long the answer takes. Where answers stay away it
asks others whether they still hear from that node, as SWIM does: a node that is only slow towards
us is not given up while somebody hears from it, so that answers under way go on. What others say
never makes a node dead, and never alive for new requests, since those go over our own link.

state    event                                            next     effects
───────  ───────────────────────────────────────────────  ───────  ─────────────────────────
UNHEARD  a ping is due                                    UNHEARD  Ping
UNHEARD  pong                                             ALIVE
ALIVE    a ping is due                                    ALIVE    Ping
ALIVE    pong                                             ALIVE
ALIVE    no pong for SUSPECT_AFTER_S                      SUSPECT  Ask each of some that live
SUSPECT  a ping is due                                    SUSPECT  Ping, Ask
SUSPECT  pong                                             ALIVE
SUSPECT  vouched for by another                           SUSPECT
SUSPECT  no pong and no word of others for DEAD_AFTER_S   DEAD     Lost
SUSPECT  no pong for GIVE_UP_AFTER_S                      DEAD     Lost
DEAD     a ping is due                                    DEAD     Ping
DEAD     pong                                             ALIVE
any      the connection broke                             DEAD
any      pong of a later incarnation                      ALIVE    Restarted, if not the first
any      pong or word of an earlier incarnation           the same

Time in which we ourselves were held up, so that no tick came, is nobody's silence. An incarnation
is a number that a node's process takes at its start, larger than the last one's.
Source: Das, Gupta, Motivala, "SWIM", DSN 2002.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeAlias

from planetserve.keys import NodeId

PING_INTERVAL_S = 0.5
REDIAL_INTERVAL_S = 1.0
"""Of pings to nodes that do not answer: each is an attempt to connect."""
SUSPECT_AFTER_S = 1.5
DEAD_AFTER_S = 2.5
GIVE_UP_AFTER_S = 15.0
OWN_STALL_S = 0.4
"""Between two ticks; beyond it we were held up."""
HELPERS = 3
MAX_OUTSTANDING = 8
"""Pings whose answers are still of interest."""
RTT_WEIGHT = 0.125
"""Of the newest answer; that of TCP's smoothed round-trip time (RFC 6298)."""


class State(Enum):
    UNHEARD = auto()
    ALIVE = auto()
    SUSPECT = auto()
    DEAD = auto()


@dataclass(frozen=True, slots=True)
class Ping:
    node: NodeId
    number: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask `helper` whether it hears from `node`."""

    helper: NodeId
    node: NodeId


@dataclass(frozen=True, slots=True)
class Lost:
    """Nothing more is expected of `node`: what it owes us will not come."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Restarted:
    """`node` is another process than before, which knows nothing of what it was asked, nor of
    what it had cached."""

    node: NodeId


Effect: TypeAlias = "Ping | Ask | Lost | Restarted"


@dataclass(slots=True)
class _Peer:
    state: State = State.UNHEARD
    incarnation: int = 0
    heard_s: float = 0.0
    vouched_s: float = 0.0
    pinged_s: float = float("-inf")
    rtt_ms: float | None = None
    outstanding: dict[int, float] = field(default_factory=dict)


class Liveness:
    """The peers of one node, as many as `set_members` names."""

    def __init__(self) -> None:
        self._peers: dict[NodeId, _Peer] = {}
        self._numbers = 0
        self._ticked_s: float | None = None

    def set_members(self, nodes: Iterable[NodeId]) -> None:
        """The other nodes of the group; what is known of those that stay is kept."""
        self._peers = {node: self._peers.get(node) or _Peer() for node in nodes}

    def state(self, node: NodeId) -> State:
        peer = self._peers.get(node)
        return peer.state if peer else State.UNHEARD

    def alive(self, node: NodeId) -> bool:
        """Whether `node` may be given new requests."""
        return self.state(node) is State.ALIVE

    def rtt_ms(self, node: NodeId) -> float | None:
        """The smoothed time from a ping to its answer; None before the first."""
        peer = self._peers.get(node)
        return peer.rtt_ms if peer else None

    def heard(self, node: NodeId, now_s: float) -> tuple[int, int] | None:
        """For others that ask: the incarnation of a node that answers us, and for how many
        milliseconds it has not; None where we do not vouch for it."""
        peer = self._peers.get(node)
        if peer is None or peer.state is not State.ALIVE:
            return None
        return peer.incarnation, max(0, int(1000 * (now_s - peer.heard_s)))

    def tick(self, now_s: float) -> list[Effect]:
        """Call it several times a `PING_INTERVAL_S`."""
        effects: list[Effect] = []
        self._excuse(now_s)
        for node, peer in self._peers.items():
            answers = peer.state in (State.ALIVE, State.SUSPECT)
            interval_s = PING_INTERVAL_S if answers else REDIAL_INTERVAL_S
            due = now_s - peer.pinged_s >= interval_s
            if due:
                effects.append(self._ping(node, peer, now_s))
            silent_s = now_s - peer.heard_s
            if peer.state is State.ALIVE and silent_s >= SUSPECT_AFTER_S:
                peer.state = State.SUSPECT
                peer.vouched_s = peer.heard_s
                effects += self._ask(node)
            elif peer.state is State.SUSPECT:
                unheard_s = now_s - max(peer.heard_s, peer.vouched_s)
                if unheard_s >= DEAD_AFTER_S or silent_s >= GIVE_UP_AFTER_S:
                    peer.state = State.DEAD
                    effects.append(Lost(node))
                elif due:
                    effects += self._ask(node)
        return effects

    def pong(self, node: NodeId, number: int, incarnation: int, now_s: float) -> list[Effect]:
        """`node` answered ping `number`; an answer to none that is open is no sign of life."""
        peer = self._peers.get(node)
        if peer is None or number not in peer.outstanding or incarnation < peer.incarnation:
            return []
        took_ms = 1000 * (now_s - peer.outstanding.pop(number))
        known = took_ms if peer.rtt_ms is None else peer.rtt_ms
        peer.rtt_ms = known + RTT_WEIGHT * (took_ms - known)
        restarted = peer.state is not State.UNHEARD and incarnation > peer.incarnation
        peer.state = State.ALIVE
        peer.heard_s = now_s
        peer.incarnation = incarnation
        return [Restarted(node)] if restarted else []

    def vouched(self, node: NodeId, incarnation: int, age_ms: int, now_s: float) -> None:
        """Another node heard from `node` that long ago."""
        peer = self._peers.get(node)
        if peer is not None and peer.state is State.SUSPECT and incarnation >= peer.incarnation:
            peer.vouched_s = max(peer.vouched_s, now_s - age_ms / 1000)

    def broken(self, node: NodeId) -> None:
        """The connection to `node` ended, and with it what was under way."""
        peer = self._peers.get(node)
        if peer is not None:
            peer.outstanding.clear()
            if peer.state is not State.UNHEARD:
                peer.state = State.DEAD

    def _excuse(self, now_s: float) -> None:
        held_up_s = 0.0 if self._ticked_s is None else now_s - self._ticked_s - OWN_STALL_S
        self._ticked_s = now_s
        if held_up_s > 0:
            for peer in self._peers.values():
                peer.heard_s += held_up_s
                peer.vouched_s += held_up_s

    def _ping(self, node: NodeId, peer: _Peer, now_s: float) -> Ping:
        self._numbers += 1
        peer.pinged_s = now_s
        peer.outstanding[self._numbers] = now_s
        while len(peer.outstanding) > MAX_OUTSTANDING:
            del peer.outstanding[next(iter(peer.outstanding))]
        return Ping(node, self._numbers)

    def _ask(self, node: NodeId) -> Iterator[Ask]:
        """Some that live, others each time."""
        living = [other for other in self._peers if self.alive(other)]
        first = self._numbers % len(living) if living else 0
        for helper in (living[first:] + living[:first])[:HELPERS]:
            yield Ask(helper, node)

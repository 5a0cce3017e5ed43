"""The overlay's cores on a network with a clock of its own: frames take time, links break, and
hostile ones lose, repeat, swap and damage what they carry. A seed decides everything.

A link between two members keeps the order of its frames, as TCP does, unless it is hostile. When
it breaks, what is under way on it is lost and both ends are told.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from random import Random
from typing import TypeAlias

from overlay.core.client_path import Broken, Chunk, Opened
from overlay.core.effects import Peer
from overlay.core.reasons import Reason, Report
from overlay.core.wire import FRAME_BYTES, ID_BYTES, STREAM, decode_frame, read_chunk
from tests.overlay.world import TARGET, Carried, Owned, World, node_id

MIN_DELAY_S = 0.001
MAX_DELAY_S = 0.2
TICK_S = 1.0
PING_S = 20.0
HOSTILE_PER_MILLE = 5

Link: TypeAlias = tuple[bytes, bytes, bool]
"""Sender, receiver, and whether the receiver dialled."""


def link_of(carried: Carried) -> Link:
    return (carried.sender, carried.receiver, carried.dialled)


@dataclass(eq=False)
class Asked:
    """A path whose owner asked something; the model node says every chunk back."""

    owned: Owned
    sent: bytes
    back: bytearray = field(default_factory=bytearray)
    broken: Broken | None = None
    broken_s: float = 0.0


class Simulation(World):
    """`hostile` of the relays, the first ones, do to their frames what a relay may do."""

    def __init__(self, seed: int, relays: int, hostile: int = 0) -> None:
        super().__init__(relays=relays, seed=seed)
        self.random = Random(seed)
        self.asked: list[Asked] = []
        self.done_to: Counter[str] = Counter()
        self._hostile = {node_id(number) for number in range(1, hostile + 1)}
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._last_s: dict[Link, float] = {}
        self._broken: dict[Link, int] = {}
        """How often each link broke: what was under way before is lost."""
        self._by_owner: dict[bytes, Asked] = {}

    def at(self, delay_s: float, work: Callable[[], object]) -> None:
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._numbers), work))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end_s = self.now_s + seconds
        tick_s = self.now_s + TICK_S
        while True:
            due_s = self._due[0][0] if self._due else end_s
            if min(due_s, tick_s) > end_s or (not self._due and tick_s > end_s):
                self.now_s = end_s
                return
            if tick_s <= due_s:
                self.now_s, tick_s = tick_s, tick_s + TICK_S
                for member in self.line:
                    self.carry_out(member, member.core.tick(self.now_s))
            else:
                self.now_s = due_s
                heapq.heappop(self._due)[2]()

    def deliver(self, carried: Carried) -> None:
        """Put a frame on its link."""
        for sent in self._mistreated(carried):
            link = link_of(sent)
            arrives_s = self.now_s + self.random.uniform(MIN_DELAY_S, MAX_DELAY_S)
            arrives_s = max(arrives_s, self._last_s.get(link, 0.0))
            self._last_s[link] = arrives_s
            times = self._broken.get(link, 0)
            self.at(arrives_s - self.now_s, partial(self._arrived, sent, times))

    def break_link(self, dialler: bytes, other: bytes) -> None:
        """The connection that `dialler` opened to `other` ends."""
        for link in ((dialler, other, False), (other, dialler, True)):
            self._broken[link] = self._broken.get(link, 0) + 1
        for node, peer in ((dialler, Peer(True, other)), (other, Peer(False, dialler))):
            if node in self.members:
                self.carry_out(self.members[node], self.members[node].core.peer_gone(peer))
            elif node in self._by_owner:
                asked = self._by_owner[node]
                asked.owned.path.close()
                self._note(asked, Broken(Report(Reason.NEIGHBOUR_GONE), None))

    def ask(self, hops: list[bytes], data: bytes) -> Asked:
        """Build a path, and ask over it as soon as it is open."""
        owner = b"owner-%d" % len(self.asked)
        asked = Asked(self.begin(hops, owner), data)
        self.asked.append(asked)
        self._by_owner[owner] = asked
        return asked

    def _arrived(self, carried: Carried, times: int) -> None:
        if self._broken.get(link_of(carried), 0) != times:
            return  # it was under way when the connection broke
        for sent in self.arrive(carried):
            self.deliver(sent)
        if carried.receiver == TARGET:
            self._answer(self.arrived[TARGET].popleft())
        elif carried.receiver in self._by_owner:
            self._take_in(self._by_owner[carried.receiver])

    def _answer(self, asked: Carried) -> None:
        frame = decode_frame(asked.frame)
        if frame.kind == STREAM:
            relay = self.members[asked.sender]
            self.carry_out(relay, relay.core.sent(Peer(True, TARGET), frame.link_id))
            self.answer(asked, read_chunk(frame.body))

    def _take_in(self, asked: Asked) -> None:
        for event in asked.owned.receive():
            match event:
                case Opened():
                    _, sends = asked.owned.path.open_stream(TARGET, asked.sent)
                    asked.owned.send(sends)
                case Chunk():
                    asked.back += event.data
                case Broken():
                    self._note(asked, event)
                case _:
                    pass

    def _note(self, asked: Asked, event: Broken) -> None:
        if asked.broken is None:
            asked.broken, asked.broken_s = event, self.now_s

    def _mistreated(self, carried: Carried) -> list[Carried]:
        """What is sent in place of a frame: a hostile relay does it to what it sends. What it does
        to streams that it reads itself, the seals of the request and the answer are there for."""
        spared = carried.sender not in self._hostile or carried.receiver == TARGET
        if spared or self.random.randrange(1000) >= HOSTILE_PER_MILLE:
            return [carried]
        deed = self.random.choice(("lose", "repeat", "damage", "truncate", "delay"))
        self.done_to[deed] += 1
        match deed:
            case "lose":
                return []
            case "repeat":
                return [carried, carried]
            case "damage":
                at = self.random.randrange(ID_BYTES, FRAME_BYTES)
                frame = bytearray(carried.frame)
                frame[at] ^= 1 << self.random.randrange(8)
                return [replace(carried, frame=bytes(frame))]
            case "truncate":
                return [replace(carried, frame=carried.frame[:-1])]
        # Later frames overtake it.
        again = partial(self._arrived, carried, self._broken.get(link_of(carried), 0))
        self.at(2 * MAX_DELAY_S, again)
        return []

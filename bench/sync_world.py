"""Nodes of a group that sync over a network which loses, doubles, delays and parts, all on one
simulated clock; and conversations for them to tell of."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection, Iterable
from itertools import count

from modelnode.core.chunks import Scheme
from modelnode.core.hr_tree import HRTree
from modelnode.core.sync import Effect, Fault, Holds, Lost, Send
from modelnode.core.sync_group import GroupSync
from modelnode.core.sync_log import Log
from modelnode.core.sync_messages import DOMAIN
from planetserve.keys import Identity, NodeId, identity_from

MODEL, SCHEME = "a-model", Scheme("text", 64)
STEP_S = 0.05
DELAY_S = 0.02
REPLY_S = 0.6
THINK_S = 4.0


def identities(number: int) -> list[Identity]:
    source = random.Random(7)
    return [identity_from(source.randbytes(96)) for _ in range(number)]


class Node:
    """A log, readers and a tree, wired as a model node wires them."""

    def __init__(
        self, identity: Identity, group: list[NodeId], now_s: float, epoch: int = 1
    ) -> None:
        self.id = identity.id
        self.group = group
        log = Log(
            identity.public_key,
            MODEL,
            SCHEME,
            epoch,
            now_s,
            lambda message: identity.sign(DOMAIN, message),
        )
        self.sync = GroupSync(log, MODEL, SCHEME)
        self.sync.set_peers([node for node in group if node != self.id], now_s)
        self.tree = HRTree(1)
        self.faults: list[str] = []

    def send(self, owner: NodeId, path: bytes, now_s: float, *, whole: bool = True) -> None:
        """A request goes to `owner`."""
        self._learn(owner, path, self.id, now_s)
        self.sync.log.tell(owner, path, now_s, whole=whole)

    def empty(self, now_s: float) -> None:
        """The own engine lost its cache."""
        self.tree.drop_owner(self.group.index(self.id))
        self.sync.log.emptied(self.id, now_s)

    def apply(self, origin: NodeId, effects: Iterable[Effect], now_s: float) -> list[bytes]:
        """What goes back to `origin`."""
        sent, work = [], self.tree.work
        for effect in effects:
            match effect:
                case Send(data):
                    sent.append(data)
                case Holds(node, path):
                    self._learn(node, path, origin, now_s)
                case Lost(node) if node == origin:
                    self.tree.drop_owner(self.group.index(node))
                    self.sync.log.emptied(node, now_s)
                case Lost(node):
                    self.tree.drop_told(self.group.index(node), self.group.index(origin))
                case Fault(cause):
                    self.faults.append(cause)
        self.sync.charge(origin, self.tree.work - work, now_s)
        return sent

    def _learn(self, owner: NodeId, path: bytes, teller: NodeId, now_s: float) -> None:
        self.tree.insert(path, self.group.index(owner), now_s, self.group.index(teller))


class Network:
    """`loss` and `doubled` are chances; a message takes `DELAY_S`, and up to `jitter_s` more."""

    def __init__(self, number: int, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.identities = identities(number)
        self.ids = [identity.id for identity in self.identities]
        self.now_s = 0.0
        self.nodes = {i.id: Node(i, self.ids, 0.0) for i in self.identities}
        self.loss = self.doubled = self.jitter_s = 0.0
        self.reachable: Callable[[NodeId, NodeId], bool] = lambda one, other: True
        self._order = count()
        self._flying: list[tuple[float, int, NodeId, NodeId, bytes]] = []

    def part(self, part: Collection[NodeId]) -> None:
        """These and the others do not reach each other until `join`."""
        self.reachable = lambda one, other: (one in part) == (other in part)

    def join(self) -> None:
        self.reachable = lambda one, other: True

    def restart(self, node: NodeId) -> None:
        identity = self.identities[self.ids.index(node)]
        epoch = self.nodes[node].sync.log.position[0] + 1
        self.nodes[node] = Node(identity, self.ids, self.now_s, epoch)

    def run(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-9:
            self.now_s += STEP_S
            while self._flying and self._flying[0][0] <= self.now_s:
                at_s, _, sender, receiver, data = heapq.heappop(self._flying)
                if self.reachable(sender, receiver):
                    node = self.nodes[receiver]
                    effects = node.sync.receive(sender, data, at_s)
                    self._post(receiver, sender, node.apply(sender, effects, at_s))
            for sender, node in self.nodes.items():
                messages = node.sync.messages(self.now_s)
                for receiver in self.ids:
                    if receiver != sender:
                        self._post(sender, receiver, messages)

    def behind(self) -> list[tuple[NodeId, NodeId]]:
        """Readers and origins of whom they have not heard all."""
        return [
            (reader.id, origin.id)
            for reader in self.nodes.values()
            for origin in self.nodes.values()
            if reader is not origin and not _has_heard(reader, origin)
        ]

    def run_until_converged(self, limit_s: float) -> float:
        """Seconds until nobody is behind; more than `limit_s` when it took longer."""
        start_s = self.now_s
        while self.behind() and self.now_s - start_s <= limit_s:
            self.run(STEP_S)
        return self.now_s - start_s

    def _post(self, sender: NodeId, receiver: NodeId, messages: Iterable[bytes]) -> None:
        for data in messages:
            copies = 1 + (self.random.random() < self.doubled)
            for _ in range(copies):
                if self.random.random() < self.loss or not self.reachable(sender, receiver):
                    continue
                at_s = self.now_s + DELAY_S + self.random.random() * self.jitter_s
                entry = (at_s, next(self._order), sender, receiver, data)
                heapq.heappush(self._flying, entry)


class Conversations:
    """Conversations with shared system prompts, in chunks. Who asks reads the reply and thinks for
    `THINK_S` on average before the next question."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._systems = [source.randbytes(2 * source.randrange(5, 40)) for _ in range(20)]
        self._open: list[tuple[float, int, bytes]] = []

    def next(self, now_s: float) -> tuple[bytes, bytes, int]:
        """The paths of a prompt and of it with its reply, in a new conversation or in one that
        goes on, and a number that is the conversation's."""
        draw = self._random
        if self._open and self._open[0][0] <= now_s and draw.random() < 0.9:
            _, number, history = heapq.heappop(self._open)
        else:
            # Zipf's law: the first system prompts are those of most.
            rank = min(int(draw.paretovariate(1.0)), len(self._systems))
            history, number = self._systems[rank - 1], draw.randrange(1 << 30)
        prompt = history + draw.randbytes(2 * draw.randrange(2, 7))
        whole = prompt + draw.randbytes(2 * draw.randrange(4, 13))
        if draw.random() < 0.8:
            again_s = now_s + REPLY_S + 1.0 + draw.expovariate(1 / (THINK_S - 1.0))
            heapq.heappush(self._open, (again_s, number, whole))
        return prompt, whole, number


def talk(
    network: Network,
    conversations: Conversations,
    seconds: float,
    requests: int,
    *,
    roaming: bool = False,
) -> None:
    """Requests at every node, each prompt told when it is sent and again with its reply. A
    conversation stays with its entry unless it is `roaming`."""
    open_requests: list[tuple[float, Node, NodeId, bytes]] = []
    end_s = network.now_s + seconds
    for left in range(requests, -1, -1):
        if left:
            prompt, whole, number = conversations.next(network.now_s)
            place = network.random.randrange(64) if roaming else number // 64
            entry = network.nodes[network.ids[place % len(network.ids)]]
            owner = network.ids[number % len(network.ids)]
            entry.send(owner, prompt, network.now_s, whole=False)
            open_requests.append((network.now_s + REPLY_S, entry, owner, whole))
            network.run((end_s - network.now_s) / left)
        while open_requests and (not left or open_requests[0][0] <= network.now_s):
            _, entry, owner, whole = open_requests.pop(0)
            entry.send(owner, whole, network.now_s)


def _has_heard(reader: Node, origin: Node) -> bool:
    heard, log = reader.sync.readers[origin.id], origin.sync.log
    return not log.waiting and heard.position == log.position and heard.held() == log.held()

"""The sync of the HR-tree: bytes a request beside simpler ways to tell everyone, convergence after
a partition, and what a larger group costs. Simulated network and clock, real messages.
"""

from __future__ import annotations

import random
import time

from bench.figures import Figure
from bench.sync_world import (
    MODEL,
    REPLY_S,
    SCHEME,
    STEP_S,
    Conversations,
    Network,
    identities,
    talk,
)
from modelnode.core.chunks import Path
from modelnode.core.hr_tree import HRTree
from modelnode.core.sync import Holds, Reader
from modelnode.core.sync_log import Log
from modelnode.core.sync_messages import DOMAIN, Ask, decode_sync
from modelnode.group_messages import Sync, encode_message
from planetserve.encoding import encode
from planetserve.keys import Identity, NodeId

ENTRIES = 8
REQUESTS = 1_200
RATES = (1.25, 2.5, 10.0)
"""Requests a second at each entry node."""
LIMIT_REQUEST_BYTES = 64.0
LIMIT_CONVERGENCE_S = 2.0
PARTITIONS = 20
GROUPS = (10, 100, 1_000)
GROWTH_SECONDS = 60


def figures() -> list[Figure]:
    return [*_bytes(), *_own_word(), *_convergence(), *_reading(), *_growth()]


def _bytes() -> list[Figure]:
    found = []
    for rate in RATES:
        for roaming in (False, True):
            network, whole = _talked(rate, roaming)
            sent = sum(node.sync.counts.sent_bytes for node in network.nodes.values())
            what = "to any entry" if roaming else "to one entry"
            found.append(
                Figure(
                    f"sync, conversations {what}, {rate:g} requests/s",
                    sent / (ENTRIES - 1) / REQUESTS,
                    "B/request",
                    limit=LIMIT_REQUEST_BYTES,
                )
            )
            if rate == RATES[1] and not roaming:
                found += _beside(network, whole, rate, sent / (ENTRIES - 1))
    return found


def _talked(rate: float, roaming: bool) -> tuple[Network, list[int]]:
    """A network that has served `REQUESTS`, and how long each prompt with its reply was."""
    network = Network(ENTRIES)
    lengths: list[int] = []

    class Counted(Conversations):
        def next(self, now_s: float) -> tuple[bytes, bytes, int]:
            prompt, whole, number = super().next(now_s)
            lengths.append(len(whole))
            return prompt, whole, number

    talk(
        network,
        Counted(random.Random(9)),
        REQUESTS / rate / ENTRIES,
        REQUESTS,
        roaming=roaming,
    )
    network.run(3.0)
    return network, lengths


def _beside(network: Network, lengths: list[int], rate: float, sent: float) -> list[Figure]:
    """The same requests told as whole paths, and as all that a node holds once a second; each as
    small as this format has it, without signatures."""
    paths = sum(len(encode([0, 0, 0, bytes(length)])) for length in lengths)
    held = [len(encode([path for _, path in n.sync.log.held()])) for n in network.nodes.values()]
    # What a node holds grows from nothing to this; half of it is sent on average.
    seconds = REQUESTS / rate / ENTRIES
    broadcast = sum(held) / 2 * seconds
    name = f"at {rate:g} requests/s beside"
    return [
        Figure(f"sync {name} whole paths", sent / REQUESTS, "B/request", peer=paths / REQUESTS),
        Figure(
            f"sync {name} full broadcast", sent / REQUESTS, "B/request", peer=broadcast / REQUESTS
        ),
    ]


def _convergence() -> list[Figure]:
    """Until all eight have heard all that was told while the group was in two parts for 30 s."""
    taken = []
    for seed in range(PARTITIONS):
        network = Network(ENTRIES, seed)
        conversations = Conversations(random.Random(seed))
        talk(network, conversations, 5.0, 40)
        network.part(network.ids[: 1 + seed % (ENTRIES - 1)])
        talk(network, conversations, 30.0, 120)
        network.join()
        taken.append(network.run_until_converged(2 * LIMIT_CONVERGENCE_S))
    return [
        Figure(
            f"convergence after {PARTITIONS} partitions, longest",
            max(taken),
            "s",
            limit=LIMIT_CONVERGENCE_S,
        )
    ]


def _log(identity: Identity) -> Log:
    return Log(identity.public_key, MODEL, SCHEME, 1, 0.0, lambda data: identity.sign(DOMAIN, data))


def _told(log: Log, owners: list[NodeId], rate: float, seconds: float) -> list[tuple[float, bytes]]:
    """What a log sends each peer of conversations that are spread over `owners`."""
    conversations = Conversations(random.Random(4))
    sent, step_s = [], 0.05
    due = 0.0
    for step in range(int(seconds / step_s)):
        now_s = step * step_s
        due += rate * step_s
        while due >= 1:
            due -= 1
            _, whole, number = conversations.next(now_s)
            log.tell(owners[number % len(owners)], whole, now_s)
        sent += [(now_s, data) for data in log.messages(now_s)]
    return sent


def _own_word() -> list[Figure]:
    """What a serving node tells each peer of its own cache, as `modelnode.gossip` does."""
    found = []
    for rate in RATES:
        conversations = Conversations(random.Random(9))
        (identity,) = identities(1)
        log = _log(identity)
        replies: list[tuple[float, Path]] = []
        requests = sent = 0
        for step in range(int(REQUESTS / ENTRIES / rate / STEP_S)):
            now_s = step * STEP_S
            while requests < now_s * rate:
                requests += 1
                prompt, whole, _ = conversations.next(now_s)
                log.tell(identity.id, prompt, now_s, whole=False)
                replies.append((now_s + REPLY_S, whole))
            while replies and replies[0][0] <= now_s:
                log.tell(identity.id, replies.pop(0)[1], now_s)
            sent += sum(len(encode_message(Sync(data))) for data in log.messages(now_s))
        name = f"sync of the own cache, {rate:g} requests/s"
        found.append(Figure(name, sent / requests, "B/request", limit=LIMIT_REQUEST_BYTES))
    return found


def _reading() -> list[Figure]:
    """Of one item, from the message to the tree, at one reader."""
    identity, reading = identities(2)
    log = _log(identity)
    reader = Reader(identity.id, MODEL, SCHEME, 0.0, lambda identifier: None)
    reader.connected(0.0)
    answer = log.answer(reading.id, Ask(0, 0), 0.0)
    messages = [(0.0, data) for data in answer] + _told(log, [identity.id], 20.0, 100.0)
    tree, items = HRTree(1), 0
    started_ns = time.thread_time_ns()
    for now_s, data in messages:
        for effect in reader.receive(decode_sync(data), data, now_s):
            if isinstance(effect, Holds):
                tree.insert(effect.path, 0, now_s, 1)
                items += 1
    taken_us = (time.thread_time_ns() - started_ns) / 1e3
    return [Figure("reading and registering a told prefix", taken_us / items, "us")]


def _growth() -> list[Figure]:
    """What a node hears each second when each node tells of one request a second."""
    found = []
    (identity,) = identities(1)
    source = random.Random(5)
    for group in GROUPS:
        owners = [NodeId(source.randbytes(20)) for _ in range(group)]
        sent = _told(_log(identity), owners, 1.0, GROWTH_SECONDS)
        a_second = sum(len(data) for _, data in sent) / GROWTH_SECONDS
        name = f"sync heard by each of {group} nodes"
        found.append(Figure(name, a_second * (group - 1) / 1_000, "kB/s"))
        found.append(Figure(f"{name}, a request", a_second, "B"))
    return found

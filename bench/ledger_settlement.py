"""Settlement of an epoch in the pure core: the whole transition of the epoch's last block, on a
state in memory. 100 verifiers judge nodes in good standing, so each node is drawn by about eight
of them, as the parameters' defaults say; who is drawn is decided by the draws themselves. Python
looks for garbage as it does in `ps-node`."""

from __future__ import annotations

import json
import math
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from abci_app.core.chain import Chain, load_chain
from abci_app.core.credentials import GENESIS_ENDORSER, Credential, put
from abci_app.core.genesis import genesis
from abci_app.core.nodes import Node, save_node
from abci_app.core.quotas import Quota, save_quota
from abci_app.core.reputation import save_reputation
from abci_app.core.routes import refresh_route
from abci_app.core.state import EMPTY, View
from abci_app.core.transition import Block, transition
from abci_app.server import tune_interpreter
from bench.figures import Figure
from bench.ledger_transactions import CHAIN_ID, MODEL, make_cast, make_document
from planetserve import vrf
from planetserve.assignment import is_assigned, ticket_input
from planetserve.keys import node_id
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation
from planetserve.statekeys import commit_key, reveal_key

VERIFIERS = 100
NODES = (1_000, 3_000, 10_000)
REPEATS = 3
STEADY_PPM = 900_000
GENESIS_TIME = "2026-01-01T00:00:00Z"
NEVER = 10_000_000


class SortedReader:
    """A state in memory whose scans cost what they return, as a database's do."""

    def __init__(self, items: Mapping[bytes, bytes | None]) -> None:
        self._items = {key: value for key, value in items.items() if value is not None}
        self._pairs = sorted(self._items.items())
        self._keys = [key for key, _ in self._pairs]

    def get(self, key: bytes) -> bytes | None:
        return self._items.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        start = bisect_left(self._keys, prefix)
        # A prefix begins with a store's name, so there is a byte that can be raised by one.
        stem = prefix.rstrip(b"\xff")
        end = bisect_left(self._keys, stem[:-1] + bytes([stem[-1] + 1]), start)
        return iter(self._pairs[start:end])


def settlement_figures() -> list[Figure]:
    seconds, reveals = {}, {}
    for nodes in NODES:
        seconds[nodes], reveals[nodes] = _measure(nodes)
    small, large = NODES[0], NODES[-1]
    expected = large * math.log(large) / (small * math.log(small))
    figures = [
        Figure(
            f"settlement, {nodes:,} nodes, {reveals[nodes]:,} reveals",
            seconds[nodes],
            "s",
            limit=1.0 if nodes == large else None,
        )
        for nodes in NODES
    ]
    growth = Figure(
        f"settlement, growth from {small:,} to {large:,} beside n log n",
        seconds[large] / seconds[small],
        "times",
        limit=1.0,
        peer=expected,
    )
    return [*figures, growth]


def _measure(nodes: int) -> tuple[float, int]:
    """The median of the processor seconds for the block that settles, and how many reveals it
    finds."""
    reader, chain, reveals = _state(nodes)
    tune_interpreter()
    last = chain.epoch.start + chain.parameters.epoch_blocks - 1
    taken = []
    for _ in range(REPEATS):
        started_s = time.process_time()
        result = transition(reader, Block(last, ()))
        taken.append(time.process_time() - started_s)
        # By chance nobody is drawn for a few nodes in ten thousand.
        if result.settlement is None or len(result.settlement.results) < 0.99 * nodes:
            raise RuntimeError("the block did not settle the nodes")
        if any(item.judgement.credit_ppm is None for item in result.settlement.results[:1]):
            raise RuntimeError("the scores decided nothing")
    return statistics.median(taken), reveals


def _state(nodes: int) -> tuple[SortedReader, Chain, int]:
    cast = make_cast(0, VERIFIERS, validators=0)
    probers = {"probers_per_node": Parameters().probers_per_node}
    document = json.loads(make_document(cast, GENESIS_TIME, probers))
    view = View(EMPTY, genesis(CHAIN_ID, json.dumps(document["app_state"]).encode()))
    chain = load_chain(view)
    steady = Reputation(STEADY_PPM, (STEADY_PPM,) * 5, trusted=True, admitted=True)
    identifiers = []
    for number in range(nodes):
        node = _node(number)
        save_node(view, node)
        put(view, node.id, "model", GENESIS_ENDORSER, Credential(0, NEVER))
        save_reputation(view, node.id, steady)
        refresh_route(view, node.id, 1)
        identifiers.append(node.id)
    ticket = ticket_input(CHAIN_ID, chain.epoch.number, chain.epoch.seed)
    reveals = 0
    for place, prober in enumerate(cast.probers):
        proof = vrf.prove(prober.seed, ticket)
        output = vrf.output(proof)
        share = chain.epoch.sample_ppm
        assigned = [each for each in identifiers if is_assigned(output, each, share)]
        for each in assigned:
            view.save(commit_key(prober.id, each), {"commitment": bytes(32), "height": 2})
            view.save(reveal_key(each, prober.id), [STEADY_PPM + place, 4, bytes(32)])
        save_quota(view, prober.id, Quota(len(assigned), len(assigned), 0, proof))
        reveals += len(assigned)
    return SortedReader(view.writes), chain, reveals


def _node(number: int) -> Node:
    key = b"node" + number.to_bytes(28, "big")
    return Node(
        key=key,
        name=f"node-{number}",
        roles=("model",),
        onion_key=b"onion" + number.to_bytes(27, "big"),
        transport_key=b"transport" + number.to_bytes(23, "big"),
        endpoints={"group": "tcp://127.0.0.1:9000", "overlay": "tcp://127.0.0.1:9001"},
        model=MODEL,
        operator=node_id(key).hex()[:8],
        registered=1,
    )

"""A chain of 66 blocks from fixed keys on which everything happens that the ledger knows.

    python -m tests.vectors.script [--turned]     prints the app hash of each height

What it prints must not hang on the interpreter, its hash seed, or the order in which the state
lies in memory; `--turned` turns that order around after every block.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abci_app.core.apphash import advance, app_hash
from planetserve import transactions
from planetserve.keys import Identity
from planetserve.transactions import (
    ENDORSE,
    EVIDENCE,
    MODEL,
    PROPOSE,
    REGISTER,
    RETIRE,
    REVOKE,
    ROTATE,
    UPDATE,
    VOTE,
)
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    conflict,
    participant,
    registration,
)
from tests.abci_app.world import MODEL as NODE

PARAMS = {
    "epoch_blocks": 6,
    "commit_blocks": 2,
    "voting_blocks": 8,
    "probers_per_node": 3,
    "alarm_epochs": 1,
    "probation_epochs": 2,
    "history_epochs": 6,
    "candidate_blocks": 20,
}
A, B, C, D = VERIFIERS
USER, STRANGER, LATECOMER = participant(61), participant(62), participant(63)
NEW_FOUNDER, NEW_VERIFIER, NEWCOMER = participant(80), participant(81), participant(82)
LAST_HEIGHT = 66


@dataclass(frozen=True, slots=True)
class Played:
    """One block of the script, and the app hash and stores' roots after it."""

    height: int
    transactions: tuple[bytes, ...]
    codes: tuple[int, ...]
    validator_updates: tuple[tuple[bytes, int], ...]
    app_hash: bytes


class Recorder(World):
    """A world that keeps its trees and what each block came to."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__(PARAMS)
        self.turned = turned
        self.roots: dict[str, bytes] = {}
        self.nodes: dict[tuple[str, bytes], bytes] = {}
        self.played: list[Played] = []
        self._grow(dict(self.items), ())
        self.genesis_hash = app_hash(self.roots)

    def block(self, *raw: bytes) -> Any:
        sent = (*self.queued, *raw)
        result = super().block(*raw)
        self._grow(result.writes, result.cleared)
        codes = tuple(int(item.code) for item in result.results)
        updates = result.validator_updates
        self.played.append(Played(self.height, sent, codes, updates, app_hash(self.roots)))
        if self.turned:
            self.items = dict(reversed(self.items.items()))
            self.nodes = dict(reversed(self.nodes.items()))
        return result

    def read(self, store: str, path: bytes) -> bytes | None:
        return self.nodes.get((store, path))

    def _grow(self, writes: Mapping[bytes, bytes | None], cleared: Iterable[str]) -> None:
        if self.turned:
            writes = dict(reversed(list(writes.items())))
        self.roots, changed = advance(self.read, self.roots, writes, tuple(cleared))
        self.nodes = {key: node for key, node in self.nodes.items() if key[0] not in cleared}
        for key, node in changed.items():
            if node is None:
                self.nodes.pop(key, None)
            else:
                self.nodes[key] = node


def play(*, turned: bool = False) -> Recorder:
    world = Recorder(turned=turned)
    epochs = (_arrivals, _votes, _faults, _rotations, _join, _samples, _exits, _powers)
    for number, steps in enumerate(epochs):
        assert world.chain.epoch.number == number
        steps(world)
        world.advance_to(world.window.end)
    world.send(LATECOMER, REGISTER, registration(LATECOMER))
    _epoch(world, {NEW_FOUNDER.id: 850_000})
    world.advance_to(LAST_HEIGHT + 1)
    return world


def _arrivals(world: World) -> None:
    for identity, role in ((FOUNDER, "model"), (NODE, "model"), (RELAY, "relay")):
        world.send(identity, REGISTER, registration(identity, role=role))
    world.send(STRANGER, REGISTER, registration(STRANGER))
    world.send(A, ENDORSE, transactions.endorse(node=RELAY.id, role="relay", expires=40))
    world.send(B, ENDORSE, transactions.endorse(node=NODE.id, role="model", expires=500))
    world.send(C, ENDORSE, transactions.endorse(node=USER.id, role="user", expires=500))
    world.send(D, ENDORSE, transactions.endorse(node=RELAY.id, role="user", expires=500))
    world.block(b"not a transaction")
    _epoch(world, {FOUNDER.id: 900_000, NODE.id: 800_000})


def _votes(world: World) -> None:
    world.send(USER, REGISTER, registration(USER, role="user"))
    model = transactions.model(
        name="small",
        weights_digest=bytes(range(32)),
        quantization="Q8_0",
        context_tokens=4096,
        deterministic=False,
    )
    world.send(A, MODEL, model)
    change = {"kind": "parameter", "name": "max_candidates", "value": 50}
    world.send(A, PROPOSE, transactions.propose(change=change))
    change = {"kind": "parameter", "name": "voting_blocks", "value": 99}
    world.send(D, PROPOSE, transactions.propose(change=change))
    _commits(world, {FOUNDER.id: 900_000, NODE.id: 700_000})
    world.block()
    for voter in (B, C):
        world.send(voter, VOTE, transactions.vote(proposal=1, approve=True))
        world.send(voter, VOTE, transactions.vote(proposal=2, approve=False))
    world.block()
    _reveals(world, {FOUNDER.id: 900_000, NODE.id: 700_000})


def _faults(world: World) -> None:
    """One prober leaves its commitments unopened, one node has given two answers."""
    _epoch(world, {FOUNDER.id: 900_000}, silent=(D,))
    world.send(B, EVIDENCE, conflict(NODE, "one", "other"))
    world.send(C, EVIDENCE, conflict(NODE, "one", "other"))
    world.block()


def _rotations(world: World) -> None:
    for old, new in ((FOUNDER, NEW_FOUNDER), (D, NEW_VERIFIER)):
        world.send(old, ROTATE, transactions.rotate(CHAIN_ID, old.public_key, new))
    world.send(RELAY, UPDATE, {**registration(RELAY, "renamed"), "operator": "somebody"})
    _epoch(world, {FOUNDER.id: 950_000, NODE.id: 900_000})


def _join(world: World) -> None:
    join = {
        "kind": "join",
        "key": NEWCOMER.public_key,
        "name": "newcomer",
        "consensus_key": participant(83).public_key,
        "onion_key": NEWCOMER.onion_public,
        "transport_key": NEWCOMER.transport_public,
        "power": 10,
    }
    world.send(A, PROPOSE, transactions.propose(change=join))
    _commits(world, {NEW_FOUNDER.id: 900_000, NODE.id: 900_000})
    world.block()
    _approve(world, 3, (B, C))
    _reveals(world, {NEW_FOUNDER.id: 900_000, NODE.id: 900_000})


def _samples(world: World) -> None:
    """With five verifiers, three are drawn for a node in good standing."""
    _epoch(world, {NEW_FOUNDER.id: 900_000, NODE.id: 900_000})
    world.send(A, REVOKE, transactions.revoke(node=RELAY.id, role="relay"))


def _exits(world: World) -> None:
    _epoch(world, {NEW_FOUNDER.id: 100_000, NODE.id: 900_000})
    world.send(USER, RETIRE, transactions.retire())
    _decide(world, 4, {"kind": "leave", "verifier": C.id}, (B, C, NEWCOMER))


def _powers(world: World) -> None:
    power = {"kind": "power", "verifier": B.id, "power": 12}
    world.send(A, PROPOSE, transactions.propose(change=power))
    exact: dict[str, Any] = {
        "name": "exact",
        "weights_digest": bytes(range(32)),
        "quantization": "bf16",
        "context_tokens": 8192,
        "deterministic": True,
    }
    changes: tuple[dict[str, Any], ...] = (
        {"kind": "model", **exact},
        {"kind": "expel", "node": NODE.id},
        {"kind": "upgrade", "version": 2, "height": 1_000},
    )
    for change in changes:
        world.send(NEW_VERIFIER, PROPOSE, transactions.propose(change=change))
    world.block()
    for voter in (B, NEW_VERIFIER, NEWCOMER):
        world.send(voter, VOTE, transactions.vote(proposal=5, approve=True))
    for number in (6, 7, 8):
        for voter in (A, B, NEWCOMER):
            world.send(voter, VOTE, transactions.vote(proposal=number, approve=True))
    world.block()
    world.send(NEW_FOUNDER, ROTATE, {"new_key": USER.public_key, "proof": bytes(64)})
    _decide(world, 9, {"kind": "cancel", "version": 2}, (B, NEWCOMER))


def _probers(world: World) -> list[Identity]:
    everyone = (A, B, C, D, NEWCOMER)
    return [identity for identity in everyone if b"verifiers/" + identity.id in world.items]


def _scores(world: World, scores: Mapping[bytes, int]) -> Iterator[tuple[Identity, bytes, int]]:
    for node, score_ppm in scores.items():
        for number, prober in enumerate(_probers(world)):
            if world.assigned(prober, node):
                yield prober, node, score_ppm + 1_000 * number


def _commits(world: World, scores: Mapping[bytes, int]) -> None:
    for prober, node, score_ppm in _scores(world, scores):
        world.commit(prober, node, score_ppm)


def _reveals(world: World, scores: Mapping[bytes, int], silent: tuple[Identity, ...] = ()) -> None:
    world.advance_to(world.window.commit_end)
    for prober, node, score_ppm in _scores(world, scores):
        if prober not in silent:
            world.reveal(prober, node, score_ppm)
    world.block()


def _epoch(world: World, scores: Mapping[bytes, int], silent: tuple[Identity, ...] = ()) -> None:
    _commits(world, scores)
    world.block()
    _reveals(world, scores, silent)


def _decide(
    world: World, number: int, change: dict[str, Any], voters: tuple[Identity, ...]
) -> None:
    world.send(A, PROPOSE, transactions.propose(change=change))
    world.block()
    _approve(world, number, voters)


def _approve(world: World, number: int, voters: tuple[Identity, ...]) -> None:
    for voter in voters:
        world.send(voter, VOTE, transactions.vote(proposal=number, approve=True))
    world.block()


if __name__ == "__main__":
    for item in play(turned="--turned" in sys.argv[1:]).played:
        print(item.height, item.app_hash.hex())

"""Where tests begin: chains on which something has happened, and the transactions they send."""

from __future__ import annotations

from typing import Any

from abci_app.core.codes import MEANINGS
from abci_app.core.state import load
from planetserve import transactions
from planetserve.keys import Identity
from planetserve.records import NodeRecord
from planetserve.statekeys import route_key, waiting_key
from planetserve.transactions import (
    PROPOSE,
    REGISTER,
)
from tests.abci_app.world import (
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    participant,
    registration,
    score_data,
)

A, B, C, D = VERIFIERS
NEWCOMER = participant(90)
TINY = transactions.model(
    name="another",
    weights_digest=bytes(32),
    quantization="F16",
    context_tokens=8,
    deterministic=False,
)
TAU = {"kind": "parameter", "name": "abnormal_below_ppm", "value": 450_000}


def code_of(world: World, identity: Identity, kind: str, data: dict[str, Any]) -> int:
    return only_code(world, world.sign(identity, kind, data))


def only_code(world: World, raw: bytes) -> int:
    before = dict(world.items)
    result = world.block(raw).results[0]
    if result.code:
        assert world.items == before, "a refused transaction leaves no trace"
        assert result.log.startswith(MEANINGS[result.code])
        assert result.events == ()
    return int(result.code)


def record(world: World, identity: Identity) -> NodeRecord:
    """As readers see the node, in whichever of the two stores it is."""
    found = [load(world.state, key) for key in (route_key(identity.id), waiting_key(identity.id))]
    (only,) = [item for item in found if item is not None]
    return NodeRecord.from_wire(only)


def endorsement(identity: Identity, role: str = "relay", expires: int = 50) -> dict[str, Any]:
    return transactions.endorse(node=identity.id, role=role, expires=expires)


def with_relay(params: dict[str, int] | None = None) -> World:
    world = World(params)
    world.admit(RELAY)
    return world


def with_founder(params: dict[str, int] | None = None) -> World:
    world = World(params)
    world.send(FOUNDER, REGISTER, registration(FOUNDER, role="model"))
    world.block()
    return world


def with_commitment(score_ppm: int = 800_000) -> World:
    """One verifier has committed to a score of the founder and may reveal it."""
    world = with_founder()
    world.commit(A, FOUNDER.id, score_ppm)
    world.block()
    world.advance_to(world.window.commit_end)
    return world


def with_proposal(params: dict[str, int] | None = None) -> World:
    world = World(params)
    world.send(A, PROPOSE, transactions.propose(change=TAU))
    world.block()
    return world


def opening(world: World, score_ppm: int = 800_000, **other: Any) -> dict[str, Any]:
    data = score_data(world.chain.epoch.number, FOUNDER.id, score_ppm, proof=world.proof(A))
    return {**data, **other}


def commitment(node: bytes = FOUNDER.id, epoch: int = 0) -> dict[str, Any]:
    return transactions.commit(epoch=epoch, node=node, commitment=bytes(32))

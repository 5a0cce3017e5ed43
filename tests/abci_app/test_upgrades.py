"""Upgrades of the rules, with a version 2 made up for the purpose."""

from typing import Any

import pytest

from abci_app.core.governance import FAILED, PASSED
from abci_app.core.models import all_models
from abci_app.core.state import MapReader, View, load, records
from abci_app.core.transition import Block, BlockResult, transition
from abci_app.core.upgrades import (
    UPGRADES,
    Scheduled,
    Upgrade,
    UpgradeNeeded,
    due,
    require_known,
    run_upgrade,
    schedule,
    scheduled,
)
from planetserve.statekeys import CHAIN_KEY, NEXT_PROPOSAL_KEY, UPGRADE_KEY, proposal_key
from planetserve.transactions import PROPOSE, VOTE
from tests.abci_app.world import VERIFIERS, World


def double_contexts(view: View) -> None:
    """What version 2 does to every model's record."""
    for rest, record in list(records(view, b"models/")):
        changed = {**record, "context_tokens": 2 * record["context_tokens"]}
        view.save(b"models/" + rest, changed)


NEXT = {**UPGRADES, 2: Upgrade(2, double_contexts)}


def scheduled_world(height: int) -> World:
    """A world whose verifiers have voted version 2 for `height`."""
    world = World({"voting_blocks": 3})
    vote(world, {"kind": "upgrade", "version": 2, "height": height})
    return world


def vote(world: World, change: dict[str, Any]) -> None:
    world.send(VERIFIERS[0], PROPOSE, {"change": change})
    world.block()
    number = load(world.state, NEXT_PROPOSAL_KEY) - 1
    for verifier in VERIFIERS[1:3]:
        world.send(verifier, VOTE, {"proposal": number, "approve": True})
    world.block()


def apply(world: World, upgrades: dict[int, Upgrade]) -> BlockResult:
    result = transition(world.state, Block(world.height + 1, ()), upgrades=upgrades)
    for key, value in result.writes.items():
        if value is None:
            world.items.pop(key, None)
        else:
            world.items[key] = value
    world.height += 1
    return result


def test_the_running_network_migrates_at_the_voted_height() -> None:
    world = scheduled_world(8)
    assert scheduled(world.state) == Scheduled(2, 8)
    world.advance_to(8)
    assert load(world.state, CHAIN_KEY)["version"] == 1
    assert [model.context_tokens for model in all_models(world.state)] == [2048]
    result = apply(world, NEXT)
    assert ("version", "2") in [pair for event in result.events for pair in event.attributes]
    assert world.chain.version == 2
    assert world.chain.parameters.voting_blocks == 3
    assert [model.context_tokens for model in all_models(world.state)] == [4096]
    assert scheduled(world.state) is None
    result = apply(world, NEXT)
    assert [model.context_tokens for model in all_models(world.state)] == [4096]
    require_known(2, NEXT)


def test_a_program_without_the_version_stops_before_the_block() -> None:
    world = scheduled_world(8)
    world.advance_to(8)
    before = dict(world.items)
    with pytest.raises(UpgradeNeeded, match=r"version 2.*this program knows 1; install"):
        world.block()
    assert world.items == before
    with pytest.raises(UpgradeNeeded, match="version 2"):
        require_known(2)
    require_known(1)


def test_it_is_due_at_its_height_only() -> None:
    view = View(MapReader({}))
    assert due(view, 5) is None
    assert run_upgrade(view, 5) is None
    schedule(view, Scheduled(2, 7))
    assert [due(view, height) for height in (5, 6)] == [None, None]
    assert due(view, 7) == Scheduled(2, 7)
    assert run_upgrade(view, 6, NEXT) is None
    writes = dict(view.writes)
    with pytest.raises(UpgradeNeeded):
        run_upgrade(view, 7, UPGRADES)
    assert view.writes == writes


def test_a_later_vote_moves_an_upgrade() -> None:
    world = scheduled_world(12)
    vote(world, {"kind": "upgrade", "version": 2, "height": 20})
    assert scheduled(world.state) == Scheduled(2, 20)
    world.advance_to(20)
    apply(world, NEXT)
    assert world.chain.version == 2
    assert UPGRADE_KEY not in world.items


def test_what_passes_for_a_former_version_fails() -> None:
    world = scheduled_world(6)
    world.advance_to(5)
    world.send(VERIFIERS[0], PROPOSE, {"change": {"kind": "upgrade", "version": 2, "height": 30}})
    world.block()
    apply(world, NEXT)
    for verifier in VERIFIERS[1:3]:
        world.send(verifier, VOTE, {"proposal": 2, "approve": True})
    world.block()
    outcomes = [load(world.state, proposal_key(number))["outcome"] for number in (1, 2)]
    assert outcomes == [PASSED, FAILED]
    assert scheduled(world.state) is None

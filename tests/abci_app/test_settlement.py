"""Epochs from commits to reputations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from abci_app.core.chain import Epoch
from abci_app.core.context import window_of
from abci_app.core.settlement import CLEARED
from abci_app.core.state import load, records
from planetserve import transactions, vrf
from planetserve.assignment import contributor_of, next_seed
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import (
    ALARMED,
    KEPT,
    LOST_REPUTATION,
    PUNISHED,
    REGAINED,
    SMOOTHED,
    initial_reputation,
)
from planetserve.statekeys import (
    EPOCH_KEY,
    epoch_key,
    reputation_key,
    result_key,
    results_prefix,
    route_key,
)
from planetserve.transactions import COMMIT, REGISTER, REVEAL
from tests.abci_app.world import CHAIN_ID, FOUNDER, MODEL, VERIFIERS, World, registration
from tests.abci_app.world import score_data as reveal_of

MILLION = 1_000_000
EVERYONE = range(len(VERIFIERS))


def with_founder(params: dict[str, int] | None = None, powers: tuple[int, ...] = ()) -> World:
    """A chain with one model node that genesis vouches for."""
    world = World(params, powers)
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == 0
    return world


def result_of(world: World, node: bytes, epoch: int) -> dict[str, Any]:
    record: dict[str, Any] = load(world.state, result_key(epoch, node))
    return record


def status_of(world: World, node: bytes) -> str:
    return str(load(world.state, route_key(node))["status"])


def test_an_epoch_s_windows() -> None:
    window = window_of(Epoch(1, 26, bytes(32), MILLION, ()), Parameters())
    assert (window.start, window.commit_end, window.reveal_end, window.end) == (26, 41, 50, 51)


def test_epochs_tile_the_heights() -> None:
    world = World({"epoch_blocks": 4, "commit_blocks": 2})
    numbers = []
    for _ in range(9):
        numbers.append(world.chain.epoch.number)
        world.block()
    assert numbers == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert world.chain.epoch.start == 9


def test_quorum_settles_and_keeps_the_evidence() -> None:
    world = with_founder()
    world.score(FOUNDER.id, {0: 900_000, 1: 700_000, 2: 800_000})
    result = result_of(world, FOUNDER.id, 0)
    assert result["credit_ppm"] == 800_000
    assert result["before"] == initial_reputation(world.chain.parameters, admitted=True).to_wire()
    assert (result["after"]["ppm"], result["after"]["streak"]) == (680_000, 1)
    assert result["after"] == load(world.state, reputation_key(FOUNDER.id))
    assert (result["abnormal"], result["reason"], result["verdict"]) == (0, SMOOTHED, "")
    assert (result["total_power"], result["chance_ppm"], result["height"]) == (40, MILLION, 25)
    by_prober = {item[0]: item[1:] for item in result["scores"]}
    assert by_prober[VERIFIERS[1].id] == [10, 700_000, 3, bytes(32)]
    assert list(by_prober) == sorted(by_prober)
    epoch = load(world.state, epoch_key(0))
    assert (epoch["commits"], epoch["reveals"], epoch["settled"]) == (3, 3, 25)
    assert (epoch["nodes"], epoch["total_power"], epoch["start"]) == (1, 40, 1)
    assert epoch["params"] == world.chain.parameters.to_wire()
    assert load(world.state, reputation_key(FOUNDER.id))["last"] == [FOUNDER.id, 0]
    for store in CLEARED:
        assert not list(world.state.scan(store.encode() + b"/"))


def test_without_quorum_reputation_stays() -> None:
    world = with_founder()
    world.score(FOUNDER.id, {0: 0, 1: 0})
    result = result_of(world, FOUNDER.id, 0)
    assert (result["credit_ppm"], result["reason"]) == (None, KEPT)
    assert result["after"] == {**result["before"], "last": [FOUNDER.id, 0]}
    assert (result["after"]["ppm"], result["after"]["window_ppm"]) == (500_000, [])


@pytest.mark.parametrize(("probers", "settles"), [((0,), False), ((0, 1), True)])
def test_power_decides_the_quorum_not_heads(probers: tuple[int, ...], settles: bool) -> None:
    world = with_founder(powers=(50, 30, 10, 10))
    world.score(FOUNDER.id, dict.fromkeys(probers, 600_000))
    assert (result_of(world, FOUNDER.id, 0)["credit_ppm"] is not None) is settles


def test_a_candidate_is_admitted_by_its_probes() -> None:
    world = World({"admission_epochs": 2})
    world.admit(MODEL, role="model")
    seen = []
    for credit in (700_000, 499_999, 500_000, 900_000):
        world.score(MODEL.id, dict.fromkeys(EVERYONE, credit))
        seen.append(status_of(world, MODEL.id))
    assert seen == [CANDIDATE, CANDIDATE, CANDIDATE, TRUSTED]


def test_a_cheat_loses_its_trust_and_can_earn_it_back() -> None:
    world = with_founder({"full_below_ppm": MILLION})
    status, verdicts = [], []
    for epoch, credit in enumerate([200_000, 200_000, *[700_000] * 6]):
        world.score(FOUNDER.id, dict.fromkeys(EVERYONE, credit))
        status.append(status_of(world, FOUNDER.id))
        verdicts.append(result_of(world, FOUNDER.id, epoch)["verdict"])
    assert status == [TRUSTED, *[UNTRUSTED] * 5, TRUSTED, TRUSTED]
    assert verdicts == ["", LOST_REPUTATION, "", "", "", "", REGAINED, ""]
    reasons = [result_of(world, FOUNDER.id, epoch)["reason"] for epoch in range(3)]
    assert reasons == [SMOOTHED, PUNISHED, PUNISHED]
    links = [result_of(world, FOUNDER.id, epoch)["before"]["last"] for epoch in range(3)]
    assert links == [None, [FOUNDER.id, 0], [FOUNDER.id, 1]]


def test_a_sample_that_finds_a_node_abnormal_calls_everyone() -> None:
    """Among the drawn, liars may by chance be most; among all of them they are not."""
    world = with_founder({"probers_per_node": 3})
    world.score(FOUNDER.id, dict.fromkeys(EVERYONE, 900_000))
    assert load(world.state, reputation_key(FOUNDER.id))["ppm"] >= 600_000
    while True:
        drawn = [index for index in EVERYONE if assigned(world, index, FOUNDER.id)]
        if len(drawn) >= 2:
            break
        world.advance_to(world.window.end)
    epoch = world.chain.epoch.number
    world.score(FOUNDER.id, dict.fromkeys(drawn, 0))
    result = result_of(world, FOUNDER.id, epoch)
    assert (result["reason"], result["credit_ppm"]) == (ALARMED, 0)
    assert (result["chance_ppm"], result["after"]["ppm"]) == (750_000, result["before"]["ppm"])
    alarm_epochs = world.chain.parameters.alarm_epochs
    assert load(world.state, reputation_key(FOUNDER.id))["alarm"] == alarm_epochs
    assert status_of(world, FOUNDER.id) == TRUSTED
    for passed in range(1, alarm_epochs + 1):
        world.score(FOUNDER.id, {0: 0, **dict.fromkeys((1, 2, 3), 900_000)})
        result = result_of(world, FOUNDER.id, epoch + passed)
        assert (result["credit_ppm"], result["chance_ppm"]) == (900_000, MILLION)
        left = load(world.state, reputation_key(FOUNDER.id))["alarm"]
        assert left == alarm_epochs - passed


def test_a_sample_blames_no_prober_for_its_distance() -> None:
    world = with_founder({"probers_per_node": 3})
    world.score(FOUNDER.id, dict.fromkeys(EVERYONE, 900_000))
    while sum(assigned(world, index, FOUNDER.id) for index in EVERYONE) < 3:
        world.advance_to(world.window.end)
    drawn = [index for index in EVERYONE if assigned(world, index, FOUNDER.id)]
    epoch = world.chain.epoch.number
    world.score(FOUNDER.id, {index: 900_000 * (index == drawn[0]) for index in drawn})
    probers = load(world.state, epoch_key(epoch))["probers"]
    assert {(item["compared"], item["far"]) for item in probers} == {(0, 0)}


def assigned(world: World, index: int, node: bytes) -> bool:
    """Whether a verifier's reveal of the node would be taken in the running epoch."""
    return world.assigned(VERIFIERS[index], node)


def test_one_who_leaves_weighs_until_the_epoch_ends() -> None:
    world = with_founder()
    world.commit(VERIFIERS[3], FOUNDER.id, 100_000)
    for index in (0, 1, 2):
        world.commit(VERIFIERS[index], FOUNDER.id, 800_000)
    world.block()
    world.advance_to(world.window.commit_end)
    world.reveal(VERIFIERS[3], FOUNDER.id, 100_000)
    for index in (0, 1, 2):
        world.reveal(VERIFIERS[index], FOUNDER.id, 800_000)
    world.block()
    leave = transactions.propose(change={"kind": "leave", "verifier": VERIFIERS[3].id})
    world.send(VERIFIERS[0], "propose", leave)
    world.block()
    for index in (1, 2):
        world.send(VERIFIERS[index], "vote", transactions.vote(proposal=1, approve=True))
    world.block()
    world.advance_to(world.window.end)
    result = result_of(world, FOUNDER.id, 0)
    assert (result["credit_ppm"], result["total_power"]) == (800_000, 40)
    assert [VERIFIERS[3].id, 10, 100_000, 3, bytes(32)] in result["scores"]
    assert VERIFIERS[3].id not in dict(world.chain.epoch.powers)


def test_a_dropped_role_hides_nothing() -> None:
    world = with_founder()
    world.send(FOUNDER, "update", registration(FOUNDER))
    world.block()
    world.score(FOUNDER.id, dict.fromkeys(EVERYONE, 0))
    assert load(world.state, reputation_key(FOUNDER.id))["ppm"] == 200_000
    assert load(world.state, route_key(FOUNDER.id))["reputation_ppm"] is None


def test_a_copied_commitment_cannot_be_opened() -> None:
    world = with_founder()
    honest, copier = VERIFIERS[0], VERIFIERS[1]
    world.commit(honest, FOUNDER.id, 800_000)
    (raw,) = world.queued
    data = transactions.decode_transaction(raw).data
    world.send(copier, COMMIT, data)
    assert [int(result.code) for result in world.block().results] == [0, 0]
    world.advance_to(world.window.commit_end)
    world.reveal(honest, FOUNDER.id, 800_000)
    assert int(world.block().results[0].code) == 0
    opened = reveal_of(0, FOUNDER.id, 800_000, proof=world.proof(copier))
    assert world.code_of(copier, REVEAL, opened) == 34


def test_history_is_kept_for_as_long_as_the_parameters_say() -> None:
    world = with_founder({"epoch_blocks": 4, "commit_blocks": 2, "history_epochs": 3})
    for _ in range(5):
        world.score(FOUNDER.id, dict.fromkeys(EVERYONE, 900_000))
    kept = [key[-8:] for key, _ in records(world.state, b"epochs/")]
    assert [int.from_bytes(key, "big") for key in kept] == [2, 3, 4]
    for epoch in range(5):
        assert bool(list(world.state.scan(results_prefix(epoch)))) == (epoch >= 2)


def test_the_next_seed_comes_from_one_drawn_prober_that_revealed() -> None:
    """What others reveal, in which order or of what score, does not change it."""
    worlds = [with_founder() for _ in range(4)]
    seed = worlds[0].chain.epoch.seed
    powers = worlds[0].chain.epoch.powers
    ids = {bytes(identity.id): index for index, identity in enumerate(VERIFIERS)}
    drawn = contributor_of(seed, powers, ids)
    assert drawn is not None
    first, rest = ids[drawn], [index for index in EVERYONE if index != ids[drawn]]
    scores: list[dict[int, int]] = [
        {first: 500_000, rest[0]: 600_000, rest[1]: 700_000},
        {rest[2]: 100_000, rest[1]: 900_000, first: 800_000},
        dict.fromkeys(rest, 600_000),
        {},
    ]
    for world, each in zip(worlds, scores, strict=True):
        proof = world.proof(VERIFIERS[first])
        world.score(FOUNDER.id, each)
    seeds = [load(world.state, EPOCH_KEY)["seed"] for world in worlds]
    assert seeds[0] == seeds[1] == next_seed(seed, vrf.output(proof))
    assert load(worlds[0].state, epoch_key(0))["contributor"] == drawn
    second = load(worlds[2].state, epoch_key(0))["contributor"]
    assert second == contributor_of(seed, powers, ids.keys() - {drawn})
    assert seeds[3] == next_seed(seed, b"")
    assert load(worlds[3].state, epoch_key(0))["contributor"] is None
    assert len({seed, *seeds}) == 4


def test_a_changed_parameter_begins_with_an_epoch() -> None:
    world = with_founder({"epoch_blocks": 6, "commit_blocks": 3})
    change = {"kind": "parameter", "name": "probers_per_node", "value": 1}
    world.send(VERIFIERS[0], "propose", transactions.propose(change=change))
    world.block()
    for index in (1, 2):
        world.send(VERIFIERS[index], "vote", transactions.vote(proposal=1, approve=True))
    world.block()
    assert world.chain.epoch.sample_ppm == MILLION
    world.advance_to(world.window.end)
    assert world.chain.epoch.sample_ppm == 250_000
    assert world.chain.parameters == replace(
        Parameters(epoch_blocks=6, commit_blocks=3), probers_per_node=1
    )


def test_commitments_are_of_the_chain_they_name() -> None:
    data = reveal_of(0, FOUNDER.id, 1)
    digests = {
        transactions.score_commitment(chain, VERIFIERS[0].public_key, data)
        for chain in (CHAIN_ID, "another")
    }
    assert len(digests) == 2

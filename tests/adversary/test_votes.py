"""Attempts to bend a judgement, a seed or the chain's rules by votes and by parameters."""

from __future__ import annotations

import hashlib
import itertools
from random import Random

import pytest

from abci_app.core.codes import Code
from abci_app.core.genesis import genesis
from abci_app.core.governance import FAILED, PASSED
from abci_app.core.settlement import MAX_DROPPED_EPOCHS
from abci_app.core.state import load
from abci_app.core.upgrades import scheduled
from abci_app.core.verifiers import REST_EPOCHS, all_verifiers, load_verifier
from planetserve import transactions
from planetserve.assignment import sample_ppm
from planetserve.records import RETIRED
from planetserve.scoring.credit import Score, agreed_credit
from planetserve.scoring.parameters import InvalidParameters, Parameters, parameters_from
from planetserve.statekeys import result_key
from planetserve.transactions import COMMIT, PROPOSE, REGISTER, VOTE
from tests.abci_app.scenes import record
from tests.abci_app.test_governance import carried, join, outcome_of, proposed
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    VERIFIERS,
    World,
    app_state,
    consensus_key,
    participant,
    registration,
)

A, B, C, D = VERIFIERS
NEWCOMER = participant(90)
MILLION = 1_000_000


def with_founder(params: dict[str, int] | None = None, powers: tuple[int, ...] = ()) -> World:
    world = World(params, powers)
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == Code.OK
    return world


def copied(world: World) -> World:
    again = World()
    again.items, again.height = dict(world.items), world.height
    return again


# Powers of the running epoch


def test_a_vote_in_the_last_block_chooses_no_seed() -> None:
    """Who holds the vote that tips a proposal knows all outputs by then."""
    world = with_founder({"epoch_blocks": 6, "commit_blocks": 2}, (100, 100, 100, 100))
    probers = range(4)
    for power in range(101, 109):
        world.advance_to(world.window.end)
        change = {"kind": "power", "verifier": bytes(B.id), "power": power}
        number = proposed(world, change)
        world.send(B, VOTE, transactions.vote(proposal=number, approve=True))
        for index in probers:
            if world.assigned(VERIFIERS[index], FOUNDER.id):
                world.commit(VERIFIERS[index], FOUNDER.id, 500_000)
        world.block()
        world.advance_to(world.window.commit_end)
        for index in probers:
            if world.assigned(VERIFIERS[index], FOUNDER.id):
                world.reveal(VERIFIERS[index], FOUNDER.id, 500_000)
        world.block()
        world.advance_to(world.window.end - 1)
        held = copied(world)
        world.send(C, VOTE, transactions.vote(proposal=number, approve=True))
        world.block()
        held.block()
        assert world.chain.epoch.seed == held.chain.epoch.seed
        assert dict(world.chain.epoch.powers)[bytes(B.id)] == power
        assert dict(held.chain.epoch.powers)[bytes(B.id)] == max(100, power - 1)


def test_power_that_is_voted_weighs_scores_from_the_next_epoch_on() -> None:
    world = with_founder({"full_below_ppm": MILLION})
    carried(world, {"kind": "power", "verifier": bytes(D.id), "power": 1})
    carried(world, {"kind": "power", "verifier": bytes(C.id), "power": 1})
    for epoch, expected in ((0, 10), (1, 1)):
        world.score(FOUNDER.id, dict.fromkeys(range(4), 500_000))
        found = load(world.state, result_key(epoch, FOUNDER.id))
        assert {item[1] for item in found["scores"] if item[0] in (C.id, D.id)} == {expected}
        assert found["total_power"] == 20 + 2 * expected


def test_a_key_that_joins_is_not_chosen_for_what_it_draws() -> None:
    world = with_founder({"epoch_blocks": 4, "commit_blocks": 2})
    carried(world, join(NEWCOMER))
    joined_in = world.chain.epoch.number
    found = load_verifier(world.state, NEWCOMER.id)
    assert found is not None
    assert found.benched in (joined_in - 1 + REST_EPOCHS, joined_in + REST_EPOCHS)

    def attempt() -> int:
        epoch = world.chain.epoch.number
        data = transactions.commit(epoch=epoch, node=FOUNDER.id, commitment=bytes(32))
        return world.code_of(NEWCOMER, COMMIT, data)

    while world.chain.epoch.number < found.benched:
        world.advance_to(world.window.end)
        world.block()
    assert attempt() == Code.BENCHED
    world.advance_to(world.window.end)
    world.block()
    assert attempt() == Code.OK


# Parameters


@pytest.mark.parametrize(
    "values",
    [
        {"quorum_ppm": 500_000},
        {"quorum_ppm": 666_666},
        {"commit_blocks": 23},
        {"commit_blocks": 22},
        {"epoch_blocks": 3, "commit_blocks": 2},
        {"untrusted_below_ppm": MILLION, "trusted_from_ppm": MILLION},
        {"cusum_allowance_ppm": 0},
        {"cusum_limit_ppm": 1},
    ],
)
def test_no_vote_makes_judging_impossible_or_a_formality(values: dict[str, int]) -> None:
    with pytest.raises(InvalidParameters):
        parameters_from(values)
    name, value = list(values.items())[-1]
    if len(values) == 1:
        change = {"kind": "parameter", "name": name, "value": value}
        assert World().code_of(A, PROPOSE, {"change": change}) == Code.BAD_CHANGE


@pytest.mark.parametrize("epoch_blocks", range(3, 60))
def test_probers_have_an_eighth_of_an_epoch_to_reveal(epoch_blocks: int) -> None:
    allowed = []
    for commit_blocks in range(1, epoch_blocks):
        try:
            parameters_from({"epoch_blocks": epoch_blocks, "commit_blocks": commit_blocks})
        except InvalidParameters:
            continue
        allowed.append(epoch_blocks - 1 - commit_blocks)
    assert min(allowed) == max(1, epoch_blocks // 8)


def test_a_shorter_history_is_dropped_a_few_epochs_at_a_time() -> None:
    world = World({"epoch_blocks": 4, "commit_blocks": 2, "history_epochs": 50})
    world.advance_to(4 * 40 + 1)
    carried(world, {"kind": "parameter", "name": "history_epochs", "value": 2})
    kept = []
    for _ in range(16):
        world.advance_to(world.window.end)
        kept.append(sum(key.startswith(b"epochs/") for key in world.items))
    dropped = [before + 1 - after for before, after in itertools.pairwise(kept)]
    assert max(dropped) == MAX_DROPPED_EPOCHS
    assert kept[-1] == 2


@pytest.mark.parametrize("initial", [1, 7, 1_000])
def test_the_first_epoch_is_as_long_as_all_others_wherever_a_chain_starts(initial: int) -> None:
    world = World()
    writes = genesis(CHAIN_ID, app_state({"epoch_blocks": 5, "commit_blocks": 2}), initial)
    world.items = {key: value for key, value in writes.items() if value is not None}
    world.height = initial - 1
    epochs = []
    for _ in range(11):
        epochs.append(world.chain.epoch.number)
        world.block()
    assert epochs == [0] * 5 + [1] * 5 + [2]


@pytest.mark.parametrize(
    ("verifiers", "biggest"), [(9, 0), (12, 0), (16, 0), (32, 0), (100, 0), (16, 0.3), (100, 0.3)]
)
def test_an_honest_sample_decides_in_most_epochs(verifiers: int, biggest: float) -> None:
    """Half of what is due is enough: with two thirds, half of the epochs were lost."""
    random = Random(verifiers)
    powers = [1_000] * verifiers
    if biggest:
        powers[0] = int(biggest / (1 - biggest) * sum(powers[1:]))
    chance, epochs = sample_ppm(Parameters().probers_per_node, verifiers), 1_000
    decided = 0
    for _ in range(epochs):
        scores = [
            Score(bytes([number]), power, 900_000, 1, b"")
            for number, power in enumerate(powers)
            if random.random() * MILLION < chance
        ]
        credit = agreed_credit(scores, sum(powers), chance, 700_000, Parameters())
        decided += credit is not None
    assert decided >= (0.6 if biggest else 0.85) * epochs


# Upgrades and misbehaviour


def test_an_upgrade_that_was_voted_can_be_called_off() -> None:
    world = World({"voting_blocks": 3})
    upgrade = {"kind": "upgrade", "version": 2, "height": 100}
    cancel = {"kind": "cancel", "version": 2}
    assert world.code_of(A, PROPOSE, {"change": cancel}) == Code.BAD_CHANGE
    carried(world, upgrade)
    assert scheduled(world.state) is not None
    assert world.code_of(A, PROPOSE, {"change": {**cancel, "version": 3}}) == Code.BAD_CHANGE
    late = proposed(world, cancel, D)
    assert outcome_of(world, carried(world, cancel)) == PASSED
    assert scheduled(world.state) is None
    for voter in (A, B):
        world.send(voter, VOTE, transactions.vote(proposal=late, approve=True))
    world.block()
    assert outcome_of(world, late) == FAILED
    world.advance_to(102)
    assert world.chain.version == 1


def address(index: int) -> bytes:
    return hashlib.sha256(consensus_key(index)).digest()[:20]


def test_a_validator_that_signed_two_things_at_once_leaves() -> None:
    world = World()
    world.misbehaving = (address(3), bytes(20))
    result = world.block()
    assert result.validator_updates == ((consensus_key(3), 0),)
    assert [event.kind for event in result.events if event.kind == "misbehavior"] == ["misbehavior"]
    assert load_verifier(world.state, D.id) is None
    assert record(world, D).status == RETIRED
    world.misbehaving = (address(3),)
    assert world.block().events == (), "once it is gone there is nothing left to take"


def test_one_with_too_much_power_to_leave_at_once_keeps_half() -> None:
    world = World(powers=(10, 10, 10, 40))
    powers = []
    for _ in range(2):
        world.misbehaving = (address(3),)
        world.block()
        found = load_verifier(world.state, D.id)
        powers.append(None if found is None else (found.power, found.voted_power))
    assert powers == [(20, 20), None]


def test_the_last_verifier_stays_whatever_it_did() -> None:
    world = World()
    world.misbehaving = tuple(address(index) for index in range(4))
    world.block()
    assert len(all_verifiers(world.state)) == 1
    world.misbehaving = tuple(address(index) for index in range(4))
    world.block()
    assert [each.power for each in all_verifiers(world.state)] == [2]


def test_misbehaviour_in_an_epoch_s_last_block_leaves_power_cuts_to_another() -> None:
    """Light clients follow changes of less than a third in a block."""
    world = with_founder({"trust_loss_ppm": MILLION, "full_below_ppm": MILLION})
    for index in range(4):
        world.commit(VERIFIERS[index], FOUNDER.id, 500_000)
    world.block()
    world.advance_to(world.window.end - 1)
    world.misbehaving = (address(3),)
    assert world.block().validator_updates == ((consensus_key(3), 0),)
    assert {each.power for each in all_verifiers(world.state)} == {10}

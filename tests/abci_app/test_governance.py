"""Proposals, votes and their count, on a chain of blocks and against a slow model of the rules."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.core import governance
from abci_app.core.codes import Code
from abci_app.core.governance import (
    EXPIRED,
    FAILED,
    KEPT_PROPOSALS,
    OPEN,
    PASSED,
    REFUSED,
    Proposal,
    count,
    load_proposal,
    open_proposals,
)
from abci_app.core.state import load
from abci_app.core.transition import BlockResult
from abci_app.core.verifiers import Verifier, all_verifiers, load_verifier
from planetserve.keys import Identity
from planetserve.records import RETIRED, TRUSTED
from planetserve.statekeys import (
    OPEN_PROPOSALS_KEY,
    PENDING_KEY,
    node_key,
    proposal_key,
    route_key,
    waiting_key,
)
from planetserve.transactions import ENDORSE, PROPOSE, ROTATE, UPDATE, VOTE, endorse, rotate
from tests.abci_app.world import (
    CHAIN_ID,
    FAR,
    RELAY,
    VERIFIERS,
    World,
    consensus_key,
    participant,
    registration,
)

A, B, C, D = VERIFIERS
NEWCOMER = participant(90)
TAU = {"kind": "parameter", "name": "abnormal_below_ppm", "value": 450_000}


def join(identity: Identity = NEWCOMER, power: int = 10, **other: Any) -> dict[str, Any]:
    return {
        "kind": "join",
        "key": identity.public_key,
        "name": "newcomer",
        "consensus_key": participant(identity.seed[0] ^ 0x80).public_key,
        "onion_key": identity.onion_public,
        "transport_key": identity.transport_public,
        "power": power,
        **other,
    }


def proposed(world: World, change: Mapping[str, Any], proposer: Identity = A) -> int:
    """The number of a new proposal."""
    assert world.code_of(proposer, PROPOSE, {"change": change}) == Code.OK
    return int(load(world.state, b"chain/next_proposal")) - 1


def voted(world: World, number: int, voters: Sequence[Identity], approve: bool = True) -> None:
    for voter in voters:
        world.send(voter, VOTE, {"proposal": number, "approve": approve})
    assert {int(result.code) for result in world.block().results} <= {0}


def outcome_of(world: World, number: int) -> str:
    proposal = load_proposal(world.state, number)
    assert proposal is not None
    return proposal.outcome


def carried(world: World, change: Mapping[str, Any], voters: Sequence[Identity] = (B, C)) -> int:
    """Propose and vote a change; the number of the proposal."""
    number = proposed(world, change)
    voted(world, number, voters)
    return number


def test_more_than_two_thirds_pass() -> None:
    world = World()
    number = proposed(world, TAU)
    assert load_proposal(world.state, number) == Proposal(
        1, bytes(A.id), 1, 1 + world.chain.parameters.voting_blocks, TAU, {A.id.hex(): True}
    )
    voted(world, number, [B])
    assert outcome_of(world, number) == OPEN
    voted(world, number, [C])
    proposal = load_proposal(world.state, number)
    assert proposal is not None
    assert (proposal.outcome, proposal.settled) == (PASSED, 3)
    assert world.items.get(OPEN_PROPOSALS_KEY) is None


def test_exactly_two_thirds_do_not_pass() -> None:
    world = World(powers=(20, 20, 10, 10))
    number = proposed(world, TAU)
    voted(world, number, [B])
    assert outcome_of(world, number) == OPEN
    voted(world, number, [C])
    assert outcome_of(world, number) == PASSED


def test_a_third_refuses() -> None:
    world = World(powers=(20, 20, 10, 10))
    number = proposed(world, TAU)
    voted(world, number, [C], approve=False)
    assert outcome_of(world, number) == OPEN
    voted(world, number, [D], approve=False)
    assert outcome_of(world, number) == REFUSED
    assert world.code_of(B, VOTE, {"proposal": number, "approve": True}) == Code.PROPOSAL_CLOSED


def test_what_nobody_decides_expires_after_its_last_block() -> None:
    world = World({"voting_blocks": 4})
    number = proposed(world, TAU)
    world.advance_to(5)
    assert outcome_of(world, number) == OPEN
    voted(world, number, [B])
    assert outcome_of(world, number) == EXPIRED
    assert world.code_of(C, VOTE, {"proposal": number, "approve": True}) == Code.PROPOSAL_CLOSED


def test_the_last_block_s_votes_count() -> None:
    world = World({"voting_blocks": 4})
    number = proposed(world, TAU)
    world.advance_to(5)
    voted(world, number, [B, C])
    assert outcome_of(world, number) == PASSED


def test_votes_are_final_and_verifiers_only() -> None:
    world = World()
    world.admit(RELAY)
    number = proposed(world, TAU)
    assert world.code_of(A, VOTE, {"proposal": number, "approve": False}) == Code.ALREADY_VOTED
    voted(world, number, [B], approve=False)
    assert world.code_of(B, VOTE, {"proposal": number, "approve": True}) == Code.ALREADY_VOTED
    assert world.code_of(RELAY, VOTE, {"proposal": number, "approve": True}) == Code.NOT_A_VERIFIER
    assert world.code_of(RELAY, PROPOSE, {"change": TAU}) == Code.NOT_A_VERIFIER
    assert world.code_of(C, VOTE, {"proposal": 7, "approve": True}) == Code.UNKNOWN_PROPOSAL


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"proposal": 1},
        {"proposal": "1", "approve": True},
        {"proposal": -1, "approve": True},
        {"proposal": 1, "approve": 1},
        {"proposal": 1, "approve": True, "more": 1},
    ],
)
def test_malformed_votes(data: dict[str, Any]) -> None:
    world = World()
    proposed(world, TAU)
    assert world.code_of(B, VOTE, data) == Code.INVALID_FIELD
    assert world.code_of(B, PROPOSE, data) == Code.INVALID_FIELD


def test_each_verifier_has_so_many_open_proposals() -> None:
    world = World({"max_open_proposals": 2})
    first = proposed(world, TAU)
    proposed(world, TAU)
    assert world.code_of(A, PROPOSE, {"change": TAU}) == Code.TOO_MANY_PROPOSALS
    third = proposed(world, TAU, B)
    voted(world, first, [B, C])
    fourth = proposed(world, TAU)
    assert [item.number for item in open_proposals(world.state)] == [2, third, fourth]


def test_old_proposals_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_PROPOSALS > 4
    monkeypatch.setattr(governance, "KEPT_PROPOSALS", 4)
    world = World({"max_open_proposals": 4})
    for number in range(1, 5):
        assert proposed(world, TAU) == number
    assert world.code_of(B, PROPOSE, {"change": TAU}) == Code.TOO_MANY_PROPOSALS
    voted(world, 1, [B, C])
    assert proposed(world, TAU, B) == 5
    assert proposal_key(1) not in world.items
    assert world.code_of(B, PROPOSE, {"change": TAU}) == Code.TOO_MANY_PROPOSALS
    assert {load(world.state, proposal_key(n))["outcome"] for n in range(2, 6)} == {OPEN}


def test_parameters_take_effect_with_the_next_epoch() -> None:
    world = World()
    carried(world, TAU)
    carried(world, {"kind": "parameter", "name": "window_epochs", "value": 7})
    before = world.chain.parameters
    assert load(world.state, PENDING_KEY) == {"abnormal_below_ppm": 450_000, "window_epochs": 7}
    world.advance_to(world.window.end - 1)
    assert world.chain.parameters == before
    world.block()
    assert world.chain.parameters == replace(before, abnormal_below_ppm=450_000, window_epochs=7)
    assert PENDING_KEY not in world.items


def test_parameters_that_clash_with_those_that_wait_fail() -> None:
    world = World({"epoch_blocks": 25, "commit_blocks": 15})
    numbers = [
        proposed(world, {"kind": "parameter", "name": "commit_blocks", "value": 20}),
        proposed(world, {"kind": "parameter", "name": "epoch_blocks", "value": 21}),
    ]
    for number in numbers:
        voted(world, number, [B, C])
    assert [outcome_of(world, number) for number in numbers] == [PASSED, FAILED]
    clash = {"kind": "parameter", "name": "epoch_blocks", "value": 21}
    assert world.code_of(A, PROPOSE, {"change": clash}) == Code.BAD_CHANGE
    world.advance_to(world.window.end)
    assert world.chain.parameters.commit_blocks == 20


def updates_of(result: BlockResult) -> dict[bytes, int]:
    return dict(result.validator_updates)


def test_a_verifier_joins_votes_and_leaves() -> None:
    world = World()
    number = proposed(world, join())
    for voter in (B, C):
        world.send(voter, VOTE, {"proposal": number, "approve": True})
    result = world.block()
    assert updates_of(result) == {join()["consensus_key"]: 10}
    assert ("outcome", PASSED) in [pair for event in result.events for pair in event.attributes]
    assert load_verifier(world.state, NEWCOMER.id) is not None
    assert load(world.state, node_key(NEWCOMER.id))["roles"] == ["prober", "verifier"]
    assert load(world.state, route_key(NEWCOMER.id))["status"] == TRUSTED
    voted(world, number := proposed(world, TAU, NEWCOMER), [A, B])
    assert outcome_of(world, number) == OPEN
    voted(world, number, [C])
    assert outcome_of(world, number) == PASSED
    number = proposed(world, {"kind": "leave", "verifier": bytes(D.id)})
    for voter in (B, NEWCOMER, D):
        world.send(voter, VOTE, {"proposal": number, "approve": True})
    assert updates_of(world.block()) == {consensus_key(3): 0}
    assert load_verifier(world.state, D.id) is None
    assert load(world.state, waiting_key(D.id))["status"] == RETIRED
    assert world.code_of(D, PROPOSE, {"change": TAU}) == Code.NOT_A_VERIFIER


def test_a_node_that_joins_keeps_what_it_does_and_goes_on_when_it_leaves() -> None:
    world = World()
    world.admit(NEWCOMER, "relay")
    carried(world, join())
    node = load(world.state, node_key(NEWCOMER.id))
    assert (node["name"], node["registered"]) == ("relay", 1)
    assert node["roles"] == ["prober", "relay", "verifier"]
    assert load(world.state, route_key(NEWCOMER.id))["status"] == TRUSTED
    number = carried(world, {"kind": "leave", "verifier": bytes(NEWCOMER.id)}, (B, C, D))
    assert outcome_of(world, number) == PASSED
    assert load(world.state, node_key(NEWCOMER.id))["roles"] == ["relay"]
    assert load(world.state, route_key(NEWCOMER.id))["status"] == TRUSTED


def test_a_candidate_that_joins_waits_no_longer() -> None:
    world = World({"candidate_blocks": 10})
    assert world.code_of(NEWCOMER, "register", registration(NEWCOMER)) == Code.OK
    assert load(world.state, b"chain/candidates") == 1
    carried(world, join())
    assert load(world.state, b"chain/candidates") == 0
    world.advance_to(14)
    assert load_verifier(world.state, NEWCOMER.id) is not None
    assert load(world.state, node_key(NEWCOMER.id))["roles"] == ["prober", "relay", "verifier"]


def test_who_left_may_come_back() -> None:
    world = World()
    carried(world, join())
    leave = {"kind": "leave", "verifier": bytes(NEWCOMER.id)}
    assert outcome_of(world, carried(world, leave, (B, C, D))) == PASSED
    assert world.code_of(A, PROPOSE, {"change": leave}) == Code.BAD_CHANGE
    assert outcome_of(world, carried(world, join())) == PASSED
    assert load(world.state, route_key(NEWCOMER.id))["status"] == TRUSTED
    data = registration(NEWCOMER)
    assert world.code_of(NEWCOMER, UPDATE, data) == Code.OK
    data = endorse(node=NEWCOMER.id, role="relay", expires=FAR)
    assert world.code_of(A, ENDORSE, data) == Code.OK


def test_power_changes() -> None:
    world = World()
    change = {"kind": "power", "verifier": bytes(B.id), "power": 14}
    number = proposed(world, change)
    for voter in (B, C):
        world.send(voter, VOTE, {"proposal": number, "approve": True})
    assert updates_of(world.block()) == {consensus_key(1): 14}
    verifier = load_verifier(world.state, B.id)
    assert verifier is not None
    assert verifier.power == 14


def test_the_set_of_verifiers_changes_once_a_block() -> None:
    world = World({"voting_blocks": 3})
    others = [participant(number) for number in (91, 92)]
    numbers = [proposed(world, join(identity)) for identity in others]
    number = proposed(world, TAU)
    for voter in (B, C):
        for each in (*numbers, number):
            world.send(voter, VOTE, {"proposal": each, "approve": True})
    world.block()
    assert [outcome_of(world, each) for each in (*numbers, number)] == [PASSED, OPEN, PASSED]
    # The newcomer's power counts: three of five are less than two thirds, and time is up.
    world.block()
    assert outcome_of(world, numbers[1]) == EXPIRED


def test_what_waits_for_a_block_passes_in_the_next() -> None:
    world = World({"voting_blocks": 3})
    others = [participant(number) for number in (91, 92)]
    numbers = [proposed(world, join(identity)) for identity in others]
    for voter in (B, C, D):
        for number in numbers:
            world.send(voter, VOTE, {"proposal": number, "approve": True})
    world.advance_to(4)
    assert [outcome_of(world, number) for number in numbers] == [PASSED, OPEN]
    world.block()
    assert [outcome_of(world, number) for number in numbers] == [PASSED, PASSED]
    assert len(all_verifiers(world.state)) == 6


def test_votes_weigh_what_their_verifiers_hold_now() -> None:
    world = World(powers=(20, 20, 10, 10))
    number = proposed(world, TAU)
    voted(world, number, [D])
    assert outcome_of(world, number) == OPEN
    # Without D's ten, A's twenty are not enough; C's vote then makes thirty of fifty.
    left = carried(world, {"kind": "leave", "verifier": bytes(D.id)}, (B, C))
    assert outcome_of(world, left) == PASSED
    voted(world, number, [C])
    assert outcome_of(world, number) == OPEN
    voted(world, number, [B])
    assert outcome_of(world, number) == PASSED


def test_votes_follow_a_rotated_key() -> None:
    world = World({"epoch_blocks": 5, "commit_blocks": 2, "max_open_proposals": 1})
    number = proposed(world, TAU)
    successor = participant(93)
    assert world.code_of(A, ROTATE, rotate(CHAIN_ID, A.public_key, successor)) == Code.OK
    world.advance_to(world.window.end)
    assert load_verifier(world.state, successor.id) is not None
    vote = {"proposal": number, "approve": False}
    assert world.code_of(successor, VOTE, vote) == Code.ALREADY_VOTED
    assert world.code_of(successor, PROPOSE, {"change": TAU}) == Code.TOO_MANY_PROPOSALS
    voted(world, number, [B, C])
    assert outcome_of(world, number) == PASSED
    power = {"kind": "power", "verifier": bytes(A.id), "power": 12}
    assert world.code_of(successor, PROPOSE, {"change": power}) == Code.OK
    voted(world, number + 1, [B, C])
    verifier = load_verifier(world.state, successor.id)
    assert verifier is not None
    assert verifier.power == 12


def test_the_last_verifiers_stay() -> None:
    """However willing all are, somebody stays; and power leaves in steps."""
    world = World(powers=(10, 10, 10, 30))
    assert outcome_of(world, carried(world, leave_of(D), (B, C, D))) == PASSED
    assert outcome_of(world, carried(world, leave_of(C), (B, C))) == PASSED
    assert outcome_of(world, carried(world, leave_of(B), (B,))) == PASSED
    assert world.code_of(A, PROPOSE, {"change": leave_of(A)}) == Code.BAD_CHANGE


def leave_of(identity: Identity) -> dict[str, Any]:
    return {"kind": "leave", "verifier": bytes(identity.id)}


powers = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


@given(powers, st.data())
def test_counting_agrees_with_fractions(given: list[int], data: st.DataObject) -> None:
    verifiers = [
        Verifier(bytes([index]) * 32, "v", b"", power, power) for index, power in enumerate(given)
    ]
    ballots = data.draw(
        st.lists(st.sampled_from([True, False, None]), min_size=len(given), max_size=len(given))
    )
    votes = {
        verifier.id.hex(): vote
        for verifier, vote in zip(verifiers, ballots, strict=True)
        if vote is not None
    }
    votes[bytes(20).hex()] = True
    counted = count(Proposal(1, b"", 1, 2, TAU, votes), verifiers)
    shares = [Fraction(power, sum(given)) for power in given]
    yes = sum(share for share, vote in zip(shares, ballots, strict=True) if vote)
    no = sum(share for share, vote in zip(shares, ballots, strict=True) if vote is False)
    assert counted.passes == (yes > Fraction(2, 3))
    assert counted.refused == (1 - no <= Fraction(2, 3))
    assert not (counted.passes and counted.refused)


changes = st.sampled_from(
    [
        TAU,
        {"kind": "parameter", "name": "epoch_blocks", "value": 21},
        {"kind": "parameter", "name": "commit_blocks", "value": 20},
        join(),
        join(participant(91), 14),
        leave_of(A),
        leave_of(D),
        leave_of(NEWCOMER),
        {"kind": "power", "verifier": bytes(B.id), "power": 5},
        {"kind": "power", "verifier": bytes(B.id), "power": 14},
        {"kind": "upgrade", "version": 2, "height": 5_000},
    ]
)
voters = st.sampled_from([A, B, C, D, NEWCOMER])
rounds = st.tuples(
    st.dictionaries(voters, changes, max_size=2),
    st.dictionaries(voters, st.tuples(st.integers(0, 3), st.sampled_from([True, True, False]))),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(rounds, max_size=20))
def test_invariants(played: list[tuple[dict[Identity, Any], dict[Identity, Any]]]) -> None:
    """Whatever is proposed and voted: the open list is exact, what is settled stays, and the
    network keeps verifiers with power and distinct keys."""
    world = World({"voting_blocks": 4, "max_open_proposals": 3, "epoch_blocks": 40})
    settled: dict[int, str] = {}
    for proposals, votes in played:
        for proposer, change in proposals.items():
            world.send(proposer, PROPOSE, {"change": change})
        block(world, settled)
        opened = [item.number for item in open_proposals(world.state)]
        for voter, (index, approve) in votes.items():
            number = opened[index % len(opened)] if opened else index
            world.send(voter, VOTE, {"proposal": number, "approve": approve})
        block(world, settled)


def block(world: World, settled: dict[int, str]) -> None:
    before = {verifier.id: verifier.power for verifier in all_verifiers(world.state)}
    world.block()
    after = {verifier.id: verifier.power for verifier in all_verifiers(world.state)}
    changed = {key for key in before.keys() | after if before.get(key) != after.get(key)}
    assert len(changed) <= 1
    check_state(world, settled)


def check_state(world: World, settled: dict[int, str]) -> None:
    verifiers = all_verifiers(world.state)
    assert verifiers
    assert len({verifier.consensus_key for verifier in verifiers}) == len(verifiers)
    stored = [Proposal(**load(world.state, key)) for key, _ in world.state.scan(b"proposals/")]
    opened = [item.number for item in stored if item.outcome == OPEN]
    assert [item.number for item in open_proposals(world.state)] == opened
    for item in stored:
        assert (item.outcome == OPEN) == (item.settled == 0)
        assert settled.setdefault(item.number, item.outcome) in (OPEN, item.outcome)
        settled[item.number] = item.outcome
        if item.outcome == OPEN and item.change["kind"] not in ("join", "leave", "power"):
            assert world.height < item.closes

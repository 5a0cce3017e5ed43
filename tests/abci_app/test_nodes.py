"""Nodes from registration to retirement, and the credentials that admit them."""

from __future__ import annotations

import pytest

from abci_app.core.codes import Code
from abci_app.core.state import load
from planetserve import transactions
from planetserve.records import CANDIDATE, RETIRED, REVOKED, TRUSTED
from planetserve.statekeys import CANDIDATES_KEY, waiting_key
from planetserve.transactions import (
    ENDORSE,
    PROPOSE,
    REGISTER,
    RETIRE,
    REVOKE,
    UPDATE,
    VOTE,
)
from tests.abci_app.scenes import (
    code_of,
    endorsement,
    record,
    with_founder,
    with_relay,
)
from tests.abci_app.world import (
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    participant,
    registration,
)
from tests.abci_app.world import MODEL as NODE

A, B, C, D = VERIFIERS


def test_updating_keeps_credential_and_reputation() -> None:
    world = with_founder()
    before = record(world, FOUNDER)
    assert (before.status, before.reputation_ppm) == (TRUSTED, 500_000)
    world.score(FOUNDER.id, dict.fromkeys(range(4), 900_000))
    assert code_of(world, FOUNDER, UPDATE, registration(FOUNDER, "second", "model")) == 0
    after = record(world, FOUNDER)
    assert (after.name, after.status, after.reputation_ppm) == ("second", TRUSTED, 740_000)
    assert after.registered == before.registered
    assert after.credential_expires == before.credential_expires


def test_a_node_is_a_candidate_until_every_role_is_endorsed() -> None:
    world = World()
    data = {**registration(RELAY), "roles": ["relay", "user"]}
    assert code_of(world, RELAY, REGISTER, data) == 0
    assert record(world, RELAY).status == CANDIDATE
    assert record(world, RELAY).credential_expires == 0
    for role, status in (("relay", CANDIDATE), ("user", TRUSTED)):
        assert code_of(world, A, ENDORSE, endorsement(RELAY, role)) == 0
        assert record(world, RELAY).status == status


def test_a_credential_expires_and_is_renewed() -> None:
    world = World()
    world.send(RELAY, REGISTER, registration(RELAY))
    world.send(A, ENDORSE, endorsement(RELAY, expires=5))
    world.block()
    world.advance_to(6)
    assert (world.height, record(world, RELAY).status) == (5, TRUSTED)
    world.block()
    assert record(world, RELAY).status == CANDIDATE
    assert code_of(world, B, ENDORSE, endorsement(RELAY)) == 0
    assert record(world, RELAY).status == TRUSTED


def test_endorsements_are_capped_by_epoch_and_height() -> None:
    world = World({"max_endorsements_per_epoch": 2, "max_credential_blocks": 100})
    world.send(RELAY, REGISTER, registration(RELAY))
    world.block()
    assert code_of(world, A, ENDORSE, endorsement(RELAY, expires=2)) == Code.EXPIRY_OUT_OF_RANGE
    assert code_of(world, A, ENDORSE, endorsement(RELAY, expires=104)) == Code.EXPIRY_OUT_OF_RANGE
    assert code_of(world, A, ENDORSE, endorsement(RELAY, expires=104)) == 0
    assert code_of(world, A, ENDORSE, endorsement(RELAY)) == 0
    assert code_of(world, A, ENDORSE, endorsement(RELAY)) == Code.ENDORSEMENT_LIMIT
    assert code_of(world, B, ENDORSE, endorsement(RELAY)) == 0
    world.advance_to(26)
    assert code_of(world, A, ENDORSE, endorsement(RELAY)) == 0, "the next epoch has its own quota"


def test_a_key_endorsed_beforehand_needs_no_place_among_the_candidates() -> None:
    world = World({"max_candidates": 1})
    world.send(NODE, REGISTER, registration(NODE))
    world.send(A, ENDORSE, endorsement(RELAY))
    world.block()
    assert code_of(world, RELAY, REGISTER, registration(RELAY)) == 0
    assert record(world, RELAY).status == TRUSTED
    assert load(world.state, CANDIDATES_KEY) == 1


def test_revocation_is_each_verifiers_own() -> None:
    world = with_relay()
    revoke = transactions.revoke(node=RELAY.id, role="relay")
    assert code_of(world, B, REVOKE, revoke) == Code.NO_CREDENTIAL
    assert record(world, RELAY).status == TRUSTED
    assert code_of(world, B, ENDORSE, endorsement(RELAY)) == 0
    assert code_of(world, A, REVOKE, revoke) == 0
    assert record(world, RELAY).status == TRUSTED, "another verifier vouches for it"
    assert code_of(world, B, REVOKE, revoke) == 0
    assert record(world, RELAY).status == REVOKED
    assert code_of(world, B, REVOKE, revoke) == Code.NO_CREDENTIAL
    assert code_of(world, RELAY, UPDATE, registration(RELAY)) == 0
    assert record(world, RELAY).status == REVOKED, "announcing again admits nobody"
    assert code_of(world, C, ENDORSE, endorsement(RELAY)) == 0
    assert record(world, RELAY).status == TRUSTED


def test_candidates_are_capped_and_forgotten() -> None:
    world = World({"max_candidates": 2, "candidate_blocks": 20})
    people = [participant(number) for number in (70, 71, 72)]
    codes = [code_of(world, person, REGISTER, registration(person)) for person in people]
    assert codes == [0, 0, Code.TOO_MANY_CANDIDATES]
    assert code_of(world, A, ENDORSE, endorsement(people[0])) == 0
    assert code_of(world, people[2], REGISTER, registration(people[2])) == 0
    assert load(world.state, CANDIDATES_KEY) == 2
    world.advance_to(26)
    assert record(world, people[0]).status == TRUSTED
    for gone in people[1:]:
        assert not [key for key in world.items if bytes(gone.id) in key and key[:9] != b"accounts/"]
        assert not [key for key in world.items if gone.onion_public in key]
    assert load(world.state, CANDIDATES_KEY) == 0


def test_a_forgotten_candidate_may_come_again_in_the_same_block() -> None:
    world = World({"candidate_blocks": 5})
    assert code_of(world, RELAY, REGISTER, registration(RELAY)) == 0
    world.advance_to(6)
    assert code_of(world, RELAY, REGISTER, registration(RELAY, "again")) == 0
    assert (record(world, RELAY).name, record(world, RELAY).registered) == ("again", 6)


def test_a_voted_patience_holds_for_those_who_wait() -> None:
    world = World({"candidate_blocks": 12, "epoch_blocks": 4, "commit_blocks": 2})
    assert code_of(world, RELAY, REGISTER, registration(RELAY)) == 0
    change = {"kind": "parameter", "name": "candidate_blocks", "value": 20}
    assert code_of(world, A, PROPOSE, transactions.propose(change=change)) == 0
    for voter in (B, C):
        world.send(voter, VOTE, transactions.vote(proposal=1, approve=True))
    world.block()
    world.advance_to(20)
    assert record(world, RELAY).status == CANDIDATE
    world.advance_to(22)
    assert waiting_key(RELAY.id) not in world.items
    assert load(world.state, CANDIDATES_KEY) == 0


def test_retiring_ends_credentials_and_frees_keys_and_keeps_conduct() -> None:
    world = with_founder()
    world.score(FOUNDER.id, dict.fromkeys(range(4), 0))
    assert code_of(world, FOUNDER, RETIRE, transactions.retire()) == 0
    assert record(world, FOUNDER).status == RETIRED
    assert not list(world.state.scan(b"credentials/" + FOUNDER.id))
    borrowed = {**registration(RELAY), "onion_key": FOUNDER.onion_public}
    assert code_of(world, RELAY, REGISTER, borrowed) == 0
    assert code_of(world, FOUNDER, RETIRE, transactions.retire()) == Code.NODE_RETIRED
    assert code_of(world, A, ENDORSE, endorsement(FOUNDER, "model")) == Code.NODE_RETIRED
    data = registration(FOUNDER, role="model")
    assert code_of(world, FOUNDER, REGISTER, data) == Code.KEY_IN_USE
    data["onion_key"] = participant(53).onion_public
    assert code_of(world, FOUNDER, REGISTER, data) == 0
    back = record(world, FOUNDER)
    assert (back.status, back.reputation_ppm) == (CANDIDATE, 200_000)


def test_who_came_back_is_waited_for_as_long_as_a_newcomer() -> None:
    world = World({"candidate_blocks": 10})
    world.send(RELAY, REGISTER, registration(RELAY))
    world.send(A, ENDORSE, endorsement(RELAY, expires=24))
    world.block()
    assert code_of(world, RELAY, RETIRE, transactions.retire()) == 0
    world.advance_to(20)
    assert code_of(world, RELAY, REGISTER, registration(RELAY)) == 0
    world.advance_to(30)
    assert record(world, RELAY).status == CANDIDATE, "its former credential's end is none of it"
    world.block()
    assert waiting_key(RELAY.id) not in world.items


def test_who_may_not_retire() -> None:
    world = World()
    assert code_of(world, RELAY, RETIRE, transactions.retire()) == Code.UNKNOWN_NODE
    assert code_of(world, A, RETIRE, transactions.retire()) == Code.INVALID_FIELD
    assert code_of(world, RELAY, REGISTER, registration(RELAY)) == 0
    assert code_of(world, RELAY, RETIRE, transactions.retire()) == Code.NO_CREDENTIAL


def test_a_verifier_may_also_relay() -> None:
    world = World()
    assert record(world, A).status == TRUSTED
    assert code_of(world, A, UPDATE, registration(A)) == 0
    found = record(world, A)
    assert found.roles == ("prober", "relay", "verifier")
    assert found.status == CANDIDATE
    assert code_of(world, B, ENDORSE, endorsement(A)) == 0
    assert record(world, A).status == TRUSTED


def test_a_key_is_held_by_one_node_in_each_use() -> None:
    world = with_relay()
    data = {**registration(NODE), "transport_key": RELAY.transport_public}
    assert code_of(world, NODE, REGISTER, data) == Code.KEY_IN_USE
    data = {**registration(RELAY), "transport_key": participant(53).transport_public}
    assert code_of(world, RELAY, UPDATE, data) == 0
    data = {**registration(NODE), "transport_key": RELAY.transport_public}
    assert code_of(world, NODE, REGISTER, data) == 0, "a key given up is free"


def test_a_candidate_gives_way_to_who_begins_and_not_to_who_goes_on() -> None:
    world = with_relay()
    assert code_of(world, NODE, REGISTER, registration(NODE)) == 0
    data = {**registration(RELAY), "onion_key": NODE.onion_public}
    assert code_of(world, RELAY, UPDATE, data) == Code.KEY_IN_USE
    newcomer = participant(53)
    assert code_of(world, A, ENDORSE, endorsement(newcomer)) == 0
    data = {**registration(newcomer), "onion_key": NODE.onion_public}
    assert code_of(world, newcomer, REGISTER, data) == 0
    assert waiting_key(NODE.id) not in world.items


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("127.0.0.1", True),
        ("223.255.255.255", True),
        ("0.0.0.1", True),
        ("240.0.0.1", True),
        ("[2001:db8::1]", True),
        ("[::1]", True),
        ("[::127.0.0.1]", True),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("239.255.255.255", False),
        ("[::]", False),
        ("[ff02::1]", False),
        ("[::ffff:127.0.0.1]", False),
        ("[::ffff:0.0.0.0]", False),
        ("[::ffff:224.0.0.1]", False),
        ("010.0.0.1", False),
        ("256.0.0.1", False),
        ("[::1", False),
        ("localhost", False),
    ],
)
def test_which_hosts_are_dialled_is_told_from_bytes(host: str, good: bool) -> None:
    data = {**registration(RELAY), "endpoints": {"overlay": f"tcp://{host}:7000"}}
    expected = Code.OK if good else Code.INVALID_FIELD
    assert code_of(World(), RELAY, REGISTER, data) == expected

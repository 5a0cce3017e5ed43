"""Going on under a new key: what moves along, and what nobody escapes."""

from __future__ import annotations

from typing import Any

import pytest

from abci_app.core.codes import Code
from abci_app.core.state import load, records
from abci_app.core.verifiers import load_verifier
from planetserve import transactions
from planetserve.keys import Identity
from planetserve.records import CANDIDATE, REVOKED, TRUSTED, UNTRUSTED
from planetserve.statekeys import (
    ONION,
    SUCCESSION,
    TRANSPORT,
    credential_key,
    holder_key,
    node_key,
    reputation_key,
    result_key,
    route_key,
)
from planetserve.transactions import (
    COMMIT,
    ENDORSE,
    REGISTER,
    RETIRE,
    REVEAL,
    REVOKE,
    ROTATE,
    UPDATE,
)
from tests.abci_app.scenes import code_of, commitment, endorsement, record, with_founder, with_relay
from tests.abci_app.world import (
    CHAIN_ID,
    FAR,
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    participant,
    registration,
)
from tests.abci_app.world import MODEL as NODE

A, B, C, D = VERIFIERS
NEW, NEWER = participant(95), participant(96)


def rotation(old: Identity, new: Identity) -> dict[str, Any]:
    return transactions.rotate(CHAIN_ID, old.public_key, new)


def rotated(world: World, old: Identity, new: Identity) -> None:
    """Rotate and go to the first block of the next epoch."""
    assert code_of(world, old, ROTATE, rotation(old, new)) == Code.OK
    world.advance_to(world.window.end)


def test_it_takes_effect_when_the_epoch_is_settled() -> None:
    world = with_relay()
    assert code_of(world, RELAY, ROTATE, rotation(RELAY, NEW)) == Code.OK
    world.advance_to(world.window.end - 1)
    assert record(world, RELAY).status == TRUSTED
    result = world.block()
    assert route_key(RELAY.id) not in world.items
    found = record(world, NEW)
    assert (found.status, found.name, found.key) == (TRUSTED, "node", NEW.public_key)
    assert ("rotation", (("node", RELAY.id.hex()), ("successor", NEW.id.hex()))) in [
        (event.kind, event.attributes) for event in result.events
    ]
    assert not list(world.state.scan(b"rotations/"))
    assert load(world.state, holder_key(SUCCESSION, RELAY.id)) == NEW.id


def test_all_that_belongs_to_a_node_moves_along() -> None:
    world = with_founder()
    assert code_of(world, A, ENDORSE, endorsement(FOUNDER, "model", 400)) == Code.OK
    world.score(FOUNDER.id, dict.fromkeys(range(4), 900_000))
    before = load(world.state, reputation_key(FOUNDER.id))
    rotated(world, FOUNDER, NEW)
    node = load(world.state, node_key(NEW.id))
    assert (node["former"], node["key"]) == ([[FOUNDER.id, 1]], NEW.public_key)
    after = load(world.state, reputation_key(NEW.id))
    assert {**after, "alarm": 0} == before
    for endorser in (bytes(20), A.id):
        assert credential_key(NEW.id, "model", endorser) in world.items
    for kind, key in ((ONION, FOUNDER.onion_public), (TRANSPORT, FOUNDER.transport_public)):
        assert load(world.state, holder_key(kind, key)) == NEW.id
    gone = [key for key in world.items if bytes(FOUNDER.id) in key]
    stores = {key.partition(b"/")[0] for key in gone}
    assert stores <= {b"accounts", b"results", b"keys"}
    data = registration(FOUNDER, "renamed", "model")
    assert code_of(world, NEW, UPDATE, data) == Code.OK
    assert code_of(world, FOUNDER, UPDATE, data) == Code.UNKNOWN_NODE


def test_the_history_is_one_chain_of_results() -> None:
    world = with_founder()
    scores = dict.fromkeys(range(4), 900_000)
    world.score(FOUNDER.id, scores)
    assert code_of(world, FOUNDER, ROTATE, rotation(FOUNDER, NEW)) == Code.OK
    world.score(FOUNDER.id, scores)
    rotated(world, NEW, NEWER)
    world.score(NEWER.id, scores)
    chain, at = [], load(world.state, reputation_key(NEWER.id))["last"]
    while at is not None:
        chain.append((at[0], at[1]))
        at = load(world.state, result_key(at[1], at[0]))["before"]["last"]
    assert chain == [(NEWER.id, 3), (FOUNDER.id, 1), (FOUNDER.id, 0)]


def test_nobody_escapes_the_running_epoch_s_judgement() -> None:
    world = with_founder()
    assert code_of(world, FOUNDER, ROTATE, rotation(FOUNDER, NEW)) == Code.OK
    world.score(FOUNDER.id, dict.fromkeys(range(4), 0))
    found = record(world, NEW)
    assert (found.status, found.reputation_ppm) == (UNTRUSTED, 200_000)
    assert load(world.state, reputation_key(NEW.id))["window_ppm"] == [0]
    assert reputation_key(FOUNDER.id) not in world.items


def test_nobody_starts_again_under_a_key_that_was_given_up() -> None:
    world = with_founder()
    world.score(FOUNDER.id, dict.fromkeys(range(4), 0))
    rotated(world, FOUNDER, NEW)
    data = {**registration(FOUNDER, role="model"), "onion_key": NEW.onion_public}
    data["transport_key"] = NEW.transport_public
    assert code_of(world, FOUNDER, REGISTER, data) == Code.KEY_IN_USE
    rotated(world, NEW, NEWER)
    assert code_of(world, FOUNDER, REGISTER, data) == Code.KEY_IN_USE
    assert load(world.state, holder_key(SUCCESSION, FOUNDER.id)) == NEWER.id
    assert load(world.state, reputation_key(NEWER.id))["ppm"] == 200_000


def test_a_verifier_goes_on_with_its_power_and_stays_a_validator() -> None:
    world = with_relay()
    before = load_verifier(world.state, A.id)
    assert before is not None
    assert code_of(world, A, ROTATE, rotation(A, NEW)) == Code.OK
    world.advance_to(world.window.end - 1)
    assert world.block().validator_updates == ()
    after = load_verifier(world.state, NEW.id)
    assert after is not None
    assert (after.power, after.consensus_key) == (before.power, before.consensus_key)
    assert after.former == (A.id,)
    assert load_verifier(world.state, A.id) is None
    assert record(world, NEW).status == TRUSTED
    assert code_of(world, A, ENDORSE, endorsement(RELAY)) == Code.NOT_A_VERIFIER
    assert code_of(world, NEW, ENDORSE, endorsement(RELAY)) == Code.OK


def test_a_verifier_revokes_what_it_wrote_under_a_former_key() -> None:
    world = with_relay()
    rotated(world, A, NEW)
    rotated(world, NEW, NEWER)
    revoke = transactions.revoke(node=RELAY.id, role="relay")
    assert code_of(world, B, REVOKE, revoke) == Code.NO_CREDENTIAL
    assert code_of(world, NEWER, REVOKE, revoke) == Code.OK
    assert record(world, RELAY).status == REVOKED
    assert code_of(world, NEWER, REVOKE, revoke) == Code.NO_CREDENTIAL


def test_only_all_together_end_what_one_wrote_that_has_left() -> None:
    world = with_relay()
    leave = {"kind": "leave", "verifier": A.id}
    world.send(A, "propose", transactions.propose(change=leave))
    world.block()
    revoke = transactions.revoke(node=RELAY.id, role="relay")
    assert code_of(world, B, REVOKE, revoke) == Code.NO_CREDENTIAL
    for voter in (B, C):
        world.send(voter, "vote", transactions.vote(proposal=1, approve=True))
    world.block()
    assert code_of(world, B, REVOKE, revoke) == Code.NO_CREDENTIAL
    assert record(world, RELAY).status == TRUSTED
    expel = {"kind": "expel", "node": bytes(RELAY.id)}
    world.send(B, "propose", transactions.propose(change=expel))
    world.block()
    for voter in (C, D):
        world.send(voter, "vote", transactions.vote(proposal=2, approve=True))
    world.block()
    assert record(world, RELAY).status == CANDIDATE


def test_commitments_of_the_epoch_are_opened_under_the_old_key() -> None:
    world = with_founder()
    world.commit(A, FOUNDER.id, 700_000)
    world.send(A, ROTATE, rotation(A, NEW))
    world.block()
    world.advance_to(world.window.commit_end)
    world.reveal(A, FOUNDER.id, 700_000)
    assert int(world.block().results[0].code) == Code.OK
    world.advance_to(world.window.end)
    found = load_verifier(world.state, NEW.id)
    assert found is not None
    assert found.trust_ppm == 1_000_000


def test_a_withheld_commitment_counts_against_the_new_key() -> None:
    world = with_founder()
    world.commit(A, FOUNDER.id, 700_000)
    world.block()
    rotated(world, A, NEW)
    found = load_verifier(world.state, NEW.id)
    assert found is not None
    assert found.trust_ppm == 800_000
    data = commitment(FOUNDER.id, epoch=1)
    assert code_of(world, NEW, COMMIT, data) == Code.BENCHED


def refusal(world: World, identity: Identity, data: dict[str, Any]) -> int:
    return code_of(world, identity, ROTATE, data)


def test_who_may_not_rotate() -> None:
    world = World()
    assert refusal(world, RELAY, rotation(RELAY, NEW)) == Code.UNKNOWN_NODE
    assert code_of(world, RELAY, REGISTER, registration(RELAY)) == Code.OK
    assert refusal(world, RELAY, rotation(RELAY, NEW)) == Code.ROTATION_REFUSED, "a candidate"
    assert code_of(world, A, ENDORSE, endorsement(RELAY)) == Code.OK
    assert refusal(world, RELAY, rotation(RELAY, NEW)) == Code.OK
    assert refusal(world, RELAY, rotation(RELAY, NEWER)) == Code.ROTATION_REFUSED, "once an epoch"
    assert code_of(world, RELAY, RETIRE, transactions.retire()) == Code.OK
    assert refusal(world, RELAY, rotation(RELAY, NEWER)) == Code.NODE_RETIRED


def test_who_retires_meanwhile_stays_where_it_was() -> None:
    world = with_relay()
    assert code_of(world, RELAY, ROTATE, rotation(RELAY, NEW)) == Code.OK
    assert code_of(world, RELAY, RETIRE, transactions.retire()) == Code.OK
    world.advance_to(world.window.end)
    assert node_key(NEW.id) not in world.items
    assert load(world.state, node_key(RELAY.id))["retired"]
    assert not list(records(world.state, b"keys/i"))


def test_a_new_key_has_no_past() -> None:
    world = with_relay()
    world.admit(NODE)
    assert refusal(world, RELAY, rotation(RELAY, NODE)) == Code.ROTATION_REFUSED, "a node"
    assert refusal(world, RELAY, rotation(RELAY, RELAY)) == Code.ROTATION_REFUSED, "itself"
    assert code_of(world, NODE, ROTATE, rotation(NODE, NEW)) == Code.OK
    assert refusal(world, RELAY, rotation(RELAY, NEW)) == Code.ROTATION_REFUSED, "another's"
    world.advance_to(world.window.end)
    assert refusal(world, RELAY, rotation(RELAY, NODE)) == Code.ROTATION_REFUSED, "an account"


def test_a_stranger_s_endorsement_of_the_new_key_hinders_nobody() -> None:
    world = with_relay()
    assert code_of(world, B, ENDORSE, endorsement(NEW, "model", 40)) == Code.OK
    rotated(world, RELAY, NEW)
    assert record(world, NEW).status == TRUSTED
    assert credential_key(NEW.id, "model", B.id) not in world.items


def test_the_new_key_must_agree() -> None:
    world = with_relay()
    good = rotation(RELAY, NEW)
    for data in (
        {**good, "proof": bytes(64)},
        {**good, "proof": rotation(NODE, NEW)["proof"]},
        {**good, "proof": transactions.rotate("other", RELAY.public_key, NEW)["proof"]},
        {**good, "new_key": NEWER.public_key},
    ):
        assert refusal(world, RELAY, data) == Code.ROTATION_REFUSED
    assert refusal(world, RELAY, good) == Code.OK


def test_rotations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abci_app.core.rotation.MAX_FORMER", 4)
    world = World({"epoch_blocks": 3, "commit_blocks": 1})
    world.admit(RELAY)
    current = RELAY
    for number in range(4):
        following = participant(150 + number)
        rotated(world, current, following)
        current = following
    assert len(load(world.state, node_key(current.id))["former"]) == 4
    assert refusal(world, current, rotation(current, NEW)) == Code.ROTATION_REFUSED


def test_expired_credentials_leave_no_notes_behind() -> None:
    world = World()
    world.send(RELAY, REGISTER, registration(RELAY))
    world.send(A, ENDORSE, endorsement(RELAY, expires=5))
    world.block()
    world.advance_to(10)
    assert credential_key(RELAY.id, "relay", A.id) not in world.items
    notes = [int.from_bytes(key[:8], "big") for key, _ in records(world.state, b"expiries/")]
    assert [height for height in notes if height <= world.height] == []


@pytest.mark.parametrize("expires", [24, 25, 26, 27])
def test_a_credential_ends_when_it_should_across_a_rotation(expires: int) -> None:
    world = World()
    world.send(RELAY, REGISTER, registration(RELAY))
    world.send(A, ENDORSE, endorsement(RELAY, expires=expires))
    world.block()
    assert code_of(world, RELAY, ROTATE, rotation(RELAY, NEW)) == Code.OK
    seen = []
    while world.height < 30:
        world.block()
        # One whose credential ends before the epoch does waits for another and does not move.
        holder = NEW if world.height >= 25 and expires > 24 else RELAY
        if record(world, holder).status == TRUSTED:
            seen.append(world.height)
    assert seen == list(range(3, expires + 1))


def test_two_rotate_in_one_epoch_and_keep_apart() -> None:
    world = with_relay()
    world.admit(NODE)
    world.send(RELAY, ROTATE, rotation(RELAY, NEW))
    world.send(NODE, ROTATE, rotation(NODE, NEWER))
    assert {int(item.code) for item in world.block().results} == {0}
    world.advance_to(world.window.end)
    assert record(world, NEW).onion_key == RELAY.onion_public
    assert record(world, NEWER).onion_key == NODE.onion_public
    assert record(world, NEW).credential_expires <= FAR + world.height


def test_reveals_need_the_key_that_committed() -> None:
    world = with_founder()
    world.commit(A, FOUNDER.id, 700_000)
    world.send(A, ROTATE, rotation(A, NEW))
    world.block()
    world.advance_to(world.window.commit_end)
    data = transactions.reveal(
        epoch=0,
        node=FOUNDER.id,
        score_ppm=700_000,
        samples=3,
        digest=bytes(32),
        salt=bytes(32),
        proof=world.proof(A),
    )
    assert code_of(world, NEW, REVEAL, data) == Code.NOT_A_VERIFIER

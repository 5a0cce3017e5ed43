"""Each result code from the transaction that earns it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from abci_app.core.codes import MEANINGS, Code
from planetserve import transactions
from planetserve.transactions import (
    COMMIT,
    ENDORSE,
    EVIDENCE,
    MODEL,
    PROPOSE,
    REGISTER,
    RETIRE,
    REVEAL,
    REVOKE,
    ROTATE,
    UPDATE,
    VOTE,
    sign_transaction,
)
from tests.abci_app.scenes import (
    TAU,
    TINY,
    code_of,
    commitment,
    endorsement,
    only_code,
    opening,
    with_commitment,
    with_founder,
    with_proposal,
    with_relay,
)
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    conflict,
    registration,
)
from tests.abci_app.world import MODEL as NODE

A, B, C, D = VERIFIERS


def ok() -> int:
    return code_of(World(), RELAY, REGISTER, registration(RELAY))


def malformed() -> int:
    return only_code(World(), b"\x80")


def too_large() -> int:
    return only_code(World(), bytes(transactions.MAX_TRANSACTION_BYTES + 1))


def bad_signature() -> int:
    raw = sign_transaction(RELAY, "another", 0, REGISTER, registration(RELAY))
    return only_code(World(), raw)


def bad_nonce() -> int:
    return only_code(World(), sign_transaction(RELAY, CHAIN_ID, 1, REGISTER, registration(RELAY)))


def unknown_kind() -> int:
    return code_of(World(), RELAY, "mint", {})


def invalid_field() -> int:
    return code_of(World(), RELAY, REGISTER, {})


def not_a_verifier() -> int:
    return code_of(with_relay(), RELAY, ENDORSE, endorsement(RELAY))


def unknown_node() -> int:
    return code_of(World(), RELAY, UPDATE, registration(RELAY))


def role_not_announced() -> int:
    return code_of(with_relay(), A, ENDORSE, endorsement(RELAY, "user"))


def too_many_candidates() -> int:
    world = World({"max_candidates": 1})
    world.send(RELAY, REGISTER, registration(RELAY))
    world.block()
    return code_of(world, NODE, REGISTER, registration(NODE))


def already_registered() -> int:
    return code_of(with_relay(), RELAY, REGISTER, registration(RELAY))


def node_retired() -> int:
    world = with_relay()
    world.send(RELAY, RETIRE, transactions.retire())
    world.block()
    return code_of(world, RELAY, UPDATE, registration(RELAY))


def key_in_use() -> int:
    data = {**registration(NODE), "onion_key": RELAY.onion_public}
    return code_of(with_relay(), NODE, REGISTER, data)


def weak_key() -> int:
    return code_of(World(), RELAY, REGISTER, {**registration(RELAY), "onion_key": bytes(32)})


def unknown_model() -> int:
    data = {**registration(NODE, role="model"), "model": "nobody's"}
    return code_of(World(), NODE, REGISTER, data)


def rotation_refused() -> int:
    data = transactions.rotate(CHAIN_ID, RELAY.public_key, A)
    return code_of(with_relay(), RELAY, ROTATE, data)


def endorsement_limit() -> int:
    return code_of(with_relay({"max_endorsements_per_epoch": 1}), A, ENDORSE, endorsement(RELAY))


def expiry_out_of_range() -> int:
    return code_of(with_relay(), A, ENDORSE, endorsement(RELAY, expires=1))


def no_credential() -> int:
    return code_of(with_relay(), B, REVOKE, transactions.revoke(node=RELAY.id, role="relay"))


def wrong_epoch() -> int:
    return code_of(with_founder(), A, COMMIT, commitment(epoch=1))


def window_closed() -> int:
    world = with_founder()
    world.advance_to(world.window.commit_end)
    return code_of(world, A, COMMIT, commitment())


def commit_limit() -> int:
    world = with_founder({"max_commits_per_epoch": 1})
    world.admit(NODE, role="model")
    world.commit(A, FOUNDER.id, 1)
    world.block()
    return code_of(world, A, COMMIT, commitment(NODE.id))


def already_committed() -> int:
    world = with_founder()
    world.commit(A, FOUNDER.id, 1)
    world.block()
    return code_of(world, A, COMMIT, commitment())


def no_commitment() -> int:
    world = with_commitment()
    return code_of(world, A, REVEAL, opening(world, 800_001))


def already_revealed() -> int:
    world = with_commitment()
    world.send(A, REVEAL, opening(world))
    world.block()
    return code_of(world, A, REVEAL, opening(world))


def not_assigned() -> int:
    world = with_founder({"probers_per_node": 1})
    world.score(FOUNDER.id, dict.fromkeys(range(4), 900_000))
    while world.assigned(A, FOUNDER.id):
        world.advance_to(world.window.end)
    world.commit(A, FOUNDER.id, 1)
    world.block()
    world.advance_to(world.window.commit_end)
    return code_of(world, A, REVEAL, opening(world, 1))


def bad_vrf_proof() -> int:
    world = with_commitment()
    return code_of(world, A, REVEAL, opening(world, proof=world.proof(B)))


def benched() -> int:
    world = with_commitment()
    world.advance_to(world.window.end)
    return code_of(world, A, COMMIT, commitment(epoch=1))


def unknown_proposal() -> int:
    return code_of(World(), A, VOTE, transactions.vote(proposal=1, approve=True))


def proposal_closed() -> int:
    world = with_proposal()
    for voter in (B, C):
        world.send(voter, VOTE, transactions.vote(proposal=1, approve=True))
    world.block()
    return code_of(world, D, VOTE, transactions.vote(proposal=1, approve=True))


def already_voted() -> int:
    return code_of(with_proposal(), A, VOTE, transactions.vote(proposal=1, approve=False))


def too_many_proposals() -> int:
    world = with_proposal({"max_open_proposals": 1})
    return code_of(world, A, PROPOSE, transactions.propose(change=TAU))


def bad_change() -> int:
    change = {"kind": "leave", "verifier": RELAY.id}
    return code_of(World(), A, PROPOSE, transactions.propose(change=change))


def evidence_invalid() -> int:
    return code_of(with_founder(), A, EVIDENCE, conflict(FOUNDER, "same", "same"))


def evidence_known() -> int:
    world = with_founder()
    world.send(A, EVIDENCE, conflict(FOUNDER, "one", "other"))
    world.block()
    return code_of(world, B, EVIDENCE, conflict(FOUNDER, "one", "other"))


def model_exists() -> int:
    return code_of(World(), A, MODEL, {**TINY, "name": "tiny"})


def model_limit() -> int:
    world = World({"max_models_per_verifier": 1})
    world.send(A, MODEL, TINY)
    world.block()
    return code_of(world, A, MODEL, {**TINY, "name": "third"})


EARNED: list[Callable[[], int]] = [
    *[ok, malformed, too_large, bad_signature, bad_nonce, unknown_kind, invalid_field],
    *[not_a_verifier, unknown_node, role_not_announced, too_many_candidates],
    *[already_registered, node_retired, key_in_use, weak_key, unknown_model, rotation_refused],
    *[endorsement_limit, expiry_out_of_range, no_credential],
    *[wrong_epoch, window_closed, commit_limit, already_committed, no_commitment],
    *[already_revealed, not_assigned, bad_vrf_proof, benched],
    *[unknown_proposal, proposal_closed, already_voted, too_many_proposals, bad_change],
    *[evidence_invalid, evidence_known, model_exists, model_limit],
]


@pytest.mark.parametrize("earn", EARNED, ids=lambda earn: earn.__name__)
def test_each_code_is_earned(earn: Callable[[], int]) -> None:
    assert earn() == Code[earn.__name__.upper()]


def test_every_code_of_a_transaction_is_earned_above() -> None:
    of_transactions = {code.name.lower() for code in Code if code < 50}
    assert {earn.__name__ for earn in EARNED} == of_transactions


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Code)


def test_codes_that_clients_rely_on() -> None:
    assert [int(code) for code in (Code.OK, Code.MALFORMED, Code.TOO_LARGE)] == [0, 1, 2]
    assert [int(Code.BAD_SIGNATURE), int(Code.BAD_NONCE), int(Code.UNKNOWN_KIND)] == [3, 4, 5]

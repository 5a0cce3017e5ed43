"""Each result code from the transaction that earns it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.codes import MEANINGS, Code
from abci_app.core.parameters import load_chain
from abci_app.core.routes import all_routes, route
from abci_app.core.state import View
from abci_app.core.transition import apply, transition
from planetserve import transactions
from planetserve.encoding import encode
from planetserve.keys import Identity
from planetserve.records import CANDIDATE, REVOKED, TRUSTED, NodeRecord
from planetserve.transactions import COMMIT, ENDORSE, REGISTER, REVEAL, REVOKE, sign_transaction
from tests.abci_app.world import (
    CHAIN_ID,
    FAR,
    MODEL,
    RELAY,
    VERIFIERS,
    World,
    participant,
    registration,
    score_data,
)


def only_code(world: World, raw: bytes) -> int:
    before = dict(world.items)
    result = world.block(raw).results[0]
    if result.code:
        assert world.items == before, "a refused transaction leaves no trace"
        assert result.log.startswith(MEANINGS[result.code])
    return int(result.code)


def record(world: World, identity: Identity) -> NodeRecord:
    found = route(world.state, identity.id, world.height)
    assert found is not None
    assert found in all_routes(world.state, world.height)
    return found


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Code)


def test_codes_that_clients_rely_on() -> None:
    assert [int(code) for code in (Code.OK, Code.MALFORMED, Code.TOO_LARGE)] == [0, 1, 2]
    assert [int(Code.BAD_SIGNATURE), int(Code.BAD_NONCE), int(Code.UNKNOWN_KIND)] == [3, 4, 5]


def test_every_truncation_is_malformed() -> None:
    world = World()
    raw = world.sign(RELAY, REGISTER, registration(RELAY))
    for length in range(len(raw)):
        assert only_code(World(), raw[:length]) == Code.MALFORMED
    assert only_code(world, raw + b"\0") == Code.MALFORMED
    assert only_code(world, raw) == Code.OK


def test_every_flipped_bit_is_refused() -> None:
    world = World()
    raw = world.sign(RELAY, REGISTER, registration(RELAY))
    view, chain = View(world.state), load_chain(world.state)
    for position in range(0, 8 * len(raw), 3):
        flipped = bytearray(raw)
        flipped[position // 8] ^= 1 << position % 8
        result = apply(view, chain, 1, bytes(flipped))
        assert result.code in (Code.MALFORMED, Code.BAD_SIGNATURE)


@given(st.binary(max_size=200))
def test_garbage_is_malformed(raw: bytes) -> None:
    assert only_code(World(), raw) == Code.MALFORMED


def test_too_large() -> None:
    world = World()
    raw = bytes(transactions.MAX_TRANSACTION_BYTES + 1)
    assert only_code(world, raw) == Code.TOO_LARGE


def test_another_chains_signature() -> None:
    raw = sign_transaction(RELAY, "another", 0, REGISTER, registration(RELAY))
    assert only_code(World(), raw) == Code.BAD_SIGNATURE


def test_nonces_are_sequential_and_a_replay_is_refused() -> None:
    world = World()
    first, second, third = (
        sign_transaction(RELAY, CHAIN_ID, nonce, REGISTER, registration(RELAY, f"n{nonce}"))
        for nonce in range(3)
    )
    assert only_code(world, second) == Code.BAD_NONCE
    assert [int(item.code) for item in world.block(first, second, first).results] == [0, 0, 4]
    assert only_code(world, third) == Code.OK
    assert record(world, RELAY).name == "n2"


def test_unknown_kind() -> None:
    assert World().code_of(RELAY, "mint", {}) == Code.UNKNOWN_KIND


BAD_REGISTRATIONS: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 65},
    {"name": "a\nb"},
    {"name": "a\x1b[2Jb"},
    {"name": " padded"},
    {"name": "\u202eevil"},
    {"name": b"bytes"},
    {"name": 7},
    {"roles": []},
    {"roles": ["verifier"]},
    {"roles": ["relay", "relay"]},
    {"roles": ["user", "relay"]},
    {"roles": "relay"},
    {"roles": [["relay"]]},
    {"roles": [None]},
    {"onion_key": bytes(31)},
    {"onion_key": "x" * 32},
    {"transport_key": bytes(33)},
    {"endpoints": {"other": "tcp://h:1"}},
    {"endpoints": {"overlay": "http://h:1"}},
    {"endpoints": {"overlay": "tcp://h:0"}},
    {"endpoints": {"overlay": "tcp://h:65536"}},
    {"endpoints": {"overlay": "tcp://h:1\n"}},
    {"endpoints": {"overlay": "tcp://" + "h" * 300 + ":1"}},
    {"endpoints": {"overlay": 5}},
    {"endpoints": ["overlay"]},
    {"model": "a model of a relay"},
    {"operator": "x" * 65},
    {"extra": 1},
]


@pytest.mark.parametrize("change", BAD_REGISTRATIONS, ids=repr)
def test_bad_registrations(change: dict[str, Any]) -> None:
    data = {**registration(RELAY), **change}
    assert World().code_of(RELAY, REGISTER, data) == Code.INVALID_FIELD


def test_missing_field_and_model_node_without_model() -> None:
    data = registration(RELAY)
    del data["name"]
    assert World().code_of(RELAY, REGISTER, data) == Code.INVALID_FIELD
    data = {**registration(MODEL, role="model"), "model": ""}
    assert World().code_of(MODEL, REGISTER, data) == Code.INVALID_FIELD


@given(
    st.sampled_from([REGISTER, ENDORSE, REVOKE, COMMIT, REVEAL]),
    st.dictionaries(
        st.sampled_from(
            [
                *["name", "roles", "onion_key", "transport_key", "endpoints", "model"],
                *["operator", "node", "role", "expires", "epoch", "commitment"],
                *["score_ppm", "samples", "digest", "salt"],
            ]
        ),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(1 << 63), (1 << 63) - 1)
            | st.text(max_size=5)
            | st.binary(max_size=33),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=5,
        ),
        max_size=8,
    ),
)
def test_no_data_makes_the_ledger_raise(kind: str, data: dict[str, Any]) -> None:
    code = World().code_of(VERIFIERS[0], kind, data)
    assert code in set(Code)


@pytest.mark.parametrize("kind", [REGISTER, ENDORSE, REVOKE, COMMIT, REVEAL])
def test_fields_match_the_builders(kind: str) -> None:
    """The builders that everybody uses and the checks agree on the fields."""
    builder = getattr(transactions, kind)
    names = set(inspect.signature(builder).parameters)
    result = (
        World().block(sign_transaction(VERIFIERS[0], CHAIN_ID, 0, kind, {"nothing": 1})).results[0]
    )
    assert result.code is Code.INVALID_FIELD
    assert result.log.endswith(", ".join(sorted(names)))


def test_registering_again_keeps_credential_and_reputation() -> None:
    world = World()
    world.admit(MODEL, "first", "model")
    before = record(world, MODEL)
    assert (before.status, before.reputation_ppm) == (TRUSTED, 500_000)
    assert world.code_of(MODEL, REGISTER, registration(MODEL, "second", "model")) == 0
    after = record(world, MODEL)
    assert (after.name, after.status, after.reputation_ppm) == ("second", TRUSTED, 500_000)
    assert after.registered == before.registered
    assert after.credential_expires == before.credential_expires


def test_a_node_is_a_candidate_until_every_role_is_endorsed() -> None:
    world = World()
    data = {**registration(RELAY), "roles": ["relay", "user"]}
    assert world.code_of(RELAY, REGISTER, data) == 0
    assert record(world, RELAY).status == CANDIDATE
    assert record(world, RELAY).credential_expires == 0
    for role, status in (("relay", CANDIDATE), ("user", TRUSTED)):
        data = transactions.endorse(node=RELAY.id, role=role, expires=FAR)
        assert world.code_of(VERIFIERS[0], ENDORSE, data) == 0
        assert record(world, RELAY).status == status


def test_a_credential_expires_and_is_renewed() -> None:
    world = World()
    world.send(RELAY, REGISTER, registration(RELAY))
    data = transactions.endorse(node=RELAY.id, role="relay", expires=5)
    world.send(VERIFIERS[0], ENDORSE, data)
    world.block()
    world.advance_to(6)
    assert (world.height, record(world, RELAY).status) == (5, TRUSTED)
    world.block()
    assert record(world, RELAY).status == CANDIDATE
    data = transactions.endorse(node=RELAY.id, role="relay", expires=50)
    assert world.code_of(VERIFIERS[1], ENDORSE, data) == 0
    assert record(world, RELAY).status == TRUSTED


def test_endorsement_codes() -> None:
    world = World({"max_endorsements_per_epoch": 2, "max_credential_blocks": 100})
    world.block(world.sign(RELAY, REGISTER, registration(RELAY)))

    def endorse(**changes: Any) -> int:
        data = {"node": RELAY.id, "role": "relay", "expires": 50, **changes}
        return world.code_of(VERIFIERS[0], ENDORSE, data)

    assert world.code_of(
        RELAY, ENDORSE, transactions.endorse(node=RELAY.id, role="relay", expires=50)
    ) == (Code.NOT_A_VERIFIER)
    assert endorse(node=MODEL.id) == Code.UNKNOWN_NODE
    assert endorse(role="model") == Code.ROLE_NOT_ANNOUNCED
    assert endorse(role="verifier") == Code.INVALID_FIELD
    assert endorse(expires=1) == Code.EXPIRY_OUT_OF_RANGE
    assert endorse(expires=FAR) == Code.EXPIRY_OUT_OF_RANGE
    assert endorse(expires=True) == Code.INVALID_FIELD
    assert [endorse(), endorse(), endorse()] == [0, 0, Code.ENDORSEMENT_LIMIT]
    world.advance_to(26)
    assert endorse() == 0, "the next epoch has a quota of its own"


def test_revocation_is_each_verifiers_own() -> None:
    world = World()
    world.admit(RELAY)
    revoke = transactions.revoke(node=RELAY.id, role="relay")
    assert world.code_of(VERIFIERS[1], REVOKE, revoke) == Code.NO_CREDENTIAL
    assert record(world, RELAY).status == TRUSTED
    data = transactions.endorse(node=RELAY.id, role="relay", expires=FAR)
    assert world.code_of(VERIFIERS[1], ENDORSE, data) == 0
    assert world.code_of(VERIFIERS[0], REVOKE, revoke) == 0
    assert record(world, RELAY).status == TRUSTED, "another verifier vouches for it"
    assert world.code_of(VERIFIERS[1], REVOKE, revoke) == 0
    assert record(world, RELAY).status == REVOKED
    assert world.code_of(VERIFIERS[1], REVOKE, revoke) == Code.NO_CREDENTIAL
    assert world.code_of(RELAY, REGISTER, registration(RELAY)) == 0
    assert record(world, RELAY).status == REVOKED, "announcing again admits nobody"
    assert world.code_of(VERIFIERS[2], ENDORSE, data) == 0
    assert record(world, RELAY).status == TRUSTED


def test_candidates_are_capped_and_forgotten() -> None:
    world = World({"max_candidates": 2, "candidate_blocks": 20})
    people = [participant(number) for number in (70, 71, 72)]
    codes = [world.code_of(person, REGISTER, registration(person)) for person in people]
    assert codes == [0, 0, Code.TOO_MANY_CANDIDATES]
    data = transactions.endorse(node=people[0].id, role="relay", expires=FAR)
    assert world.code_of(VERIFIERS[0], ENDORSE, data) == 0
    assert world.code_of(people[2], REGISTER, registration(people[2])) == 0
    world.advance_to(26)
    names = {node.id for node in all_routes(world.state, world.height)}
    assert people[0].id in names
    assert people[1].id not in names, "nobody endorsed it in time"


def test_a_verifier_may_also_relay() -> None:
    world = World()
    assert record(world, VERIFIERS[0]).status == TRUSTED
    assert world.code_of(VERIFIERS[0], REGISTER, registration(VERIFIERS[0])) == 0
    found = record(world, VERIFIERS[0])
    assert found.roles == ("prober", "relay", "verifier")
    assert found.status == CANDIDATE


def commitment_of(identity: Identity, data: dict[str, Any]) -> dict[str, Any]:
    digest = transactions.score_commitment(CHAIN_ID, identity.public_key, data)
    return transactions.commit(epoch=data["epoch"], commitment=digest)


def test_commit_codes() -> None:
    world = World({"max_commits_per_epoch": 2})
    world.admit(MODEL, role="model")
    prober = VERIFIERS[0]
    commits = [commitment_of(prober, score_data(0, MODEL.id, n)) for n in range(3)]
    assert world.code_of(MODEL, COMMIT, commits[0]) == Code.NOT_A_VERIFIER
    assert world.code_of(prober, COMMIT, {**commits[0], "epoch": 1}) == Code.WRONG_EPOCH
    assert world.code_of(prober, COMMIT, {**commits[0], "epoch": -1}) == Code.INVALID_FIELD
    assert world.code_of(prober, COMMIT, commits[0]) == 0
    assert world.code_of(prober, COMMIT, commits[0]) == Code.ALREADY_COMMITTED
    assert world.code_of(prober, COMMIT, commits[1]) == 0
    assert world.code_of(prober, COMMIT, commits[2]) == Code.COMMIT_LIMIT
    world.advance_to(16)
    assert world.code_of(VERIFIERS[1], COMMIT, commits[2]) == Code.WINDOW_CLOSED


def test_reveal_codes() -> None:
    world = World()
    world.admit(MODEL, role="model")
    world.admit(RELAY)
    prober = VERIFIERS[0]
    data = score_data(0, MODEL.id, 800_000)
    relay_data, unknown = score_data(0, RELAY.id, 1), score_data(0, bytes(20), 1)
    world.send(prober, COMMIT, commitment_of(prober, data))
    world.send(VERIFIERS[1], COMMIT, commitment_of(prober, data))
    other = score_data(0, MODEL.id, 900_000)
    world.send(prober, COMMIT, commitment_of(prober, other))
    world.block()
    assert world.code_of(prober, REVEAL, data) == Code.WINDOW_CLOSED
    world.advance_to(16)
    assert world.code_of(MODEL, REVEAL, data) == Code.NOT_A_VERIFIER
    assert world.code_of(prober, REVEAL, unknown) == Code.UNKNOWN_NODE
    assert world.code_of(prober, REVEAL, relay_data) == Code.ROLE_NOT_ANNOUNCED
    assert world.code_of(prober, REVEAL, {**data, "score_ppm": 1_000_001}) == Code.INVALID_FIELD
    assert world.code_of(prober, REVEAL, {**data, "score_ppm": 800_001}) == Code.NO_COMMITMENT
    assert world.code_of(VERIFIERS[1], REVEAL, data) == Code.NO_COMMITMENT, "a copied commit"
    assert world.code_of(prober, REVEAL, data) == 0
    assert world.code_of(prober, REVEAL, other) == Code.ALREADY_REVEALED
    world.advance_to(25)
    assert world.code_of(prober, REVEAL, data) == Code.WINDOW_CLOSED, "the last block settles"


def test_results_do_not_depend_on_the_order_of_keys_in_memory() -> None:
    world, other = World(), World()
    other.items = dict(reversed(other.items.items()))
    for each in (world, other):
        each.admit(MODEL, role="model")
        each.score(0, MODEL.id, {0: 100_000, 1: 200_000, 2: 300_000})
    assert encode(sorted(world.items.items())) == encode(sorted(other.items.items()))


def test_an_empty_block_needs_genesis() -> None:
    from abci_app.core.state import EMPTY
    from abci_app.core.transition import Block

    with pytest.raises(LookupError):
        transition(EMPTY, Block(1, ()))

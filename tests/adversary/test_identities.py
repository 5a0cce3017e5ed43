"""Attempts to gain from registering, retiring, rotating and being endorsed at the right moment."""

from __future__ import annotations

from typing import Any

import pytest

from abci_app.core.codes import Code
from abci_app.core.evidence import FORMER_KEY_EPOCHS
from abci_app.core.governance import PASSED
from abci_app.core.lifecycle import candidates
from abci_app.core.nodes import load_node
from abci_app.core.reputation import load_reputation
from abci_app.core.verifiers import all_verifiers, load_verifier
from planetserve import transactions
from planetserve.keys import Identity
from planetserve.records import CANDIDATE, RETIRED, REVOKED, TRUSTED, UNTRUSTED
from planetserve.scoring.reputation import Reputation
from planetserve.statekeys import credentials_prefix, endorser_key, route_key, waiting_key
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
)
from tests.abci_app import invariants
from tests.abci_app.scenes import endorsement, record
from tests.abci_app.test_governance import carried, join, outcome_of, proposed, voted
from tests.abci_app.world import (
    CHAIN_ID,
    FAR,
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    conflict,
    participant,
    registration,
)
from tests.abci_app.world import MODEL as NODE

A, B, C, D = VERIFIERS
NEW, SQUATTER = participant(91), participant(93)
EVERYONE = range(len(VERIFIERS))
GOOD = dict.fromkeys(EVERYONE, 900_000)
SHORT = {"epoch_blocks": 4, "commit_blocks": 2, "full_below_ppm": 1_000_000}


def with_node(params: dict[str, int] | None = None) -> World:
    """A chain with a trusted model node."""
    world = World({"full_below_ppm": 1_000_000, **(params or {})})
    world.admit(NODE, role="model")
    world.score(NODE.id, GOOD)
    assert record(world, NODE).status == TRUSTED
    return world


def rotation(old: Identity, new: Identity) -> dict[str, Any]:
    return transactions.rotate(CHAIN_ID, old.public_key, new)


def model(name: str, deterministic: bool = False) -> dict[str, Any]:
    return transactions.model(
        name=name,
        weights_digest=bytes(32),
        quantization="bf16",
        context_tokens=9,
        deterministic=deterministic,
    )


def conduct(world: World, identity: Identity) -> Reputation:
    reputation = load_reputation(world.state, identity.id)
    assert reputation is not None
    return reputation


def convicted(world: World, identity: Identity = NODE, request: bytes = b"") -> None:
    data = conflict(identity, "one", "another", request=request)
    assert world.code_of(B, EVIDENCE, data) == Code.OK


# Keys that others want


@pytest.mark.parametrize("kind", ["onion_key", "transport_key"])
def test_a_stranger_with_a_newcomer_s_keys_cannot_stop_its_joining(kind: str) -> None:
    world = World()
    change = join(NEW)
    number = proposed(world, change)
    squat = {**registration(SQUATTER), kind: change[kind]}
    assert world.code_of(SQUATTER, REGISTER, squat) == Code.OK
    voted(world, number, [B, C])
    assert outcome_of(world, number) == PASSED
    assert load_verifier(world.state, NEW.id) is not None
    assert load_node(world.state, SQUATTER.id) is None
    assert candidates(world.state) == 0
    invariants.check(world.items, world.height, FAR * 10)


def test_a_stranger_with_a_node_s_keys_gives_way_to_one_that_is_endorsed() -> None:
    world = World()
    squat = {**registration(SQUATTER), "onion_key": RELAY.onion_public}
    assert world.code_of(SQUATTER, REGISTER, squat) == Code.OK
    assert world.code_of(RELAY, REGISTER, registration(RELAY)) == Code.KEY_IN_USE
    assert world.code_of(A, ENDORSE, endorsement(RELAY)) == Code.OK
    world.send(RELAY, REGISTER, registration(RELAY))
    result = world.block()
    assert record(world, RELAY).status == TRUSTED
    assert load_node(world.state, SQUATTER.id) is None
    told = [event.attributes for event in result.events if event.kind == "forgotten"]
    assert told == [(("node", SQUATTER.id.hex()),)]


def test_a_key_is_not_held_twice_by_writing_it_in_another_way() -> None:
    """X25519 ignores the highest bit and reduces by the field's prime."""
    world = World()
    world.admit(RELAY)
    for kind, key in (
        ("onion_key", RELAY.onion_public),
        ("transport_key", RELAY.transport_public),
    ):
        alias = key[:31] + bytes([key[31] | 0x80])
        data = {**registration(NODE), kind: alias}
        assert world.code_of(NODE, REGISTER, data) == Code.WEAK_KEY
        assert world.code_of(RELAY, UPDATE, {**registration(RELAY), kind: alias}) == Code.WEAK_KEY
    nine = (9 + (1 << 255) - 19).to_bytes(32, "little")
    assert world.code_of(NODE, REGISTER, {**registration(NODE), "onion_key": nine}) == Code.WEAK_KEY


@pytest.mark.parametrize("role", ["prober", "verifier"])
def test_nobody_announces_a_verifier_s_role(role: str) -> None:
    world = World()
    for roles in ([role], [role, "relay"]):
        data = {**registration(RELAY), "roles": sorted(roles)}
        assert world.code_of(RELAY, REGISTER, data) == Code.INVALID_FIELD
    assert world.code_of(A, ENDORSE, endorsement(RELAY, role)) == Code.INVALID_FIELD


# Places among those that wait


def test_rotating_retiring_and_registering_at_once_leaves_no_candidate_behind() -> None:
    world = World({"candidate_blocks": 30})
    world.admit(RELAY)
    world.send(RELAY, ROTATE, rotation(RELAY, NEW))
    world.send(RELAY, RETIRE, {})
    world.send(RELAY, REGISTER, registration(RELAY))
    assert {int(result.code) for result in world.block().results} == {0}
    since = world.height
    assert candidates(world.state) == 1
    world.advance_to(world.window.end + 1)
    assert load_node(world.state, NEW.id) is None, "a waiting node does not rotate"
    assert record(world, RELAY).status == CANDIDATE
    world.advance_to(since + 31)
    assert load_node(world.state, RELAY.id) is None
    assert candidates(world.state) == 0
    invariants.check(world.items, world.height, 30)


def test_who_waits_does_not_crowd_the_routes() -> None:
    """Readers fetch all routes; anybody can wait, with as long a record as is allowed."""
    world = World()
    routes = {key for key in world.items if key.startswith(b"routes/")}
    long = {**registration(RELAY, "n" * 64), "operator": "o" * 64}
    assert world.code_of(RELAY, REGISTER, long) == Code.OK
    world.admit(NODE)
    world.send(A, REVOKE, transactions.revoke(node=NODE.id, role="relay"))
    world.send(NODE, RETIRE, {})
    world.block()
    assert record(world, NODE).status == RETIRED
    assert {key for key in world.items if key.startswith(b"routes/")} == routes
    assert {waiting_key(RELAY.id), waiting_key(NODE.id)} <= world.items.keys()


def test_an_endorsement_that_ended_takes_no_one_past_the_limit() -> None:
    world = World({"max_candidates": 1})
    assert world.code_of(A, ENDORSE, endorsement(NODE, expires=5)) == Code.OK
    assert world.code_of(RELAY, REGISTER, registration(RELAY)) == Code.OK
    world.advance_to(7)
    assert not list(world.state.scan(credentials_prefix(NODE.id)))
    assert world.code_of(NODE, REGISTER, registration(NODE)) == Code.TOO_MANY_CANDIDATES
    assert world.code_of(B, ENDORSE, endorsement(NODE)) == Code.OK
    assert world.code_of(B, REVOKE, transactions.revoke(node=NODE.id, role="relay")) == Code.OK
    assert world.code_of(NODE, REGISTER, registration(NODE)) == Code.TOO_MANY_CANDIDATES


# Records of conduct that somebody would rather not have


def test_retiring_washes_off_no_conviction() -> None:
    world = with_node({"candidate_blocks": 200})
    convicted(world)
    before = conduct(world, NODE)
    assert world.code_of(NODE, RETIRE, {}) == Code.OK
    assert world.code_of(NODE, REGISTER, registration(NODE, role="model")) == Code.OK
    assert conduct(world, NODE) == before
    assert world.code_of(A, ENDORSE, endorsement(NODE, "model", expires=FAR)) == Code.OK
    assert record(world, NODE).status == UNTRUSTED
    for _ in range(2 * world.chain.parameters.probation_epochs - 1):
        world.score(NODE.id, GOOD)
        assert record(world, NODE).status == UNTRUSTED
    world.score(NODE.id, GOOD)
    assert record(world, NODE).status == TRUSTED


def test_each_conviction_doubles_the_way_back() -> None:
    world = with_node({**SHORT, "probation_epochs": 2})
    way_back = []
    for number in range(3):
        body = b'{"model": "tiny", "temperature": 0, "messages": [%d]}' % number
        convicted(world, request=body)
        after = conduct(world, NODE)
        assert (after.ppm, after.trusted, after.convictions) == (0, False, number + 1)
        assert after.cusum_ppm >= world.chain.parameters.cusum_limit_ppm
        assert after.alarm == world.chain.parameters.alarm_epochs
        epochs = 0
        while not conduct(world, NODE).trusted:
            world.score(NODE.id, GOOD)
            epochs += 1
        way_back.append(epochs)
    assert way_back == [4, 8, 16]


def test_who_has_nothing_to_lose_is_not_convicted_again_by_naming_another_model() -> None:
    world = with_node()
    assert world.code_of(A, MODEL, model("big")) == Code.OK
    convicted(world)
    change = {**registration(NODE, role="model"), "model": "big"}
    assert world.code_of(NODE, UPDATE, change) == Code.OK
    again = conflict(NODE, "x", "y", request=b'{"model": "tiny", "temperature": 0, "messages": 1}')
    assert world.code_of(B, EVIDENCE, again) == Code.EVIDENCE_KNOWN


@pytest.mark.parametrize("detour", [False, True])
def test_another_model_is_probed_before_it_is_trusted(detour: bool) -> None:
    """Nor do probes of the former model, in the epoch of the change, speak for it."""
    world = with_node()
    assert world.code_of(A, MODEL, model("big")) == Code.OK
    if detour:
        data = {**registration(NODE, role="relay")}
        assert world.code_of(NODE, UPDATE, data) == Code.OK
    data = {**registration(NODE, role="model"), "model": "big"}
    assert world.code_of(NODE, UPDATE, data) == Code.OK
    seen = [record(world, NODE).status]
    for _ in range(2):
        world.score(NODE.id, GOOD)
        seen.append(record(world, NODE).status)
    assert seen == [CANDIDATE, CANDIDATE, TRUSTED]


def test_a_founder_that_comes_after_its_time_is_a_candidate() -> None:
    world = World({"epoch_blocks": 100, "commit_blocks": 50})
    world.advance_to(FAR + 1)
    assert list(world.state.scan(credentials_prefix(FOUNDER.id)))
    world.block()
    assert not list(world.state.scan(credentials_prefix(FOUNDER.id)))
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == Code.OK
    assert not conduct(world, FOUNDER).admitted
    data = endorsement(FOUNDER, "model", expires=FAR + 100)
    assert world.code_of(D, ENDORSE, data) == Code.OK
    assert record(world, FOUNDER).status == CANDIDATE, "its probes admit it, not one verifier"


# Keys that were given up


def test_a_stolen_former_key_frames_its_node_for_a_few_epochs_only() -> None:
    world = with_node(SHORT)
    assert world.code_of(NODE, ROTATE, rotation(NODE, NEW)) == Code.OK
    ended = world.chain.epoch.number
    while world.chain.epoch.number < ended + FORMER_KEY_EPOCHS:
        world.advance_to(world.window.end + 1)
    bodies = [b'{"model": "tiny", "temperature": 0, "messages": %d}' % n for n in range(2)]
    first, second = (conflict(NODE, "x", "y", request=b, accused=NEW.id) for b in bodies)
    assert world.code_of(D, EVIDENCE, first) == Code.OK
    world.advance_to(world.window.end + 1)
    assert world.code_of(D, EVIDENCE, second) == Code.EVIDENCE_INVALID
    other = participant(94)
    data = registration(NODE, role="model") | {
        "onion_key": other.onion_public,
        "transport_key": other.transport_public,
    }
    assert world.code_of(NODE, REGISTER, data) == Code.KEY_IN_USE


@pytest.mark.parametrize("expires", [20, 400])
def test_an_endorsement_of_the_new_key_does_not_keep_a_node_from_rotating(expires: int) -> None:
    world = World()
    world.admit(RELAY)
    world.send(D, ENDORSE, endorsement(NEW, "model", expires))
    world.send(RELAY, ROTATE, rotation(RELAY, NEW))
    assert {int(result.code) for result in world.block().results} == {0}
    world.advance_to(world.window.end + 1)
    assert record(world, NEW).status == TRUSTED
    invariants.check(world.items, world.height, FAR * 10)


def test_a_rotation_escapes_no_expulsion() -> None:
    world = World({"epoch_blocks": 4, "commit_blocks": 2})
    world.admit(RELAY)
    number = proposed(world, {"kind": "expel", "node": bytes(RELAY.id)})
    assert world.code_of(RELAY, ROTATE, rotation(RELAY, NEW)) == Code.OK
    world.advance_to(world.window.end + 1)
    assert record(world, NEW).status == TRUSTED
    voted(world, number, [B, C])
    assert outcome_of(world, number) == PASSED
    assert record(world, NEW).status == CANDIDATE
    assert route_key(NEW.id) not in world.items


# Endorsements of one verifier


def test_who_endorsed_and_left_takes_no_node_along_and_nobody_inherits_its_word() -> None:
    world = World()
    nodes = [participant(100 + number) for number in range(3)]
    for node in nodes:
        world.admit(node)
    carried(world, {"kind": "leave", "verifier": bytes(A.id)}, [B, C, D])
    for node in nodes:
        data = transactions.revoke(node=node.id, role="relay")
        assert world.code_of(D, REVOKE, data) == Code.NO_CREDENTIAL
    assert {record(world, node).status for node in nodes} == {TRUSTED}


def test_what_one_verifier_endorses_is_bounded_whatever_it_lets_end_or_rotates() -> None:
    world = World({"max_credentials": 8, "epoch_blocks": 4, "commit_blocks": 2})
    people = [participant(100 + number) for number in range(4)]

    def attempt(sender: Identity, person: Identity, expires: int) -> int:
        return world.code_of(sender, ENDORSE, endorsement(person, expires=expires))

    codes = [attempt(D, person, 20) for person in people]
    assert codes == [0, 0, Code.ENDORSEMENT_LIMIT, Code.ENDORSEMENT_LIMIT]
    assert attempt(D, people[0], 30) == Code.OK, "to renew takes no more room"
    assert attempt(C, people[2], 20) == Code.OK, "others have room of their own"
    assert world.code_of(D, ROTATE, rotation(D, NEW)) == Code.OK
    world.advance_to(world.window.end + 1)
    assert attempt(NEW, people[3], 40) == Code.ENDORSEMENT_LIMIT
    data = transactions.revoke(node=people[0].id, role="relay")
    assert world.code_of(NEW, REVOKE, data) == Code.OK
    assert attempt(NEW, people[3], 40) == Code.ENDORSEMENT_LIMIT, "its record is still kept"
    world.advance_to(22)
    assert attempt(NEW, people[3], 40) == Code.OK
    world.advance_to(42)
    assert not [key for key in world.items if key.startswith(endorser_key(NEW.id))]
    assert not [key for key in world.items if key.startswith(endorser_key(D.id))]


def test_a_revoked_credential_is_kept_for_as_long_as_a_candidate() -> None:
    world = World({"candidate_blocks": 10})
    world.admit(RELAY)
    assert world.code_of(A, REVOKE, transactions.revoke(node=RELAY.id, role="relay")) == Code.OK
    last = world.height + 10
    world.advance_to(last + 1)
    assert record(world, RELAY).status == REVOKED
    world.block()
    assert record(world, RELAY).status == CANDIDATE
    assert not list(world.state.scan(credentials_prefix(RELAY.id)))
    world.advance_to(last + 12)
    assert load_node(world.state, RELAY.id) is None


# Power that a node's disappearance might cost its probers


@pytest.mark.parametrize("back", [None, "early", "late"])
def test_a_node_that_vanishes_leaves_no_prober_with_an_open_commitment(back: str | None) -> None:
    """Its credential ends when all have committed, and an accomplice that begins in that block
    crowds it out. It may come again before or after they open."""
    world = World({**SHORT, "epoch_blocks": 8, "commit_blocks": 3})
    for number in range(6):
        accomplice = participant(60 + number)
        world.advance_to(world.window.end)
        if load_node(world.state, NODE.id) is None:
            world.send(NODE, REGISTER, registration(NODE, role="model"))
        commit_end = world.window.commit_end
        world.send(D, ENDORSE, endorsement(NODE, "model", expires=commit_end - 1))
        world.send(D, ENDORSE, endorsement(accomplice, expires=commit_end + 9))
        world.block()
        for prober in (A, B, C):
            world.commit(prober, NODE.id, 900_000)
        assert {int(result.code) for result in world.block().results} == {0}
        world.advance_to(commit_end)
        taken = {**registration(accomplice), "onion_key": NODE.onion_public}
        world.send(accomplice, REGISTER, taken)
        world.send(accomplice, UPDATE, registration(accomplice))
        if back == "early":
            world.send(NODE, REGISTER, registration(NODE, role="model"))
        assert {int(result.code) for result in world.block().results} == {0}
        assert (load_node(world.state, NODE.id) is None) is (back != "early")
        for prober in (A, B, C):
            world.reveal(prober, NODE.id, 900_000)
        if back == "late":
            world.send(NODE, REGISTER, registration(NODE, role="model"))
        assert {int(result.code) for result in world.block().results} == {0}
        invariants.check(world.items, world.height, FAR * 10)
    world.advance_to(world.window.end)
    verifiers = all_verifiers(world.state)
    assert {(each.power, each.trust_ppm, each.benched) for each in verifiers} == {
        (10, 1_000_000, -1)
    }


def test_one_verifier_alone_makes_no_model_that_nodes_can_be_convicted_over() -> None:
    world = World()
    data = model("exact", deterministic=True)
    assert world.code_of(A, MODEL, data) == Code.INVALID_FIELD
    change = {"kind": "model", **data}
    assert world.code_of(A, PROPOSE, {"change": change}) == Code.OK
    assert world.code_of(A, PROPOSE, {"change": {**change, "name": "tiny"}}) == Code.BAD_CHANGE

"""The public record of a node, as its credentials and conduct make it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.credentials import Credential, admission
from abci_app.core.nodes import Node
from abci_app.core.routes import NEVER, node_record
from abci_app.core.state import load, records
from planetserve.records import CANDIDATE, RETIRED, REVOKED, STATUSES, TRUSTED, UNTRUSTED
from planetserve.scoring.reputation import Reputation
from planetserve.statekeys import expiries_prefix, route_key
from planetserve.transactions import ENDORSE, REGISTER
from tests.abci_app.scenes import code_of, endorsement, record, with_founder, with_relay
from tests.abci_app.world import FOUNDER, RELAY, VERIFIERS, World, registration

A, B, C, D = VERIFIERS
NODE = Node(
    key=bytes(32),
    name="n",
    roles=("relay",),
    onion_key=bytes(32),
    transport_key=bytes(32),
    endpoints={},
    model="",
    operator="",
    registered=1,
)
MODEL_NODE = replace(NODE, roles=("model",), model="tiny")
LIVE, ENDED, TAKEN = Credential(1, 20), Credential(1, 9), Credential(1, 20, revoked=5)
GOOD = Reputation(700_000, admitted=True)


def status(
    node: Node, *held: Credential, reputation: Reputation | None = None, verifier: bool = False
) -> str:
    credentials = dict.fromkeys(node.roles, held)
    return node_record(node, credentials, reputation, verifier, height=10).status


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ((), CANDIDATE),
        ((LIVE,), TRUSTED),
        ((Credential(1, 10),), TRUSTED),
        ((ENDED,), CANDIDATE),
        ((TAKEN,), REVOKED),
        ((TAKEN, LIVE), TRUSTED),
        ((TAKEN, ENDED), REVOKED),
        ((ENDED, LIVE), TRUSTED),
    ],
)
def test_credentials_decide_who_is_admitted(held: tuple[Credential, ...], expected: str) -> None:
    assert status(NODE, *held) == expected


@pytest.mark.parametrize(
    ("reputation", "expected"),
    [
        (GOOD, TRUSTED),
        (replace(GOOD, trusted=False), UNTRUSTED),
        (replace(GOOD, admitted=False), CANDIDATE),
        (replace(GOOD, admitted=False, trusted=False), CANDIDATE),
    ],
)
def test_conduct_decides_who_is_trusted(reputation: Reputation, expected: str) -> None:
    assert status(MODEL_NODE, LIVE, reputation=reputation) == expected
    assert status(NODE, LIVE, reputation=reputation) == TRUSTED, "it serves no model any more"
    assert status(MODEL_NODE, TAKEN, reputation=reputation) == REVOKED
    assert status(MODEL_NODE, reputation=reputation) == CANDIDATE
    retired = replace(MODEL_NODE, retired=9)
    assert status(retired, LIVE, reputation=reputation) == RETIRED


def test_every_role_must_be_admitted() -> None:
    node = replace(NODE, roles=("relay", "user"))
    made = node_record(node, {"relay": [LIVE]}, None, False, height=10)
    assert (made.status, made.credential_expires) == (CANDIDATE, 0)
    made = node_record(node, {"relay": [LIVE], "user": [Credential(1, 15)]}, None, False, 10)
    assert (made.status, made.credential_expires) == (TRUSTED, 15)


def test_a_verifier_needs_no_credential_for_what_it_is_voted_for() -> None:
    node = replace(NODE, roles=("prober", "verifier"))
    made = node_record(node, {}, None, True, height=10)
    assert (made.status, made.credential_expires) == (TRUSTED, NEVER)
    assert node_record(node, {}, None, False, height=10).status == CANDIDATE


@given(
    st.lists(
        st.builds(Credential, st.just(1), st.integers(1, 30), st.sampled_from([0, 0, 5])),
        max_size=5,
    ),
    st.integers(1, 31),
)
def test_admission_is_what_any_credential_gives(held: list[Credential], height: int) -> None:
    found = admission(held, height)
    standing = [item for item in held if not item.revoked]
    assert found.live == any(item.expires >= height for item in standing)
    assert found.expires == max((item.expires for item in standing), default=0)
    assert found.revoked == (not found.live and len(standing) < len(held))


def test_what_changes_a_node_changes_its_route_with_the_block() -> None:
    world = with_founder()
    world.score(FOUNDER.id, dict.fromkeys(range(4), 900_000))
    assert record(world, FOUNDER).reputation_ppm == 740_000
    assert record(world, FOUNDER).status in STATUSES
    assert load(world.state, route_key(FOUNDER.id)) == record(world, FOUNDER).to_wire()


def test_an_expiry_passes_without_any_transaction() -> None:
    world = with_relay()
    (height,) = {
        int.from_bytes(key[:8], "big")
        for key, _ in records(world.state, b"expiries/")
        if key[8:28] == RELAY.id and len(key) > 28
    }
    world.advance_to(height)
    assert record(world, RELAY).status == TRUSTED
    result = world.block()
    assert record(world, RELAY).status == CANDIDATE
    assert ("status", (("node", RELAY.id.hex()), ("status", CANDIDATE))) in [
        (event.kind, event.attributes) for event in result.events
    ]
    assert route_key(RELAY.id) not in world.items, "nobody endorses it, so that it waits"
    assert not list(world.state.scan(expiries_prefix(height)))


def test_a_renewal_outlives_the_former_expiry() -> None:
    world = World()
    world.send(RELAY, REGISTER, registration(RELAY))
    world.send(A, ENDORSE, endorsement(RELAY, expires=5))
    world.block()
    assert code_of(world, A, ENDORSE, endorsement(RELAY, expires=9)) == 0
    world.advance_to(6)
    assert world.block().events == ()
    assert record(world, RELAY).status == TRUSTED
    world.advance_to(10)
    assert len(world.block().events) == 1
    assert record(world, RELAY).status == CANDIDATE


def test_an_endorsed_key_that_never_registers_leaves_no_route() -> None:
    world = World()
    assert code_of(world, A, ENDORSE, endorsement(RELAY, expires=5)) == 0
    assert route_key(RELAY.id) not in world.items
    world.advance_to(8)
    assert route_key(RELAY.id) not in world.items
    assert not [key for key, _ in records(world.state, b"expiries/") if key[8:28] == RELAY.id]

"""Every change is told in events, in text and in a fixed order."""

from __future__ import annotations

from typing import Any

from abci_app.core.transition import BlockResult
from planetserve import transactions
from planetserve.transactions import (
    COMMIT,
    ENDORSE,
    EVIDENCE,
    KINDS,
    MODEL,
    PROPOSE,
    REGISTER,
    RETIRE,
    REVEAL,
    REVOKE,
    ROTATE,
    UPDATE,
    VOTE,
)
from tests.abci_app.scenes import TAU, TINY, endorsement
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    conflict,
    consensus_key,
    participant,
    registration,
)

A, B, C, D = VERIFIERS
Told = list[tuple[str, dict[str, str]]]


def told(result: BlockResult) -> Told:
    """The block's events; those of its transactions first."""
    events = [event for item in result.results for event in item.events] + list(result.events)
    for event in events:
        assert all(type(text) is str for pair in event.attributes for text in pair)
    return [(event.kind, dict(event.attributes)) for event in events]


def test_a_transaction_of_each_kind() -> None:
    world = World()
    node, role = FOUNDER.id.hex(), "relay"
    world.send(FOUNDER, REGISTER, registration(FOUNDER, role="model"))
    world.send(FOUNDER, UPDATE, registration(FOUNDER, "renamed", "model"))
    world.send(RELAY, REGISTER, registration(RELAY))
    world.send(A, ENDORSE, endorsement(RELAY))
    world.send(A, MODEL, TINY)
    world.send(A, PROPOSE, transactions.propose(change=TAU))
    world.send(B, VOTE, transactions.vote(proposal=1, approve=True))
    found = told(world.block())
    world.commit(A, FOUNDER.id, 500_000)
    world.send(A, REVOKE, transactions.revoke(node=RELAY.id, role=role))
    world.send(RELAY, RETIRE, transactions.retire())
    world.send(FOUNDER, ROTATE, transactions.rotate(CHAIN_ID, FOUNDER.public_key, participant(9)))
    found += told(world.block())
    world.advance_to(world.window.commit_end)
    world.reveal(A, FOUNDER.id, 500_000)
    world.send(B, EVIDENCE, conflict(FOUNDER, "one", "other"))
    found += told(world.block())
    by_kind = {item["kind"]: item for kind, item in found if kind == "ledger"}
    assert set(by_kind) == set(KINDS)
    relay, sender = RELAY.id.hex(), A.id.hex()
    assert by_kind[ENDORSE] == {"kind": ENDORSE, "sender": sender, "node": relay, "role": role}
    assert by_kind[REVOKE] == {"kind": REVOKE, "sender": sender, "node": relay, "role": role}
    assert by_kind[UPDATE] == {"kind": UPDATE, "sender": node, "name": "renamed"}
    assert by_kind[MODEL] == {"kind": MODEL, "sender": sender, "name": TINY["name"]}
    assert by_kind[COMMIT] == {"kind": COMMIT, "sender": sender, "epoch": "0", "node": node}
    assert by_kind[REVEAL] == {"kind": REVEAL, "sender": sender, "epoch": "0", "node": node}
    assert by_kind[VOTE] == {"kind": VOTE, "sender": B.id.hex(), "proposal": "1"}
    assert by_kind[EVIDENCE] == {"kind": EVIDENCE, "sender": B.id.hex(), "accused": node}


def test_a_refused_transaction_tells_nothing() -> None:
    world = World()
    world.send(RELAY, RETIRE, transactions.retire())
    assert told(world.block()) == []


def test_a_settlement_tells_of_nodes_and_of_probers_that_it_changed() -> None:
    world = World({"full_below_ppm": 1_000_000})
    world.send(FOUNDER, REGISTER, registration(FOUNDER, role="model"))
    world.block()
    scores = {bytes(FOUNDER.id): dict.fromkeys(range(4), 0)}
    found = told(world.score_all(scores, withheld=frozenset({3})))
    assert found == [
        (
            "settlement",
            {
                "node": FOUNDER.id.hex(),
                "epoch": "0",
                "reputation_ppm": "200000",
                "status": "untrusted",
                "verdict": "lost trust: reputation below the threshold",
            },
        ),
        (
            "conduct",
            {"verifier": D.id.hex(), "epoch": "0", "trust_ppm": "800000", "power": "10"},
        ),
    ]


def test_votes_tell_their_outcome_and_what_follows() -> None:
    world = World({"epoch_blocks": 6, "commit_blocks": 2})
    power = {"kind": "power", "verifier": B.id, "power": 12}
    for change in (TAU, power):
        world.send(A, PROPOSE, transactions.propose(change=change))
    world.block()
    for voter in (B, C):
        for number in (1, 2):
            world.send(voter, VOTE, transactions.vote(proposal=number, approve=True))
    found = [item for item in told(world.block()) if item[0] != "ledger"]
    assert found == [
        ("proposal", {"proposal": "1", "outcome": "passed"}),
        ("proposal", {"proposal": "2", "outcome": "passed"}),
        ("power", {"consensus_key": consensus_key(1).hex(), "power": "12"}),
    ]
    world.advance_to(world.window.end - 1)
    assert told(world.block()) == [("parameters", {"abnormal_below_ppm": "450000"})]


def test_a_joining_and_a_leaving_validator() -> None:
    world = World()
    newcomer = participant(90)
    join: dict[str, Any] = {
        "kind": "join",
        "key": newcomer.public_key,
        "name": "newcomer",
        "consensus_key": participant(91).public_key,
        "onion_key": newcomer.onion_public,
        "transport_key": newcomer.transport_public,
        "power": 10,
    }
    leave: dict[str, Any] = {"kind": "leave", "verifier": D.id}
    seen: Told = []
    for number, change in enumerate((join, leave), start=1):
        world.send(A, PROPOSE, transactions.propose(change=change))
        world.block()
        for voter in (B, C, D):
            world.send(voter, VOTE, transactions.vote(proposal=number, approve=True))
        seen += [item for item in told(world.block()) if item[0] == "power"]
    assert seen == [
        ("power", {"consensus_key": participant(91).public_key.hex(), "power": "10"}),
        ("power", {"consensus_key": consensus_key(3).hex(), "power": "0"}),
    ]

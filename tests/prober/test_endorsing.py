"""The open policy: each candidate falls to one verifier, the others step in."""

from __future__ import annotations

from planetserve.keys import identity_from
from planetserve.records import NodeRecord
from prober.endorsing import STEP_IN_AFTER_S, due_endorsements, waits

VERIFIERS = [bytes((number,)) * 20 for number in range(4)]


HEIGHT = 10


def node(
    number: int, status: str = "candidate", role: str = "relay", expires: int = 0
) -> NodeRecord:
    identity = identity_from(bytes((number,)) * 96)
    return NodeRecord(
        identity.id, identity.public_key, f"n{number}", (role,), bytes(32), bytes(32),
        {}, "", "", 1, expires, None, status,
    )  # fmt: skip


def test_each_candidate_falls_to_exactly_one_verifier() -> None:
    nodes = [node(number) for number in range(40)]
    due = [due_endorsements(nodes, VERIFIERS, own, {}, 0.0, HEIGHT) for own in VERIFIERS]
    endorsed = [record.id for part in due for record, _ in part]
    assert sorted(endorsed) == sorted(record.id for record in nodes)


def test_the_others_step_in_later() -> None:
    record = node(1)
    seen: dict[bytes, float] = {record.id: 0.0}
    for own in VERIFIERS:
        assert due_endorsements([record], VERIFIERS, own, seen, STEP_IN_AFTER_S, HEIGHT) == [
            (record, "relay")
        ]


def test_only_candidates_in_roles_that_can_be_endorsed() -> None:
    nodes = [node(1, "trusted"), node(2, "untrusted"), node(3, "retired"), node(4, role="prober")]
    seen: dict[bytes, float] = {record.id: 0.0 for record in nodes}
    assert due_endorsements(nodes, VERIFIERS, VERIFIERS[0], seen, 1e9, HEIGHT) == []


def test_a_candidate_that_is_endorsed_waits_for_its_probes_only() -> None:
    endorsed, expired = node(1, role="model", expires=HEIGHT), node(2, expires=HEIGHT - 1)
    assert not waits(endorsed, HEIGHT)
    assert waits(endorsed, HEIGHT + 1)
    seen: dict[bytes, float] = {endorsed.id: 0.0, expired.id: 0.0}
    due = due_endorsements([endorsed, expired], VERIFIERS, VERIFIERS[0], seen, 1e9, HEIGHT)
    assert due == [(expired, "relay")]

"""Evidence on the ledger; what counts as such is tested with the kernel."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from abci_app.core.codes import Code
from abci_app.core.evidence import case_digest, evidence_record
from abci_app.core.models import all_models
from abci_app.core.reputation import load_reputation
from abci_app.core.state import load
from planetserve.evidence import MAX_REQUEST_BYTES, TWO_ANSWERS, UNKNOWN_FINISH
from planetserve.keys import Identity
from planetserve.messages import (
    MAX_STATEMENT_BYTES,
    ReplyStatement,
    Usage,
    sign_reply,
    state_reply,
)
from planetserve.records import TRUSTED, UNTRUSTED
from planetserve.statekeys import route_key
from planetserve.transactions import EVIDENCE, MAX_TRANSACTION_BYTES, REGISTER, ROTATE, rotate
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    RELAY,
    VERIFIERS,
    World,
    participant,
    registration,
)

REQUEST = json.dumps({"model": "tiny", "messages": [], "temperature": 0, "max_tokens": 8}).encode()


def stated(text: str = "a", request: bytes = REQUEST, **other: Any) -> ReplyStatement:
    return replace(state_reply(CHAIN_ID, request, text, "stop", "tiny", Usage(3, 2)), **other)


def evidence(
    kind: str,
    *statements: ReplyStatement,
    request: bytes = REQUEST,
    signer: Identity = FOUNDER,
    **other: Any,
) -> dict[str, Any]:
    signed = [
        {"statement": item.encode(), "signature": sign_reply(signer, item)} for item in statements
    ]
    return {
        "accused": bytes(signer.id),
        "key": signer.public_key,
        "kind": kind,
        "request": request,
        "statements": signed,
        **other,
    }


CONFLICT = evidence("conflict", stated("a"), stated("b"))
FORBIDDEN = evidence("forbidden", stated(finish_reason="bored"))


def network() -> World:
    """Four verifiers and a trusted model node."""
    world = World()
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == Code.OK
    assert load(world.state, route_key(FOUNDER.id))["status"] == TRUSTED
    return world


@pytest.mark.parametrize(("data", "breach"), [(CONFLICT, TWO_ANSWERS), (FORBIDDEN, UNKNOWN_FINISH)])
def test_a_conviction_ends_trust_at_once(data: Mapping[str, Any], breach: str) -> None:
    world = network()
    assert world.code_of(VERIFIERS[2], EVIDENCE, data) == Code.OK
    reputation = load_reputation(world.state, FOUNDER.id)
    assert reputation is not None
    assert (reputation.ppm, reputation.trusted, reputation.streak) == (0, False, 0)
    assert load(world.state, route_key(FOUNDER.id))["status"] == UNTRUSTED
    digest = case_digest(FOUNDER.id, REQUEST)
    record = evidence_record(world.state, digest)
    assert record is not None
    assert record["statements"] == data["statements"]
    assert (record["breach"], record["height"], record["model"]) == (breach, 2, "tiny")
    assert record["epoch"] == 0
    assert (record["accused"], record["reporter"]) == (FOUNDER.id, VERIFIERS[2].id)


def test_a_request_is_judged_once_for_all() -> None:
    world = network()
    assert world.code_of(VERIFIERS[0], EVIDENCE, CONFLICT) == Code.OK
    assert world.code_of(VERIFIERS[1], EVIDENCE, CONFLICT) == Code.EVIDENCE_KNOWN
    assert world.code_of(VERIFIERS[1], EVIDENCE, FORBIDDEN) == Code.EVIDENCE_KNOWN


def test_a_convicted_node_is_convicted_again_once_it_has_something_to_lose() -> None:
    world = network()
    other = REQUEST.replace(b"8", b"9")
    second = evidence("conflict", stated("a", other), stated("b", other), request=other)
    assert world.code_of(VERIFIERS[0], EVIDENCE, CONFLICT) == Code.OK
    assert world.code_of(VERIFIERS[1], EVIDENCE, second) == Code.EVIDENCE_KNOWN
    scores = dict.fromkeys(range(4), 1_000_000)
    world.score(FOUNDER.id, scores)
    assert world.code_of(VERIFIERS[1], EVIDENCE, second) == Code.OK
    assert world.code_of(VERIFIERS[1], EVIDENCE, CONFLICT) == Code.EVIDENCE_KNOWN


def test_only_verifiers_accuse() -> None:
    world = network()
    world.admit(RELAY)
    assert world.code_of(RELAY, EVIDENCE, CONFLICT) == Code.NOT_A_VERIFIER
    assert world.code_of(FOUNDER, EVIDENCE, CONFLICT) == Code.NOT_A_VERIFIER


def test_the_accused_must_have_a_reputation() -> None:
    world = network()
    world.admit(RELAY)
    for identity in (RELAY, participant(77), VERIFIERS[0]):
        data = evidence("conflict", stated("a"), stated("b"), signer=identity)
        assert world.code_of(VERIFIERS[0], EVIDENCE, data) == Code.UNKNOWN_NODE


def test_nobody_answers_for_another_s_signature() -> None:
    world = network()
    stranger = participant(77)
    for other in ({"accused": bytes(FOUNDER.id)}, {"key": FOUNDER.public_key}):
        data = evidence("conflict", stated("a"), stated("b"), signer=stranger)
        code = world.code_of(VERIFIERS[0], EVIDENCE, {**data, **other})
        assert code in (Code.EVIDENCE_INVALID, Code.UNKNOWN_NODE)
    data = evidence("conflict", stated("a"), stated("b"), signer=stranger)
    framed = {**data, "accused": bytes(FOUNDER.id), "key": FOUNDER.public_key}
    assert world.code_of(VERIFIERS[0], EVIDENCE, framed) == Code.EVIDENCE_INVALID
    reputation = load_reputation(world.state, FOUNDER.id)
    assert reputation is not None
    assert reputation.trusted


@pytest.mark.parametrize(
    "data",
    [
        evidence("conflict", stated("a"), stated("a")),
        evidence("conflict", stated("a")),
        evidence("forbidden", stated("a")),
        evidence("forbidden", stated("a"), stated("b")),
        evidence("slander", stated("a"), stated("b")),
        evidence("conflict", stated("a"), stated("b", chain_id="another-chain")),
        evidence("conflict", stated("a"), stated("b"), request=REQUEST + b" "),
        evidence("forbidden", stated(request=b""), request=b""),
        evidence(
            "forbidden",
            stated(request=b'{"model":"\\ud800"}', finish_reason="bored"),
            request=b'{"model":"\\ud800"}',
        ),
    ],
)
def test_what_proves_nothing_is_refused(data: Mapping[str, Any]) -> None:
    world = network()
    before = {key for key in world.items if key.startswith(b"evidence/")}
    assert world.code_of(VERIFIERS[0], EVIDENCE, data) == Code.EVIDENCE_INVALID
    assert {key for key in world.items if key.startswith(b"evidence/")} == before


@pytest.mark.parametrize(
    "other",
    [
        {"accused": bytes(19)},
        {"key": bytes(31)},
        {"kind": ""},
        {"kind": "k" * 33},
        {"kind": b"conflict"},
        {"request": "text"},
        {"statements": []},
        {"statements": CONFLICT["statements"] * 2},
        {"statements": [b""]},
        {"statements": [{}]},
        {"statements": [{"statement": "text", "signature": bytes(64)}]},
        {"statements": [{"statement": b"", "signature": bytes(63)}]},
        {"statements": [{"statement": b"", "signature": bytes(64), "more": 1}]},
        {"statements": None},
        {"more": 1},
    ],
)
def test_malformed_evidence(other: dict[str, Any]) -> None:
    world = network()
    assert world.code_of(VERIFIERS[0], EVIDENCE, {**CONFLICT, **other}) == Code.INVALID_FIELD


def test_a_new_key_answers_for_the_one_before() -> None:
    world = network()
    successor = participant(88)
    data = rotate(CHAIN_ID, FOUNDER.public_key, successor)
    assert world.code_of(FOUNDER, ROTATE, data) == Code.OK
    world.advance_to(world.window.end)
    assert world.code_of(VERIFIERS[0], EVIDENCE, CONFLICT) == Code.UNKNOWN_NODE
    accused = {**CONFLICT, "accused": bytes(successor.id)}
    assert world.code_of(VERIFIERS[0], EVIDENCE, accused) == Code.OK
    reputation = load_reputation(world.state, successor.id)
    assert reputation is not None
    assert not reputation.trusted
    assert world.code_of(VERIFIERS[1], EVIDENCE, accused) == Code.EVIDENCE_KNOWN


def test_a_node_cannot_be_judged_by_a_model_s_terms_that_do_not_promise_it() -> None:
    world = network()
    assert [model.deterministic for model in all_models(world.state)] == [True]
    request = REQUEST.replace(b"tiny", b"none")
    data = evidence(
        "conflict",
        stated("a", request, model="none"),
        stated("b", request, model="none"),
        request=request,
    )
    assert world.code_of(VERIFIERS[0], EVIDENCE, data) == Code.EVIDENCE_INVALID


def test_the_largest_evidence_fits_into_a_transaction() -> None:
    world = network()
    frame = len(json.dumps({"model": "m" * 128, "user": ""}).encode())
    body = json.dumps({"model": "m" * 128, "user": "x" * (MAX_REQUEST_BYTES - frame)}).encode()
    assert len(body) == MAX_REQUEST_BYTES
    statement = b"s" * MAX_STATEMENT_BYTES
    data = evidence("conflict", request=body)
    data["statements"] = [{"statement": statement, "signature": bytes(64)}] * 2
    raw = world.sign(VERIFIERS[0], EVIDENCE, data)
    assert len(raw) <= MAX_TRANSACTION_BYTES - 64
    assert world.code_of(VERIFIERS[0], EVIDENCE, data) == Code.EVIDENCE_INVALID

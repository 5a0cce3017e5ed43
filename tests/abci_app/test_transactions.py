"""What is refused before and by the rules, whatever a transaction holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.chain import load_chain
from abci_app.core.codes import MEANINGS, Code
from abci_app.core.state import EMPTY, View
from abci_app.core.transactions import RULES
from abci_app.core.transition import Block, apply, transition
from planetserve import transactions
from planetserve.keys import Identity
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
    sign_transaction,
)
from tests.abci_app.scenes import (
    NEWCOMER,
    TAU,
    TINY,
    code_of,
    commitment,
    endorsement,
    only_code,
    opening,
    record,
    with_commitment,
    with_founder,
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
    score_data,
)
from tests.abci_app.world import MODEL as NODE

A, B, C, D = VERIFIERS


def test_every_truncation_is_malformed() -> None:
    world = World()
    raw = world.sign(RELAY, REGISTER, registration(RELAY))
    for length in range(len(raw)):
        assert apply(View(world.state), world.chain, 1, raw[:length]).code == Code.MALFORMED
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
    assert not view.writes


@given(st.binary(max_size=200))
def test_garbage_is_malformed(raw: bytes) -> None:
    assert only_code(World(), raw) == Code.MALFORMED


def test_nonces_are_sequential_and_a_replay_is_refused() -> None:
    world = with_relay()
    first, second, third = (
        sign_transaction(RELAY, CHAIN_ID, nonce, UPDATE, registration(RELAY, f"n{nonce}"))
        for nonce in (1, 2, 3)
    )
    assert only_code(world, second) == Code.BAD_NONCE
    assert [int(item.code) for item in world.block(first, second, first).results] == [0, 0, 4]
    assert only_code(world, third) == Code.OK
    assert record(world, RELAY).name == "n3"


def test_a_refused_transaction_costs_no_nonce() -> None:
    world = World()
    assert code_of(world, RELAY, REGISTER, {}) == Code.INVALID_FIELD
    raw = sign_transaction(RELAY, CHAIN_ID, 0, REGISTER, registration(RELAY))
    assert only_code(world, raw) == Code.OK


BAD_REGISTRATIONS: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 65},
    {"name": "a\nb"},
    {"name": "a\x1b[2Jb"},
    {"name": " padded"},
    {"name": "\u202eevil"},
    {"name": "\u0430dmin"},
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
    {"endpoints": {"other": "tcp://10.0.0.1:1"}},
    {"endpoints": {"overlay": "http://10.0.0.1:1"}},
    {"endpoints": {"overlay": "tcp://10.0.0.1:0"}},
    {"endpoints": {"overlay": "tcp://10.0.0.1:65536"}},
    {"endpoints": {"overlay": "tcp://10.0.0.1:1\n"}},
    {"endpoints": {"overlay": "tcp://a.name:1"}},
    {"endpoints": {"overlay": "tcp://[" + "1:" * 30 + ":1]:1"}},
    {"endpoints": {"overlay": 5}},
    {"endpoints": ["overlay"]},
    {"model": "a model of a relay"},
    {"operator": "x" * 65},
    {"extra": 1},
]


@pytest.mark.parametrize("change", BAD_REGISTRATIONS, ids=repr)
def test_bad_registrations(change: dict[str, Any]) -> None:
    data = {**registration(RELAY), **change}
    assert code_of(World(), RELAY, REGISTER, data) == Code.INVALID_FIELD
    assert code_of(with_relay(), RELAY, UPDATE, data) == Code.INVALID_FIELD


def test_a_model_node_names_a_model() -> None:
    data = {**registration(NODE, role="model"), "model": ""}
    assert code_of(World(), NODE, REGISTER, data) == Code.INVALID_FIELD


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (RETIRE, {"why": "tired"}),
        (ROTATE, {"new_key": bytes(31)}),
        (ROTATE, {"proof": bytes(63)}),
        (ENDORSE, {"role": "verifier"}),
        (ENDORSE, {"expires": True}),
        (ENDORSE, {"expires": -1}),
        (ENDORSE, {"node": bytes(32)}),
        (REVOKE, {"role": "verifier"}),
        (COMMIT, {"epoch": -1}),
        (COMMIT, {"commitment": bytes(31)}),
        (REVEAL, {"score_ppm": 1_000_001}),
        (REVEAL, {"score_ppm": -1}),
        (REVEAL, {"samples": 0}),
        (REVEAL, {"samples": 1_000_001}),
        (REVEAL, {"digest": b""}),
        (REVEAL, {"salt": bytes(33)}),
        (REVEAL, {"proof": bytes(81)}),
    ],
    ids=repr,
)
def test_fields_out_of_range(kind: str, change: dict[str, Any]) -> None:
    world = with_commitment()
    good: dict[str, dict[str, Any]] = {
        RETIRE: transactions.retire(),
        ROTATE: transactions.rotate(CHAIN_ID, A.public_key, NEWCOMER),
        ENDORSE: endorsement(FOUNDER, "model"),
        REVOKE: transactions.revoke(node=FOUNDER.id, role="model"),
        COMMIT: commitment(),
        REVEAL: opening(world),
    }
    assert code_of(world, A, kind, {**good[kind], **change}) == Code.INVALID_FIELD


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.text(max_size=5)
    | st.binary(max_size=33)
    | st.sampled_from([bytes(20), bytes(32), bytes(64), bytes(80), "model", "relay", "leave", 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.sampled_from(KINDS), st.data())
def test_no_data_makes_the_ledger_raise(kind: str, data: st.DataObject) -> None:
    fields = {name: data.draw(JUNK, name) for name in GOOD[kind](BUSY)[1]}
    fields |= data.draw(st.dictionaries(st.sampled_from(["extra", "node", "kind"]), JUNK))
    world = World()
    view, chain = View(world.state), load_chain(world.state)
    assert apply(view, chain, 1, world.sign(A, kind, fields)).code in set(Code)


GOOD: dict[str, Callable[[World], tuple[Identity, dict[str, Any]]]] = {
    REGISTER: lambda world: (NODE, registration(NODE)),
    UPDATE: lambda world: (FOUNDER, registration(FOUNDER)),
    RETIRE: lambda world: (RELAY, transactions.retire()),
    ROTATE: lambda world: (
        FOUNDER,
        transactions.rotate(CHAIN_ID, FOUNDER.public_key, NEWCOMER),
    ),
    ENDORSE: lambda world: (A, endorsement(FOUNDER, "model")),
    REVOKE: lambda world: (A, transactions.revoke(node=RELAY.id, role="relay")),
    MODEL: lambda world: (A, TINY),
    COMMIT: lambda world: (A, commitment()),
    REVEAL: lambda world: (A, opening(world)),
    EVIDENCE: lambda world: (A, conflict(FOUNDER, "one", "other")),
    PROPOSE: lambda world: (A, transactions.propose(change=TAU)),
    VOTE: lambda world: (A, transactions.vote(proposal=1, approve=True)),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_damaged_good_transaction_does_not_raise(kind: str, data: st.DataObject) -> None:
    """Junk in one field at a time of what would pass, deep in the rules."""
    world = BUSY
    identity, fields = GOOD[kind](world)
    if not fields:
        return
    name = data.draw(st.sampled_from(sorted(fields)))
    value = data.draw(JUNK)
    if isinstance(fields[name], dict) and data.draw(st.booleans()):
        inner = data.draw(st.sampled_from(sorted(fields[name])))
        value = {**fields[name], inner: value}
    view = View(world.state)
    raw = world.sign(identity, kind, {**fields, name: value})
    assert apply(view, world.chain, world.height + 1, raw).code in set(Code)


def busy() -> World:
    """A relay, a founder and a commitment that may be opened."""
    world = with_relay()
    world.send(FOUNDER, REGISTER, registration(FOUNDER, role="model"))
    world.send(B, PROPOSE, transactions.propose(change=TAU))
    world.block()
    world.commit(A, FOUNDER.id, 800_000)
    world.block()
    world.advance_to(world.window.commit_end)
    return world


BUSY = busy()


def test_every_kind_has_a_rule_and_a_builder() -> None:
    assert set(RULES) == set(KINDS) == set(GOOD)
    in_time = set(KINDS) - {COMMIT}
    for kind in in_time:
        identity, data = GOOD[kind](BUSY)
        raw = BUSY.sign(identity, kind, data)
        result = apply(View(BUSY.state), BUSY.chain, BUSY.height + 1, raw)
        assert result.code == Code.OK, (kind, result.log)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_match_the_builders(kind: str) -> None:
    """The builders that everybody uses and the checks agree on the fields."""
    identity, data = GOOD[kind](BUSY)
    sender = identity if kind == REGISTER else A
    raw = sign_transaction(sender, CHAIN_ID, 0, kind, {"nothing": 1})
    result = World().block(raw).results[0]
    assert result.code is Code.INVALID_FIELD
    assert result.log == f"{MEANINGS[Code.INVALID_FIELD]}: data holds exactly " + ", ".join(
        sorted(data)
    )


def test_the_windows_of_commits_and_reveals() -> None:
    world = with_founder({"epoch_blocks": 6, "commit_blocks": 3})
    codes = []
    for _ in range(6):
        chain, height = world.chain, world.height + 1
        raw = world.sign(A, COMMIT, commitment(epoch=chain.epoch.number))
        committing = apply(View(world.state), chain, height, raw).code
        raw = world.sign(A, REVEAL, opening(world))
        revealing = apply(View(world.state), chain, height, raw).code
        codes.append((height, int(committing), int(revealing)))
        world.block()
    closed, none = int(Code.WINDOW_CLOSED), int(Code.NO_COMMITMENT)
    assert codes == [
        (2, 0, closed),
        (3, 0, closed),
        (4, closed, none),
        (5, closed, none),
        (6, closed, closed),
        (7, 0, closed),
    ]


def test_only_what_serves_or_has_served_a_model_is_scored() -> None:
    world = with_relay()
    assert code_of(world, A, COMMIT, commitment(RELAY.id)) == Code.ROLE_NOT_ANNOUNCED
    assert code_of(world, A, COMMIT, commitment(bytes(20))) == Code.UNKNOWN_NODE
    assert code_of(world, RELAY, COMMIT, commitment(RELAY.id)) == Code.NOT_A_VERIFIER


def test_all_reveals_of_an_epoch_carry_one_proof() -> None:
    world = with_founder()
    world.admit(NODE, role="model")
    for node in (FOUNDER.id, NODE.id):
        world.commit(A, node, 800_000)
    world.block()
    world.advance_to(world.window.commit_end)
    world.reveal(A, FOUNDER.id, 800_000)
    world.block()
    data = score_data(0, NODE.id, 800_000, proof=world.proof(B))
    assert code_of(world, A, REVEAL, data) == Code.BAD_VRF_PROOF
    assert code_of(world, A, REVEAL, {**data, "proof": world.proof(A)}) == 0


def test_a_block_needs_genesis() -> None:
    with pytest.raises(LookupError):
        transition(EMPTY, Block(1, ()))

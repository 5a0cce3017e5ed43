"""ABCI requests and responses as protobuf values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.application import Application
from abci_app.core.codes import Code
from abci_app.core.state import View
from abci_app.core.upgrades import Scheduled, Upgrade, schedule
from abci_app.core.verifiers import delete_verifier
from abci_app.handlers import Handlers
from abci_app.metrics import LedgerMetrics
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.proto.tendermint.crypto import keys_pb2 as keys
from abci_app.store import Store, open_store
from planetserve.encoding import decode
from planetserve.errors import ConfigurationError
from planetserve.transactions import REGISTER, sign_transaction
from tests.abci_app.world import CHAIN_ID, RELAY, VERIFIERS, app_state, participant, registration

CONSENSUS_KEYS = [participant(200 + index).public_key for index in range(4)]
"""Of the verifiers of the test's genesis."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "ledger", CHAIN_ID)
    yield opened
    opened.close()


@pytest.fixture
def handlers(store: Store) -> Handlers:
    return Handlers(Application(store, CHAIN_ID), LedgerMetrics())


def validators(count: int = 4, power: int = 10) -> list[abci.ValidatorUpdate]:
    return [
        abci.ValidatorUpdate(pub_key=keys.PublicKey(ed25519=CONSENSUS_KEYS[index]), power=power)
        for index in range(count)
    ]


def init_chain(
    handlers: Handlers, updates: list[abci.ValidatorUpdate], state: bytes | None = None
) -> abci.Response:
    return handlers.handle(
        abci.Request(
            init_chain=abci.RequestInitChain(
                chain_id=CHAIN_ID,
                validators=updates,
                app_state_bytes=app_state() if state is None else state,
            )
        )
    )


def finalize(handlers: Handlers, height: int, *raw: bytes) -> abci.ResponseFinalizeBlock:
    request = abci.RequestFinalizeBlock(height=height, txs=raw)
    response = handlers.handle(abci.Request(finalize_block=request))
    return response.finalize_block


def test_every_request_of_this_version_is_answered_in_kind(handlers: Handlers) -> None:
    init_chain(handlers, validators())
    finalize(handlers, 1)
    for descriptor in abci.Request.DESCRIPTOR.fields:
        if descriptor.name in ("init_chain", "finalize_block"):
            continue
        request = abci.Request()
        getattr(request, descriptor.name).SetInParent()
        assert handlers.handle(request).WhichOneof("value") == descriptor.name


def test_a_block_from_genesis_to_query(handlers: Handlers) -> None:
    genesis_hash = init_chain(handlers, validators()).init_chain.app_hash
    raw = sign_transaction(RELAY, CHAIN_ID, 0, REGISTER, registration(RELAY))
    check = handlers.handle(abci.Request(check_tx=abci.RequestCheckTx(tx=raw))).check_tx
    assert check.code == 0
    block = finalize(handlers, 1, raw, b"garbage")
    assert [item.code for item in block.tx_results] == [0, Code.MALFORMED]
    assert [item.codespace for item in block.tx_results] == ["", "planetserve"]
    assert not block.tx_results[1].data
    (event,) = block.tx_results[0].events
    assert {item.key: item.value for item in event.attributes} == {
        "kind": "register",
        "sender": RELAY.id.hex(),
        "name": "node",
    }
    assert block.app_hash != genesis_hash
    handlers.handle(abci.Request(commit=abci.RequestCommit()))
    info = handlers.handle(abci.Request(info=abci.RequestInfo())).info
    assert (info.last_block_height, info.last_block_app_hash) == (1, block.app_hash)
    asked = abci.RequestQuery(path="/store/accounts/key", data=RELAY.id, prove=True)
    query = handlers.handle(abci.Request(query=asked)).query
    assert (query.code, query.height, decode(query.value)) == (0, 1, {"nonce": 1})
    assert query.key == b"accounts/" + RELAY.id
    assert [step.type for step in query.proof_ops.ops] == ["ics23:smt", "ics23:simple"]


@pytest.mark.parametrize("updates", [validators(3), validators(4, power=11)])
def test_validators_that_are_not_the_verifiers_are_refused(
    handlers: Handlers, updates: list[abci.ValidatorUpdate]
) -> None:
    with pytest.raises(ConfigurationError, match="differ"):
        init_chain(handlers, updates)


@pytest.mark.parametrize("state", [b"", b"[]", b"{}", b"\xff"])
def test_a_bad_genesis_state_is_refused(handlers: Handlers, state: bytes) -> None:
    with pytest.raises(ConfigurationError, match="app_state"):
        init_chain(handlers, validators(), state)


def test_our_own_fault_is_a_code_to_a_sender_and_an_end_to_a_block(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_chain(handlers, validators())

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("abci_app.reading.read_transaction", fail)
    check = handlers.handle(abci.Request(check_tx=abci.RequestCheckTx(tx=b"x"))).check_tx
    assert check.code == Code.NOT_CHECKED
    assert "fault" not in check.log
    request = abci.RequestProcessProposal(height=1, txs=[b"x"])
    answer = handlers.handle(abci.Request(process_proposal=request)).process_proposal
    assert answer.status == abci.ResponseProcessProposal.REJECT
    with pytest.raises(RuntimeError):
        finalize(handlers, 1, b"x")


def test_the_rules_version_and_the_power_of_validators_reach_consensus(store: Store) -> None:
    upgrades = {1: Upgrade(1, lambda view: None), 2: Upgrade(2, leave)}
    handlers = Handlers(Application(store, CHAIN_ID, upgrades=upgrades), LedgerMetrics())
    answer = init_chain(handlers, validators()).init_chain
    assert answer.consensus_params.version.app == 1
    view = View(store.latest, handlers._application._genesis)
    schedule(view, Scheduled(2, 1))
    handlers._application._genesis = view.writes
    block = finalize(handlers, 1)
    assert block.consensus_param_updates.version.app == 2
    assert not block.consensus_param_updates.HasField("block")
    (update,) = block.validator_updates
    assert (update.pub_key.ed25519, update.power) == (CONSENSUS_KEYS[3], 0)
    handlers.handle(abci.Request(commit=abci.RequestCommit()))
    assert handlers.handle(abci.Request(info=abci.RequestInfo())).info.app_version == 2


def leave(view: View) -> None:
    delete_verifier(view, VERIFIERS[3].id)


def test_who_signed_two_things_is_out_with_the_block_that_says_so(handlers: Handlers) -> None:
    init_chain(handlers, validators())
    key = CONSENSUS_KEYS[3]
    caught = abci.Misbehavior(
        type=abci.DUPLICATE_VOTE,
        validator=abci.Validator(address=hashlib.sha256(key).digest()[:20], power=10),
    )
    prepared = handlers.handle(
        abci.Request(
            prepare_proposal=abci.RequestPrepareProposal(
                height=1, max_tx_bytes=1_000, misbehavior=[caught]
            )
        )
    )
    assert list(prepared.prepare_proposal.txs) == []
    processed = abci.RequestProcessProposal(height=1, misbehavior=[caught])
    answer = handlers.handle(abci.Request(process_proposal=processed)).process_proposal
    assert answer.status == abci.ResponseProcessProposal.ACCEPT
    without = finalize(handlers, 1)
    assert not without.validator_updates, "what was executed for another block is not used"
    request = abci.RequestFinalizeBlock(height=1, misbehavior=[caught])
    block = handlers.handle(abci.Request(finalize_block=request)).finalize_block
    (update,) = block.validator_updates
    assert (update.pub_key.ed25519, update.power) == (key, 0)
    assert block.app_hash != without.app_hash


def test_a_request_without_content_is_a_fault(handlers: Handlers) -> None:
    with pytest.raises(ValueError, match="without content"):
        handlers.handle(abci.Request())

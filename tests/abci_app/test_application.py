"""Proposals, the mempool and answers, on a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.application import Application
from abci_app.core.codes import Code
from abci_app.core.upgrades import Scheduled, Upgrade, UpgradeNeeded, schedule
from abci_app.proposals import size_in_block
from abci_app.reading import MAX_REMEMBERED, Transactions
from abci_app.store import Store, open_store
from planetserve import transactions
from planetserve.encoding import decode, encode
from planetserve.keys import Identity, identity_from
from planetserve.transactions import COMMIT, ENDORSE, REGISTER, UPDATE, sign_transaction
from tests.abci_app.world import (
    CHAIN_ID,
    MODEL,
    RELAY,
    VERIFIERS,
    app_state,
    participant,
    registration,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "ledger", CHAIN_ID)
    yield opened
    opened.close()


@pytest.fixture
def application(store: Store) -> Application:
    started = Application(store, CHAIN_ID)
    started.init_chain(CHAIN_ID, app_state({"epoch_blocks": 6, "commit_blocks": 3}))
    return started


def register(identity: Identity, name: str = "node") -> bytes:
    return sign_transaction(identity, CHAIN_ID, 0, REGISTER, registration(identity, name))


def update(identity: Identity, nonce: int, name: str = "node") -> bytes:
    return sign_transaction(identity, CHAIN_ID, nonce, UPDATE, registration(identity, name))


def endorsement(nonce: int, node: bytes = RELAY.id, verifier: int = 0) -> bytes:
    data = transactions.endorse(node=node, role="relay", expires=1_000)
    return sign_transaction(VERIFIERS[verifier], CHAIN_ID, nonce, ENDORSE, data)


def commitment(nonce: int, node: bytes, verifier: int = 0) -> bytes:
    data = transactions.commit(epoch=0, node=node, commitment=bytes(32))
    return sign_transaction(VERIFIERS[verifier], CHAIN_ID, nonce, COMMIT, data)


def stranger(number: int) -> Identity:
    return identity_from(number.to_bytes(4, "big") * 24)


def advance(application: Application, *raw: bytes) -> bytes:
    height = application.head.height + 1
    application.finalize(height, raw)
    application.commit()
    return application.head.app_hash


def test_several_transactions_of_one_key_wait_together(application: Application) -> None:
    advance(application, register(RELAY), endorsement(0))
    assert [application.check(update(RELAY, nonce)).code for nonce in (1, 2, 2, 3)] == [
        *[Code.OK, Code.OK],
        *[Code.BAD_NONCE, Code.OK],
    ]
    advance(application, update(RELAY, 1))
    assert application.check(update(RELAY, 2)).code is Code.OK, "a block starts afresh"


def test_what_waits_is_checked_again_after_a_block(application: Application) -> None:
    advance(application, register(RELAY), endorsement(0))
    waiting = [update(RELAY, nonce) for nonce in (1, 2, 3)]
    assert {application.check(raw).code for raw in waiting} == {Code.OK}
    advance(application, waiting[0])
    codes = [application.check(raw, again=True).code for raw in waiting]
    assert codes == [Code.BAD_NONCE, Code.OK, Code.OK]
    assert application.check(update(RELAY, 4)).code is Code.OK


def test_an_epochs_duties_leave_the_mempool_with_their_window(application: Application) -> None:
    raw = sign_transaction(MODEL, CHAIN_ID, 0, REGISTER, registration(MODEL, role="model"))
    advance(application, raw)
    late = commitment(0, MODEL.id)
    assert application.check(late).code is Code.OK
    advance(application)
    assert application.check(late, again=True).code is Code.OK
    advance(application)
    assert application.check(late, again=True).code is Code.WINDOW_CLOSED


def test_what_fails_in_our_proposal_is_checked_whole_again(application: Application) -> None:
    node = participant(90)
    advance(application, register(RELAY))
    good, other = update(RELAY, 1), register(participant(91))
    assert application.check(good).code is Code.OK
    clash = sign_transaction(
        node, CHAIN_ID, 0, REGISTER, {**registration(node), "onion_key": RELAY.onion_public}
    )
    assert application.select(2, [clash, other], 1 << 20) == [good, other]
    advance(application)
    assert application.check(clash, again=True).code is Code.KEY_IN_USE


def test_a_proposal_is_ordered_holds_what_succeeds_and_fits(application: Application) -> None:
    advance(application, register(RELAY), endorsement(0))
    new, known = register(participant(90)), update(RELAY, 1, "a longer name")
    duty = endorsement(1)
    proposal = [duty, known, new]
    late = update(RELAY, 3)
    assert application.select(2, [new, b"garbage", late, duty, known], 1 << 20) == proposal
    assert application.select(2, [new, duty, known], size_in_block(duty)) == [duty]
    assert application.select(2, [duty], size_in_block(duty) - 1) == []
    small = size_in_block(duty) + size_in_block(new)
    assert application.select(2, [new, duty, known], small) == [duty, new], "which is smaller"
    assert application.acceptable(2, proposal)
    other = Application(application._store, CHAIN_ID)
    assert other.acceptable(2, proposal)
    assert not other.acceptable(2, [new, known, duty])
    assert not other.acceptable(2, [*proposal, late])
    assert not other.acceptable(2, [duty, b"garbage"])


def test_what_waits_is_proposed_whether_consensus_names_it_or_not(
    application: Application,
) -> None:
    """CometBFT hands out the oldest megabyte only."""
    waiting = [register(stranger(number)) for number in range(1, 4)]
    assert {application.check(raw).code for raw in waiting} == {Code.OK}
    assert application.check(b"garbage").code is Code.MALFORMED
    assert application.select(1, waiting[:1], 1 << 20) == waiting
    assert application.select(1, [], size_in_block(waiting[0])) == waiting[:1]
    advance(application, *waiting[:2])
    assert application.check(waiting[2], again=True).code is Code.OK
    assert application.select(2, [], 1 << 20) == waiting[2:]


def test_the_place_of_what_fails_goes_to_others(application: Application) -> None:
    """Of a verifier's many duties blocks find out which can be done; one that sends nonsense
    takes nobody's place."""
    raw = sign_transaction(MODEL, CHAIN_ID, 0, REGISTER, registration(MODEL, role="model"))
    advance(application, raw)
    nonsense = [commitment(nonce, RELAY.id) for nonce in range(1, 400)]
    first = commitment(0, MODEL.id)
    others = [register(stranger(number)) for number in range(1, 100)]
    room = sum(map(size_in_block, [first, *others]))
    proposal = application.select(2, [first, *nonsense, *others], room)
    assert proposal == [first, *others]
    assert Application(application._store, CHAIN_ID).acceptable(2, proposal)


def test_a_proposal_stays_in_order_when_what_others_waited_behind_fails(
    application: Application,
) -> None:
    model = participant(91)
    raw = sign_transaction(model, CHAIN_ID, 0, REGISTER, registration(model, role="model"))
    advance(application, raw, register(RELAY), endorsement(0))
    stale, owed = endorsement(0), commitment(1, model.id)
    others = endorsement(0, verifier=1)
    proposal = application.select(2, [others, stale, owed], 1 << 20)
    assert proposal == [owed, others]
    assert Application(application._store, CHAIN_ID).acceptable(2, proposal)


def test_a_block_is_executed_once(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Application(application._store, CHAIN_ID)
    plain.init_chain(CHAIN_ID, app_state({"epoch_blocks": 6, "commit_blocks": 3}))
    raws = [register(participant(number)) for number in (90, 91)]
    expected = plain.finalize(1, raws).head.app_hash
    proposal = application.select(1, [*raws, b"garbage"], 1 << 20)
    assert application.acceptable(1, proposal)

    def fail(*arguments: object) -> None:
        raise AssertionError("executed again")

    with monkeypatch.context() as patched:
        patched.setattr("abci_app.application.transition", fail)
        staged = application.finalize(1, proposal)
    assert staged.head.app_hash == expected
    assert [item.code for item in staged.result.results] == [Code.OK, Code.OK]
    application.commit()
    assert application.head.app_hash == expected


def test_a_chain_that_starts_later_has_its_first_epoch_there(store: Store) -> None:
    application = Application(store, CHAIN_ID)
    application.init_chain(CHAIN_ID, app_state({"epoch_blocks": 6, "commit_blocks": 3}), 100)
    results = {}
    for height in range(100, 107):
        results[height] = application.finalize(height, []).result.settlement is not None
        application.commit()
    assert [height for height, settled in results.items() if settled] == [105]


def test_another_block_than_the_proposed_one_is_executed(application: Application) -> None:
    proposal = application.select(1, [register(RELAY)], 1 << 20)
    assert proposal
    staged = application.finalize(1, [register(participant(90))])
    application.commit()
    assert application.head == staged.head
    assert application._store.latest.get(b"nodes/" + RELAY.id) is None


def state_of(application: Application, *keys: bytes, height: int = 0) -> tuple[int, list[object]]:
    data = encode({"keys": list(keys), "stores": []})
    answer = application.query("/state", data, height)
    assert answer.code is Code.OK, answer.log
    return answer.height, [item["value"] for item in decode(answer.value)["records"]]


def test_answers_are_of_a_height_that_a_header_commits_to(application: Application) -> None:
    key = b"nodes/" + RELAY.id
    assert application.query("/state").code is Code.NOT_STARTED
    advance(application)
    assert state_of(application, key) == (1, [None]), "the only height there is"
    advance(application, register(RELAY))
    assert state_of(application, key) == (1, [None])
    assert state_of(application, key, height=2)[1] != [None]
    application.finalize(3, [])
    assert state_of(application, key)[0] == 1
    application.commit()
    assert state_of(application, key)[0] == 2
    refused = application.query("/state", encode({"keys": [], "stores": []}), height=1)
    assert refused.code is Code.BAD_ARGUMENT
    assert "heights 2 to 3" in refused.log


def test_queries_do_not_wait_for_a_block(application: Application) -> None:
    advance(application)
    with application.lock:
        assert state_of(application, b"chain/main")[0] == 1


def test_an_upgrade_that_is_known_takes_place(store: Store) -> None:
    upgrades = {1: Upgrade(1, lambda view: None), 2: Upgrade(2, lambda view: None)}
    application = Application(store, CHAIN_ID, upgrades=upgrades)
    application.init_chain(CHAIN_ID, app_state())
    schedule_upgrade(application, 2)
    assert application.finalize(1, []).new_version is None
    application.commit()
    assert application.version == 1
    assert application.finalize(2, []).new_version == 2
    application.commit()
    assert application.version == 2
    with pytest.raises(UpgradeNeeded, match="version 2 of the ledger's rules"):
        Application(store, CHAIN_ID)


def test_a_node_halts_before_rules_that_it_lacks(store: Store) -> None:
    application = Application(store, CHAIN_ID)
    application.init_chain(CHAIN_ID, app_state())
    schedule_upgrade(application, 2)
    advance(application)
    before = application.head
    assert isinstance(application.halted, UpgradeNeeded)
    assert application.select(2, [], 1 << 20) == []
    assert not application.acceptable(2, [])
    with pytest.raises(UpgradeNeeded, match="install a PlanetServe release"):
        application.finalize(2, [])
    assert application.head == before
    with pytest.raises(UpgradeNeeded, match="install a PlanetServe release"):
        Application(store, CHAIN_ID)
    upgrades = {1: Upgrade(1, lambda view: None), 2: Upgrade(2, lambda view: None)}
    installed = Application(store, CHAIN_ID, upgrades=upgrades)
    assert installed.halted is None
    advance(installed)
    assert (installed.head.height, installed.version) == (2, 2)


def schedule_upgrade(application: Application, height: int) -> None:
    """As a vote would, in the genesis state."""
    from abci_app.core.state import View

    view = View(application._store.latest, application._genesis)
    schedule(view, Scheduled(2, height))
    application._genesis = view.writes


def test_memory_of_transactions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_REMEMBERED > 1_000
    monkeypatch.setattr("abci_app.reading.MAX_REMEMBERED", 3)
    known = Transactions(CHAIN_ID)
    raws = [register(stranger(number)) for number in range(5)]
    for raw in raws:
        known.remember(raw, known.read(raw))
    assert list(known._known) == raws[2:]
    monkeypatch.setattr("abci_app.reading.MAX_REMEMBERED_BYTES", len(raws[0]))
    known.remember(raws[0], known.read(raws[0]))
    assert list(known._known) == raws[:1]
    assert known._bytes == len(raws[0])


def test_what_is_refused_is_not_remembered(application: Application) -> None:
    advance(application)
    refused = [update(stranger(number), 5) for number in range(10)]
    assert {application.check(raw).code for raw in refused} == {Code.BAD_NONCE}
    assert not application.acceptable(2, refused)
    assert application._transactions._known == {}
    good = register(RELAY)
    assert application.check(good).code is Code.OK
    proposed = register(participant(90))
    assert application.acceptable(2, [proposed])
    assert list(application._transactions._known) == [good, proposed]

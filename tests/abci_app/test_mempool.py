"""What may wait: each class of senders has room of its own, and nobody fills another's."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from abci_app import mempool
from abci_app.core.codes import Code, Rejected
from abci_app.core.transactions import next_nonce, read_transaction
from abci_app.mempool import FULLY_CHECKED_DUTIES, MAX_WAITING, MAX_WAITING_BYTES, ROOMS, Class
from planetserve import transactions
from planetserve.keys import Identity, identity_from
from planetserve.transactions import COMMIT, ENDORSE, REGISTER, REVEAL, UPDATE, sign_transaction
from tests.abci_app.test_home import write
from tests.abci_app.world import CHAIN_ID, FAR, MODEL, RELAY, VERIFIERS, World, registration


def stranger(number: int) -> Identity:
    return identity_from(number.to_bytes(4, "big") * 24)


class Waiting:
    """A mempool, and what each key has sent to it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pool = mempool.Mempool(world.state, world.chain, world.height + 1)
        self._sent: Counter[bytes] = Counter()

    def send(self, sender: Identity, kind: str, data: Mapping[str, Any]) -> Code:
        nonce = next_nonce(self.world.state, sender.id) + self._sent[sender.id]
        raw = sign_transaction(sender, CHAIN_ID, nonce, kind, data)
        try:
            self.pool.check(raw, read_transaction(raw, CHAIN_ID))
        except Rejected as rejection:
            return rejection.code
        self._sent[sender.id] += 1
        return Code.OK

    def endorse(self, number: int, verifier: int = 0) -> Code:
        data = transactions.endorse(node=stranger(number).id, role="relay", expires=FAR)
        return self.send(VERIFIERS[verifier], ENDORSE, data)

    def update(self, sender: Identity, name: str = "node") -> Code:
        return self.send(sender, UPDATE, registration(sender, name))

    def commit(self, node: bytes, verifier: int = 0, epoch: int = 0) -> Code:
        data = transactions.commit(epoch=epoch, node=node, commitment=bytes(32))
        return self.send(VERIFIERS[verifier], COMMIT, data)


@pytest.fixture
def world() -> World:
    made = World({"epoch_blocks": 100, "commit_blocks": 80})
    made.admit(MODEL, role="model")
    return made


def test_all_others_of_a_verifier_are_few(world: World) -> None:
    waiting = Waiting(world)
    most = ROOMS[Class.VERIFIER].each
    assert {waiting.endorse(number) for number in range(most)} == {Code.OK}
    assert waiting.endorse(most) is Code.SENDER_LIMIT
    assert waiting.endorse(0, verifier=1) is Code.OK
    assert waiting.commit(MODEL.id) is Code.OK, "what it owes has room of its own"


def test_a_key_that_somebody_endorses_has_some(world: World) -> None:
    world.admit(RELAY)
    waiting = Waiting(world)
    most = ROOMS[Class.KNOWN].each
    assert {waiting.update(RELAY, f"n{n}") for n in range(most)} == {Code.OK}
    assert waiting.update(RELAY) is Code.SENDER_LIMIT
    assert waiting.update(MODEL) is not Code.SENDER_LIMIT


def test_a_key_that_nobody_endorses_has_one_and_all_have_few(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ROOMS, Class.UNKNOWN, mempool.Room(1, 1 << 14, 10, 1 << 20))
    candidates = [stranger(number) for number in range(5)]
    for one in candidates:
        world.send(one, REGISTER, registration(one))
    assert {result.code for result in world.block().results} == {Code.OK}
    waiting = Waiting(world)
    assert {waiting.update(one, "again") for one in candidates} == {Code.OK}
    assert {waiting.update(one, "more") for one in candidates} == {Code.SENDER_LIMIT}
    codes = [waiting.send(one, REGISTER, registration(one)) for one in map(stranger, range(5, 11))]
    assert codes == [Code.OK] * 5 + [Code.SENDER_LIMIT]
    assert waiting.update(MODEL, "m") is not Code.SENDER_LIMIT
    assert waiting.endorse(50) is Code.OK
    assert waiting.commit(MODEL.id) is Code.OK


def test_verifiers_share_what_may_wait_of_their_duties(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        ROOMS, Class.DUE, mempool.Room(1_000, 1 << 20, 4 * FULLY_CHECKED_DUTIES + 8, 1 << 20)
    )
    monkeypatch.setattr(mempool, "FULLY_CHECKED_DUTIES", 0)
    waiting = Waiting(world)
    for verifier in range(4):
        codes = [waiting.commit(MODEL.id, verifier) for _ in range(FULLY_CHECKED_DUTIES + 3)]
        assert codes == [Code.OK] * (FULLY_CHECKED_DUTIES + 2) + [Code.SENDER_LIMIT]


def test_bytes_are_bounded_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registration has about 300 bytes, an endorsement and a commitment about 200."""
    world.admit(RELAY)
    monkeypatch.setattr(mempool, "FULLY_CHECKED_DUTIES", 0)
    much, little = 1 << 20, 800
    for kind, each, together, most in (
        (Class.KNOWN, little, much, 2),
        (Class.KNOWN, much, little, 2),
        (Class.UNKNOWN, little, much, 9),
        (Class.UNKNOWN, much, little, 2),
        (Class.VERIFIER, little, much, 3),
        (Class.VERIFIER, much, 4 * little, 3),
        (Class.DUE, little, much, 3),
        (Class.DUE, much, 4 * little, 3),
    ):
        monkeypatch.setitem(ROOMS, kind, mempool.Room(9, each, 99, together))
        waiting = Waiting(world)
        codes = []
        for number in range(9):
            if kind is Class.KNOWN:
                codes.append(waiting.update(RELAY, f"n{number}"))
            elif kind is Class.UNKNOWN:
                one = stranger(number)
                codes.append(waiting.send(one, REGISTER, registration(one)))
            else:
                due = kind is Class.DUE
                codes.append(waiting.commit(MODEL.id) if due else waiting.endorse(number))
        assert codes == [Code.OK] * most + [Code.SENDER_LIMIT] * (9 - most), (kind, each)


def test_of_many_duties_some_may_come_before_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do when peers pass them on side by side: none is lost that another overtook."""
    monkeypatch.setattr(mempool, "FULLY_CHECKED_DUTIES", 1)
    pool = Waiting(world).pool
    data = transactions.commit(epoch=0, node=MODEL.id, commitment=bytes(32))
    first = next_nonce(world.state, VERIFIERS[0].id)

    def send(offset: int, kind: str = COMMIT, again: bool = False) -> Code:
        content = data if kind == COMMIT else endorsement_of(RELAY.id)
        raw = sign_transaction(VERIFIERS[0], CHAIN_ID, first + offset, kind, content)
        check = pool.check_again if again else pool.check
        try:
            check(raw, read_transaction(raw, CHAIN_ID))
        except Rejected as rejected:
            return rejected.code
        return Code.OK

    assert send(1) is Code.BAD_NONCE, "of the first few none may"
    assert send(0) is Code.OK
    assert [send(offset) for offset in (3, 2, 2, 5, 0)] == [
        *[Code.OK, Code.OK, Code.BAD_NONCE, Code.OK, Code.BAD_NONCE]
    ]
    assert send(3 + mempool.MAX_EARLY) is Code.BAD_NONCE
    assert send(4, ENDORSE) is Code.BAD_NONCE, "of other kinds none may"
    assert send(1) is Code.OK
    assert send(4, ENDORSE) is Code.OK
    assert [send(offset) for offset in (5, 6)] == [Code.BAD_NONCE, Code.OK]

    pool = Waiting(world).pool
    codes = [send(offset, again=True) for offset in (2, 1, 0, 3)]
    assert codes == [Code.OK] * 4, "so it is when they are checked again"


def endorsement_of(node: bytes) -> dict[str, Any]:
    return transactions.endorse(node=node, role="relay", expires=FAR)


def test_of_many_duties_what_needs_no_state_is_always_checked(world: World) -> None:
    waiting = Waiting(world)
    assert waiting.commit(RELAY.id) is Code.UNKNOWN_NODE
    for number in range(FULLY_CHECKED_DUTIES):
        world.admit(stranger(number), role="model")
    waiting = Waiting(world)
    for number in range(FULLY_CHECKED_DUTIES):
        assert waiting.commit(stranger(number).id) is Code.OK
    assert waiting.send(VERIFIERS[0], COMMIT, {"junk": bytes(9_000)}) is Code.INVALID_FIELD
    assert waiting.commit(RELAY.id, epoch=1) is Code.WRONG_EPOCH
    assert waiting.commit(RELAY.id) is Code.OK, "blocks find out"
    reveal = transactions.reveal(
        epoch=0,
        node=MODEL.id,
        score_ppm=0,
        samples=1,
        digest=bytes(32),
        salt=bytes(32),
        proof=bytes(80),
    )
    assert waiting.send(VERIFIERS[0], REVEAL, reveal) is Code.WINDOW_CLOSED


def test_consensus_has_room_for_all_that_may_wait(tmp_path: Path) -> None:
    write(tmp_path)
    settings = tomllib.loads((tmp_path / "config/config.toml").read_text())["mempool"]
    assert settings["size"] > MAX_WAITING
    assert settings["max_txs_bytes"] > MAX_WAITING_BYTES
    assert settings["cache_size"] > settings["size"]

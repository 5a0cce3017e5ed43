"""Transactions sent through servers that drop, refuse, hang or withhold, beside honest ones."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from planetserve import ledger as ledger_module
from planetserve import sending
from planetserve.encoding import encode
from planetserve.errors import (
    NetworkNotFound,
    OutcomeUnknown,
    RemoteProtocolError,
    TransactionRejected,
)
from planetserve.keys import identity_from
from planetserve.ledger import LedgerClient
from planetserve.light import detector
from planetserve.merkle import sha256
from planetserve.rpc import NoAnswer, RpcError
from planetserve.statekeys import account_key
from planetserve.transactions import decode_transaction
from tests.planetserve.ledger_servers import Chain, Server, Servers, chain_of, clock, network_of

ALICE = identity_from(b"\1" * 96)
Broadcast = Callable[[bytes], int]


@pytest.fixture
def chain() -> Chain:
    return chain_of(10, {account_key(ALICE.id): encode({"nonce": 5})})


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "INCLUSION_TIMEOUT_S", 3.0)
    monkeypatch.setattr(ledger_module, "INCLUSION_PATIENCE_S", 0.5)
    monkeypatch.setattr(ledger_module, "SUCCESSOR_S", 0.2)
    monkeypatch.setattr(ledger_module, "POLL_S", 0.01)
    monkeypatch.setattr(ledger_module, "OFFER_AGAIN_S", 0.2)
    monkeypatch.setattr(sending, "GRACE_S", 0.05)
    monkeypatch.setattr(detector, "WITNESS_TIMEOUT_S", 0.1)


def reader(servers: Servers, chain: Chain) -> LedgerClient:
    return LedgerClient(network_of(servers), now_ns=clock(chain), rpc=servers)


def taking(chain: Chain, after: int = 0) -> Broadcast:
    """Puts a transaction into the next block, when it is offered for the time after `after`."""
    offered: list[bytes] = []

    def take(raw: bytes) -> int:
        offered.append(raw)
        if len(offered) > after and all(raw not in raws for raws in chain.transactions):
            chain.extend(chain.states[-1].records, [raw])
            chain.extend(chain.states[-1].records)
        return 0

    return take


def dropping(raw: bytes) -> int:
    return 0


async def test_a_server_that_drops_a_transaction_is_not_the_only_one_to_have_it(
    chain: Chain,
) -> None:
    servers = Servers(
        one=Server(chain, broadcast=dropping), two=Server(chain, broadcast=taking(chain))
    )
    async with reader(servers, chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11


@pytest.mark.parametrize("code", [4, 7])
async def test_one_server_alone_cannot_refuse(chain: Chain, code: int) -> None:
    liar = Server(chain, broadcast=lambda raw: code)
    servers = Servers(one=liar, two=Server(chain, broadcast=taking(chain)))
    async with reader(servers, chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11


async def test_what_all_servers_refuse_is_refused_and_not_proven(chain: Chain) -> None:
    one, two = (Server(chain, broadcast=lambda raw: 7) for _ in range(2))
    dead = Server(chain, dead=True)
    async with reader(Servers(one=one, dead=dead, two=two), chain) as ledger:
        with pytest.raises(TransactionRejected, match="proves nothing") as caught:
            await ledger.send(ALICE, "register", {})
    assert (caught.value.code, caught.value.proven) == (7, False)
    assert not caught.value.safe_to_retry


async def test_the_refusal_of_most_is_told(chain: Chain) -> None:
    most = {name: Server(chain, broadcast=lambda raw: 7) for name in ("two", "three")}
    servers = Servers(one=Server(chain, broadcast=lambda raw: 9), **most)
    async with reader(servers, chain) as ledger:
        with pytest.raises(TransactionRejected) as caught:
            await ledger.send(ALICE, "register", {})
    assert caught.value.code == 7


class Cached(Server):
    def _broadcast_tx_sync(self, params: dict[str, Any]) -> Any:
        raise RpcError("Internal error", "tx already exists in cache")


class TakesAndHangs(Server):
    def _broadcast_tx_sync(self, params: dict[str, Any]) -> Any:
        taking(self.chain)(base64.b64decode(params["tx"]))
        raise NoAnswer("http://one", "too slow")


async def test_what_a_server_has_already_is_taken(chain: Chain) -> None:
    async with reader(Servers(one=TakesAndHangs(chain), two=Cached(chain)), chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11


async def test_what_a_server_knows_while_it_checks_it_is_not_taken(chain: Chain) -> None:
    """Two addresses of one node: the second connection hears of the first one's transaction."""

    class Checking(Server):
        known = False

        def _broadcast_tx_sync(self, params: dict[str, Any]) -> Any:
            self.known = not self.known
            if self.known:
                raise RpcError("Internal error", "tx already exists in cache")
            return {"code": 7, "log": "why"}

    refusing = Server(chain, broadcast=lambda raw: 7)
    async with reader(Servers(one=Checking(chain), two=refusing), chain) as ledger:
        with pytest.raises(TransactionRejected) as caught:
            await ledger.send(ALICE, "register", {})
    assert caught.value.code == 7


async def test_what_may_have_arrived_is_waited_for(chain: Chain) -> None:
    async with reader(Servers(one=TakesAndHangs(chain)), chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11


class Unreachable(Server):
    def _broadcast_tx_sync(self, params: dict[str, Any]) -> Any:
        raise NoAnswer("http://one", "ConnectionRefusedError", reached=False)


async def test_when_no_server_was_reached_nothing_was_sent(chain: Chain) -> None:
    async with reader(Servers(one=Unreachable(chain)), chain) as ledger:
        with pytest.raises(NetworkNotFound, match="ConnectionRefused") as caught:
            await ledger.send(ALICE, "register", {})
    assert caught.value.safe_to_retry


async def test_it_is_offered_again_while_it_waits(chain: Chain) -> None:
    async with reader(Servers(one=Server(chain, broadcast=taking(chain, after=3))), chain) as found:
        assert await found.send(ALICE, "register", {}) == 11


async def test_nobody_knows_what_became_of_it(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "INCLUSION_TIMEOUT_S", 1.0)
    sent: list[bytes] = []

    def drop(raw: bytes) -> int:
        sent.append(raw)
        return 0

    async with reader(Servers(one=Server(chain, broadcast=drop)), chain) as ledger:
        with pytest.raises(OutcomeUnknown, match="before you send it again") as caught:
            await ledger.send(ALICE, "register", {})
        assert len(set(sent)) == 1
        assert len(sent) > 3
        assert caught.value.hash == sha256(sent[0])
        assert caught.value.hash.hex() in str(caught.value)
        assert (caught.value.exit_code, caught.value.safe_to_retry) == (1, False)
        # The next one asks the ledger for its nonce again.
        with pytest.raises(OutcomeUnknown):
            await ledger.send(ALICE, "update", {})
        assert decode_transaction(sent[-1]).nonce == 5


class Withholding(Server):
    """Shows the transaction, and never the header that commits to its result."""

    def _commit(self, params: dict[str, Any]) -> Any:
        height = params.get("height")
        if height is None:
            return Server._commit(self, {"height": str(min(self.chain.height, 11))})
        if int(height) > 11:
            raise RpcError("Internal error", "height must be less")
        return Server._commit(self, params)


async def test_a_server_that_withholds_the_proof_is_left_for_another(chain: Chain) -> None:
    take = taking(chain)
    servers = Servers(
        one=Withholding(chain, broadcast=take), two=Server(chain), three=Server(chain)
    )
    async with reader(servers, chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11


async def test_a_server_that_hangs_holds_nobody_up(chain: Chain) -> None:
    servers = Servers(
        one=Server(chain, stalls=True),
        two=Server(chain, broadcast=taking(chain)),
        three=Server(chain),
    )
    servers.prefer("http://two")
    async with reader(servers, chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11


@pytest.mark.parametrize("answer", [None, [], {"code": "x"}, {"code": float("inf")}])
async def test_a_malformed_answer_to_a_transaction(chain: Chain, answer: Any) -> None:
    server = Server(chain, lies={"broadcast_tx_sync": lambda result: answer})
    async with reader(Servers(one=server), chain) as ledger:
        with pytest.raises(RemoteProtocolError, match="malformed"):
            await ledger.send(ALICE, "register", {})

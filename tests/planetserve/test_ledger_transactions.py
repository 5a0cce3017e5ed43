"""Transactions proven by what a chain's headers say, and sent to it, among servers that lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from planetserve import ledger as ledger_module
from planetserve.encoding import encode
from planetserve.errors import (
    ForgedHeader,
    PlanetServeError,
    RemoteProtocolError,
    TransactionRejected,
    UsageError,
    WrongProof,
)
from planetserve.light import detector
from planetserve.merkle import sha256
from planetserve.statekeys import account_key
from planetserve.transactions import decode_transaction
from tests.planetserve.ledger_servers import Chain, Lie, Server, Servers, chain_of
from tests.planetserve.test_ledger_client import ALICE, RECORDS, change, reader


@pytest.fixture
def chain() -> Chain:
    return chain_of(10, RECORDS)


@pytest.fixture
def with_transactions(chain: Chain) -> Chain:
    chain.extend(dict(RECORDS), [b"a", b"b", b"c"], [0, 4, 0])
    chain.extend(dict(RECORDS))
    return chain


async def test_a_transaction_is_proven_with_its_code(with_transactions: Chain) -> None:
    async with reader(Servers(one=Server(with_transactions)), with_transactions) as ledger:
        found = await ledger.transaction(sha256(b"b"))
        assert (found.raw, found.height, found.index, found.code) == (b"b", 11, 1, 4)
        with pytest.raises(UsageError, match="no server knows"):
            await ledger.transaction(sha256(b"elsewhere"))


TRANSACTION_LIES: dict[str, tuple[str, Lie, type[PlanetServeError]]] = {
    "another transaction": ("tx", change("tx", to="YQ=="), WrongProof),
    "another place": ("tx", change("proof", "proof", "index", to="0"), WrongProof),
    "no proof": ("tx", change("proof", "proof", "aunts", to=[]), WrongProof),
    "another height": ("tx", change("height", to="3"), WrongProof),
    "no height": ("tx", change("height", to=None), RemoteProtocolError),
    "a huge total": ("tx", change("proof", "proof", "total", to="9" * 5_000), RemoteProtocolError),
    "success": ("block_results", change("txs_results", 1, "code", to=0), WrongProof),
    "results left out": ("block_results", change("txs_results", to=None), WrongProof),
    "results of text": ("block_results", change("txs_results", 1, to="x"), RemoteProtocolError),
}


@pytest.mark.parametrize("name", TRANSACTION_LIES)
async def test_a_lie_about_a_transaction_is_found(name: str, with_transactions: Chain) -> None:
    method, lie, expected = TRANSACTION_LIES[name]
    liar, honest = Server(with_transactions, lies={method: lie}), Server(with_transactions)
    async with reader(Servers(liar=liar), with_transactions) as ledger:
        with pytest.raises(expected, match="no server proves"):
            await ledger.transaction(sha256(b"b"))
    async with reader(Servers(liar=liar, honest=honest), with_transactions) as ledger:
        assert (await ledger.transaction(sha256(b"b"))).code == 4


def ledger_that_takes(chain: Chain, code: int = 0) -> Callable[[bytes], int]:
    """A mempool from which each transaction goes into a block of its own."""

    def broadcast(raw: bytes) -> int:
        nonce = decode_transaction(raw).nonce
        records = chain.states[-1].records
        expected = 5 + sum(len(raws) for raws in chain.transactions)
        if nonce != expected:
            return 4
        chain.extend(
            {**records, account_key(ALICE.id): encode({"nonce": nonce + 1})}, [raw], [code]
        )
        chain.extend(chain.states[-1].records)
        return 0

    return broadcast


async def test_sending_ends_when_inclusion_is_proven(chain: Chain) -> None:
    server = Server(chain, broadcast=ledger_that_takes(chain))
    async with reader(Servers(one=server), chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11
        assert await ledger.send(ALICE, "register", {}) == 13
    assert [decode_transaction(raws[0]).nonce for raws in chain.transactions if raws] == [5, 6]


async def test_reads_show_what_was_sent_before(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "WITNESS_TIMEOUT_S", 0.1)
    monkeypatch.setattr(ledger_module, "HEADER_TIMEOUT_S", 0.1)
    behind = Server(chain.fork(chain.height))
    taking = Server(chain, broadcast=ledger_that_takes(chain))
    servers = Servers(taking=taking, behind=behind, other=Server(chain))
    async with reader(servers, chain) as ledger:
        height = await ledger.send(ALICE, "register", {})
        servers.prefer("http://behind")
        proven = await ledger.read((account_key(ALICE.id),))
        assert proven.height >= height
        assert proven.records[account_key(ALICE.id)] == {"nonce": 6}


async def test_a_failed_transaction_is_proven_too(chain: Chain) -> None:
    server = Server(chain, broadcast=ledger_that_takes(chain, code=21))
    async with reader(Servers(one=server), chain) as ledger:
        with pytest.raises(TransactionRejected) as caught:
            await ledger.send(ALICE, "register", {})
    assert caught.value.code == 21


async def test_a_server_that_lies_about_inclusion_is_left(chain: Chain) -> None:
    take = ledger_that_takes(chain)
    liar = Server(chain, broadcast=take, lies={"tx": change("tx", to="YQ==")})
    async with reader(Servers(liar=liar, honest=Server(chain)), chain) as ledger:
        assert await ledger.send(ALICE, "register", {}) == 11


async def test_a_transaction_below_what_is_trusted_is_followed_back(
    with_transactions: Chain,
) -> None:
    """From a later header, by the hashes that lead to it: sixty blocks are four pages."""
    chain = with_transactions
    for _ in range(60):
        chain.extend(dict(RECORDS))
    server = Server(chain)
    named = {"trusted_height": 71, "trusted_hash": chain.blocks[70].hash.hex()}
    async with reader(Servers(one=server), chain, **named) as ledger:
        assert (await ledger.transaction(sha256(b"b"))).height == 11
        assert server.calls.count("blockchain") == 3
        assert (await ledger.transaction(sha256(b"b"))).height == 11
    # What was walked over is not walked over again.
    assert server.calls.count("blockchain") == 3
    forged = chain.fork(10)
    forged.extend(dict(RECORDS), [b"x", b"b", b"c"])
    for _ in range(61):
        forged.extend(dict(RECORDS))
    liar = Server(forged)
    liar.chain.blocks[70] = chain.blocks[70]
    async with reader(Servers(one=liar), chain, **named) as ledger:
        with pytest.raises(ForgedHeader):
            await ledger.transaction(sha256(b"x"))

"""What other servers say to a header: forks, chains that run ahead, and servers that are silent."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planetserve.errors import ForkDetected, UnconfirmedHeader
from planetserve.ledger import LedgerClient
from planetserve.light import detector
from planetserve.light.blocks import LightBlock
from planetserve.light.client import LightClient
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.store import MAX_WAITING, TrustStore
from planetserve.light.trust import load_trusted
from planetserve.light.verifier import Rules
from planetserve.rpc import NoAnswer
from tests.planetserve.ledger_servers import (
    FOUR,
    Chain,
    Server,
    Servers,
    chain_of,
    clock,
    network_of,
)
from tests.planetserve.light_chain import CHAIN_ID, header_at, now_ns, sign

ONE, TWO, THREE = "http://one", "http://two", "http://three"
RECORDS = {b"accounts/a": b"\x01"}
LIARS = dict(list(FOUR.items())[:2])
"""Half of the power: enough to be trusted over a skip."""
NO_PATIENCE_S = -20
"""More than takes away what clocks may differ by."""


@pytest.fixture
def chain() -> Chain:
    return chain_of(12, RECORDS)


def client_of(servers: Servers, chain: Chain, path: Path | None = None) -> LightClient:
    return LightClient(network_of(servers), servers, path, lambda: now_ns(chain.blocks[-1]))


class Forward(Server):
    """Shows as its newest a block far above the chain, which no honest validator signed."""

    def __init__(self, chain: Chain, later_s: int = 5) -> None:
        super().__init__(chain)
        last = chain.blocks[-1]
        header = header_at(1_000, LIARS, LIARS, last.commit.block_id)
        self.forged = sign(
            replace(header, time_ns=last.header.time_ns + later_s * NANOSECONDS), LIARS
        )

    def _block(self, params: dict[str, Any]) -> LightBlock:
        if params.get("height") in (None, "1000"):
            return self.forged
        return Server._block(self, params)


async def test_a_header_that_no_other_server_has_is_not_believed(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "LAG_S", NO_PATIENCE_S)
    path = tmp_path / "trusted.json"
    witnesses = {name: Server(chain) for name in ("two", "three", "four")}
    servers = Servers(one=Forward(chain), **witnesses)
    light = client_of(servers, chain, path)
    with pytest.raises(UnconfirmedHeader, match="shown by http://one and by nobody else"):
        await light.header(ONE)
    assert all("commit" in witness.calls for witness in witnesses.values())
    # Nothing of it stays: the others are believed, and what is kept is theirs.
    assert (await light.header(TWO)).height == 12
    light.store.save()
    kept = load_trusted(
        path, network_of(servers), Rules(CHAIN_ID, 1 << 40), now_ns(chain.blocks[-1])
    )
    assert kept is not None
    assert kept.block.hash == chain.blocks[-1].hash


async def test_a_chain_that_is_as_late_and_not_as_high_is_a_fork(chain: Chain) -> None:
    forged = Forward(chain, later_s=0)
    light = client_of(Servers(one=forged, two=Server(chain)), chain)
    with pytest.raises(ForkDetected, match=r"header 1000.*header 12.*no earlier"):
        await light.header(ONE)


async def test_a_witness_is_waited_for_until_it_is_as_late(chain: Chain) -> None:
    forged = Forward(chain, later_s=3)
    honest = Server(chain)
    light = client_of(Servers(one=forged, two=honest), chain)

    async def grow() -> None:
        for _ in range(4):
            await asyncio.sleep(0.05)
            chain.extend(RECORDS)

    growing = asyncio.create_task(grow())
    with pytest.raises(ForkDetected, match="no earlier"):
        await light.header(ONE)
    await growing


async def test_one_server_that_agrees_is_enough_beside_one_that_lags(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "LAG_S", 2)
    lagging = Server(chain.fork(5))
    servers = Servers(one=Server(chain), two=lagging, three=Server(chain))
    light = client_of(servers, chain)
    assert (await light.header(ONE)).height == 12
    assert light.store.confirms(chain.blocks[-1].header)
    monkeypatch.setattr(detector, "LAG_S", NO_PATIENCE_S)
    light = client_of(Servers(one=Server(chain), two=lagging), chain)
    with pytest.raises(UnconfirmedHeader):
        await light.header(ONE)


async def test_every_witness_is_asked(chain: Chain) -> None:
    """One that agrees does not hide another that has seen a fork."""
    other = chain.fork(11)
    other.extend({b"accounts/a": b"\x02"}, [b"x"])
    servers = Servers(one=Server(chain), two=Server(chain), three=Server(other))
    with pytest.raises(ForkDetected, match="http://one and http://three"):
        await client_of(servers, chain).header(ONE)


async def test_a_fork_that_nobody_contradicted_in_time_is_found_with_the_next_read(
    chain: Chain, tmp_path: Path
) -> None:
    """The honest server is not there for a moment; that must not make a forger of it."""
    path = tmp_path / "trusted.json"
    forged = chain.fork(11)
    forged.extend({b"accounts/a": b"\x02"}, [b"x"])
    honest = Server(chain, dead=True)
    servers = Servers(one=Server(forged), two=honest)
    light = client_of(servers, chain, path)
    assert (await light.header(ONE)).hash() == forged.blocks[-1].hash
    assert not light.store.confirms(forged.blocks[-1].header)
    light.store.save()
    assert not path.exists()
    honest.dead = False
    with pytest.raises(ForkDetected, match="http://one and http://two"):
        await light.header(ONE)
    with pytest.raises(ForkDetected, match="http://two and http://one"):
        await light.header(TWO)
    # Also when the forger goes back to the chain before anybody looks.
    honest.dead = True
    light = client_of(servers, chain)
    await light.header(ONE)
    servers.by_address[ONE].chain = chain
    honest.dead = False
    with pytest.raises(ForkDetected):
        await light.header(ONE)


async def test_a_block_is_confirmed_once_a_server_answers(chain: Chain) -> None:
    silent = Server(chain, dead=True)
    light = client_of(Servers(one=Server(chain), two=silent), chain)
    await light.header(ONE)
    assert [item.block.height for item in light.store.waiting] == [12]
    assert light.store.newest is not None
    assert light.store.newest.height == 1
    silent.dead = False
    chain.extend(RECORDS)
    await light.header(ONE)
    assert light.store.waiting == ()
    assert light.store.confirms(chain.blocks[11].header)
    assert light.store.confirms(chain.blocks[12].header)


async def test_the_server_that_answers_next_confirms_too(chain: Chain) -> None:
    servers = Servers(one=Server(chain), two=Server(chain, dead=True))
    light = client_of(servers, chain)
    await light.header(ONE)
    one, two = (servers.by_address[address] for address in (ONE, TWO))
    one.dead, two.dead = True, False
    await light.header(TWO)
    assert light.store.confirms(chain.blocks[-1].header)


async def test_two_servers_side_by_side_cannot_both_be_believed(chain: Chain) -> None:
    other = chain.fork(11)
    other.extend({b"accounts/a": b"\x02"}, [b"x"])

    class Primary(Server):
        """Says nothing about the block that the other one showed."""

        asked = 0

        async def call(self, address: str, method: str, params: dict[str, Any]) -> Any:
            if method == "commit" and params.get("height") == "12":
                self.asked += 1
                if self.asked > 1:
                    raise NoAnswer(address, "ReadError")
            return await Server.call(self, address, method, params)

    servers = Servers(one=Primary(chain), two=Primary(other))
    light = client_of(servers, chain)
    await light.header(ONE, 11)
    found = await asyncio.gather(
        light.header(ONE, 12), light.header(TWO, 12), return_exceptions=True
    )
    assert sum(isinstance(item, ForkDetected) for item in found) >= 1


def test_blocks_that_wait_are_bounded(chain: Chain) -> None:
    network = network_of(Servers(one=Server(chain)))
    store = TrustStore(network, None, Rules(CHAIN_ID, 1 << 40), clock(chain))
    for height in range(1, MAX_WAITING + 10):
        store.wait(sign(header_at(height, FOUR, FOUR), FOUR), ONE)
    assert len(store.waiting) == MAX_WAITING
    other = replace(header_at(30, FOUR, FOUR), app_hash=b"\x01" * 32)
    with pytest.raises(ForkDetected, match="http://one and http://two"):
        store.wait(sign(other, FOUR), TWO)
    with pytest.raises(ForkDetected, match="http://one and http://two"):
        store.keep([sign(other, FOUR)], TWO)


async def test_what_nobody_confirmed_is_no_floor_for_later_reads(chain: Chain) -> None:
    """A server alone may show any height that validators sign; another one is not refused for
    showing less."""
    servers = Servers(one=Server(chain, dead=True), two=Server(chain))
    async with LedgerClient(network_of(servers), now_ns=clock(chain), rpc=servers) as ledger:
        assert (await ledger.read()).height == 11
        assert ledger._light.store.read_height == 0
        servers.by_address[ONE].dead = False
        await ledger.read()
        assert ledger._light.store.read_height == 11

"""The light client's dealings with servers: where it begins, whom it asks beside, what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planetserve.errors import ForgedHeader, ForkDetected, OldHeader
from planetserve.light import client as client_module
from planetserve.light import detector
from planetserve.light.client import LightClient
from planetserve.light.source import signed_header
from planetserve.light.store import MAX_KEPT
from planetserve.light.trust import fingerprint, save_trusted
from planetserve.rpc import RpcError
from tests.planetserve.ledger_servers import Chain, Server, Servers, chain_of, clock, network_of
from tests.planetserve.light_chain import set_of, signers

ONE, TWO = "http://one", "http://two"


@pytest.fixture
def chain() -> Chain:
    return chain_of(12, {b"accounts/a": b"\x01"})


def client_of(
    servers: Servers, chain: Chain, path: Path | None = None, **fields: Any
) -> LightClient:
    return LightClient(network_of(servers, **fields), servers, path, clock(chain))


class Lagging(Server):
    """Reaches its chain's newest block at the second time of asking."""

    async def call(self, address: str, method: str, params: dict[str, Any]) -> Any:
        if method == "commit" and self.calls.count("commit") < 1:
            self.calls.append(method)
            raise RpcError("Internal error", "height must be less")
        return await Server.call(self, address, method, params)


async def test_a_witness_may_be_a_moment_behind(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "CATCH_UP_S", (0,))
    other = chain.fork(8)
    for _ in range(4):
        other.extend({})
    servers = Servers(one=Server(chain), two=Lagging(other))
    with pytest.raises(ForkDetected):
        await client_of(servers, chain).header(ONE)
    agreeing = Lagging(chain)
    await client_of(Servers(one=Server(chain), two=agreeing), chain).header(ONE)
    assert agreeing.calls == ["commit", "commit"]


async def test_a_witness_that_stalls_is_waited_for_once(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "WITNESS_TIMEOUT_S", 0.01)
    witness = Server(chain, stalls=True)
    light = client_of(Servers(one=Server(chain), two=witness, three=Server(chain)), chain)
    for height in range(2, 12):
        await light.header(ONE, height)
    assert witness.calls == ["commit"]


async def test_a_server_without_the_first_block_is_no_place_to_begin(chain: Chain) -> None:
    class Pruned(Server):
        async def call(self, address: str, method: str, params: dict[str, Any]) -> Any:
            if params.get("height") == "1":
                raise RpcError("Internal error", "height 1 is not available")
            return await Server.call(self, address, method, params)

    servers = Servers(one=Pruned(chain), two=Server(chain))
    light = client_of(servers, chain)
    with pytest.raises(OldHeader, match=r"dropped header 1.*put a newer trusted_height"):
        await light.header(ONE)
    await light.header(TWO)
    chain.extend(chain.states[-1].records)
    assert (await light.header(ONE)).height == 13


async def test_the_anchor_is_what_the_network_file_names(chain: Chain) -> None:
    wrong = set_of(signers(range(90, 94))).hash().hex()
    servers = Servers(one=Server(chain))
    with pytest.raises(ForgedHeader, match="made anew"):
        await client_of(servers, chain, genesis_validators_hash=wrong).header(ONE)
    shown_late = Server(
        chain,
        lies={"commit": lambda result: {"signed_header": shown(chain, 5)["signed_header"]}},
    )
    with pytest.raises(ForgedHeader, match="in place of 1"):
        await client_of(Servers(one=shown_late), chain).header(ONE)


def shown(chain: Chain, height: int) -> Any:
    return Server(chain)._commit({"height": str(height)})


async def test_a_second_header_of_a_believed_height_is_a_fork_or_forged(chain: Chain) -> None:
    server = Server(chain)
    light = client_of(Servers(one=server), chain)
    await light.header(ONE)
    server.chain = chain.fork(11)
    server.chain.extend({b"accounts/b": b"\x02"}, [b"another"])
    with pytest.raises(ForkDetected):
        await light.header(ONE)
    server.chain = chain.fork(11)
    server.chain.extend({}, powers=signers(range(90, 94)))
    with pytest.raises(ForgedHeader):
        await light.header(ONE)
    # The first has nothing below it that another could be verified from.
    server.chain = Chain()
    server.chain.extend({b"accounts/b": b"\x02"}, [b"another"])
    with pytest.raises(ForgedHeader, match="another header 1 is trusted"):
        await light.header(ONE)


async def test_more_validators_than_a_page_holds(chain: Chain) -> None:
    many = signers(range(130))
    large = Chain()
    for _ in range(3):
        large.extend({}, powers=many)
    server = Server(large)
    named = set_of(many).hash().hex()
    light = client_of(Servers(one=server), large, genesis_validators_hash=named)
    assert (await light.header(ONE)).height == 3
    assert server.calls.count("validators") == 2


async def test_memory_stays_bounded(chain: Chain) -> None:
    server = Server(chain)
    light = client_of(Servers(one=server), chain)
    for _ in range(MAX_KEPT + 30):
        chain.extend(chain.states[-1].records)
        await light.header(ONE)
    assert len(light.store._confirmed) == MAX_KEPT
    assert min(light.store._confirmed) == 1


async def test_below_what_the_file_remembers_the_network_files_header_is_the_base(
    chain: Chain, tmp_path: Path
) -> None:
    path = tmp_path / "trusted.json"
    server = Server(chain)
    servers = Servers(one=server)
    save_trusted(path, network_of(servers), chain.blocks[9])
    light = client_of(servers, chain, path)
    assert (await light.header(ONE, 5)).hash() == chain.blocks[4].hash
    assert "blockchain" not in server.calls
    # Once that one is too old to begin with, hashes lead back from the remembered one.
    light = client_of(servers, chain, path, trust_period_s=6)
    assert (await light.header(ONE, 5)).hash() == chain.blocks[4].hash
    assert "blockchain" in server.calls


async def test_not_more_than_so_many_headers_are_followed_back(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_BACKWARDS", 3)
    named = chain.blocks[9].hash.hex()
    servers = Servers(one=Server(chain))
    light = client_of(servers, chain, trusted_height=10, trusted_hash=named)
    assert (await light.header(ONE, 7)).height == 7
    with pytest.raises(OldHeader, match="followed back"):
        await light.header(ONE, 6)


async def test_a_file_that_cannot_be_written_is_not_needed(chain: Chain, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    light = client_of(Servers(one=Server(chain)), chain, blocked / "below" / "trusted.json")
    await light.header(ONE)
    light.store.save()
    assert blocked.read_text() == ""


def test_a_file_belongs_to_one_network_and_one_root_of_trust(chain: Chain) -> None:
    servers = Servers(one=Server(chain))
    prints = {
        fingerprint(network_of(servers)),
        fingerprint(network_of(servers, trusted_height=2)),
        fingerprint(network_of(servers, trusted_hash="ab" * 32)),
        fingerprint(network_of(servers, genesis_validators_hash="ab" * 32)),
    }
    assert len(prints) == 4


async def test_a_header_of_another_height_than_asked_for_is_forged(chain: Chain) -> None:
    liar = Server(chain, lies={"commit": lambda result: shown(chain, 3)})
    servers = Servers(one=liar)
    with pytest.raises(ForgedHeader, match="in place of 4"):
        await signed_header(servers, ONE, 4)

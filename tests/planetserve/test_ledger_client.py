"""Reads and writes through servers that answer, lie, stall or are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planetserve import ledger as ledger_module
from planetserve.encoding import encode
from planetserve.errors import (
    ConfigurationError,
    ForgedHeader,
    ForkDetected,
    NetworkNotFound,
    OldHeader,
    PlanetServeError,
    RemoteProtocolError,
    UsageError,
    WrongProof,
)
from planetserve.keys import identity_from
from planetserve.ledger import LedgerClient
from planetserve.light import detector
from planetserve.light.protobuf import NANOSECONDS
from planetserve.merkle import sha256
from planetserve.records import TRUSTED
from planetserve.statekeys import account_key, route_key
from tests.planetserve.ledger_servers import (
    FOUR,
    Chain,
    Lie,
    Server,
    Servers,
    chain_of,
    clock,
    network_of,
)
from tests.planetserve.light_chain import CHAIN_ID, signers

ALICE = identity_from(b"\1" * 96)
BOB = identity_from(b"\2" * 96)
PARAMS = {"epoch_blocks": 25, "commit_blocks": 15}


def route_record(identity: Any, name: str) -> bytes:
    return encode(
        {
            "key": identity.public_key,
            "name": name,
            "roles": ["relay"],
            "onion_key": identity.onion_public,
            "transport_key": identity.transport_public,
            "endpoints": {"overlay": "tcp://127.0.0.1:1"},
            "model": "",
            "operator": "",
            "registered": 1,
            "credential_expires": 1_000,
            "reputation_ppm": None,
            "status": TRUSTED,
            "former": [],
        }
    )


RECORDS = {
    b"chain/main": encode({"chain_id": CHAIN_ID, "version": 1, "params": PARAMS}),
    b"chain/epoch": encode({"epoch": 3, "start": 75, "seed": bytes(32), "sample_ppm": 1_000_000}),
    account_key(ALICE.id): encode({"nonce": 5}),
    route_key(ALICE.id): route_record(ALICE, "alice"),
    b"verifiers/" + BOB.id: encode(
        {
            "benched": -1,
            "consensus_key": bytes(32),
            "former": [],
            "key": BOB.public_key,
            "name": "bob",
            "power": 10,
            "trust_ppm": 1_000_000,
            "voted_power": 10,
        }
    ),
}
ABSENT = account_key(BOB.id)


def reader(servers: Servers, chain: Chain, **fields: Any) -> LedgerClient:
    return LedgerClient(network_of(servers, **fields), now_ns=clock(chain), rpc=servers)


@pytest.fixture
def chain() -> Chain:
    return chain_of(10, RECORDS)


async def test_records_and_stores_come_proven_of_one_height(chain: Chain) -> None:
    server = Server(chain)
    async with reader(Servers(one=server), chain) as ledger:
        proven = await ledger.read((account_key(ALICE.id), ABSENT), ("routes", "verifiers"))
    assert proven.height == 9
    assert proven.header == chain.blocks[9].header
    assert proven.records == {account_key(ALICE.id): {"nonce": 5}, ABSENT: None}
    assert set(proven.stores["routes"]) == {route_key(ALICE.id)}
    assert proven.stores["verifiers"][b"verifiers/" + BOB.id]["name"] == "bob"


async def test_the_status_is_read_from_the_state(chain: Chain) -> None:
    async with reader(Servers(one=Server(chain)), chain) as ledger:
        status = await ledger.status()
    assert (status.height, status.epoch, status.epoch_start, status.epoch_end) == (9, 3, 75, 100)
    assert [verifier.name for verifier in status.verifiers] == ["bob"]


async def test_an_unchanged_route_set_is_not_fetched_again(chain: Chain) -> None:
    server = Server(chain)
    async with reader(Servers(one=server), chain) as ledger:
        first = await ledger.routes()
        assert [node.name for node in first.nodes] == ["alice"]
        chain.extend({**RECORDS, ABSENT: encode({"nonce": 1})})
        chain.extend({**RECORDS, ABSENT: encode({"nonce": 1})})
        server.calls.clear()
        second = await ledger.routes()
        assert server.calls == ["abci_query", "commit"]
        assert (second.height, second.hash) == (11, first.hash)
        assert second.nodes is first.nodes
        assert first.time_ns == chain.blocks[9].header.time_ns
        assert second.time_ns == chain.blocks[11].header.time_ns
        chain.extend({**RECORDS, route_key(BOB.id): route_record(BOB, "bob")})
        chain.extend({**RECORDS, route_key(BOB.id): route_record(BOB, "bob")})
        third = await ledger.routes()
    assert {node.name for node in third.nodes} == {"alice", "bob"}
    assert third.hash != first.hash


def change(*places: Any, to: Any) -> Lie:
    """Replace a part of an answer."""

    def lie(answer: Any) -> Any:
        holder = answer
        for place in places[:-1]:
            holder = holder[place]
        holder[places[-1]] = to(holder[places[-1]]) if callable(to) else to
        return answer

    return lie


STATE_LIES: dict[str, tuple[Lie, type[PlanetServeError]]] = {
    "another value": (change("records", 0, "value", to=encode({"nonce": 9})), WrongProof),
    "a value withheld": (change("records", 0, "value", to=None), WrongProof),
    "a value invented": (change("records", 1, "value", to=encode({"nonce": 9})), WrongProof),
    "another key": (change("records", 0, "key", to=b"accounts/x"), RemoteProtocolError),
    "a short proof": (change("records", 0, "siblings", to=[bytes(32)]), WrongProof),
    "a proof of numbers": (change("records", 0, "siblings", to=[1]), RemoteProtocolError),
    "a leaf of the key itself": (
        lambda answer: change(
            "records",
            0,
            to=lambda record: {
                **record,
                "value": None,
                "leaf": [sha256(record["key"]), sha256(record["value"])],
            },
        )(answer),
        WrongProof,
    ),
    "a leaf of one hash": (change("records", 1, "leaf", to=[bytes(32)]), RemoteProtocolError),
    "a record too few": (change("records", to=lambda items: items[:1]), RemoteProtocolError),
    "another root": (change("roots", "accounts", to=bytes(32)), WrongProof),
    "a root too few": (
        change("roots", to=lambda roots: {k: v for k, v in roots.items() if k != "nodes"}),
        WrongProof,
    ),
    "a short root": (change("roots", "accounts", to=b"x"), RemoteProtocolError),
    "a node left out": (change("stores", "routes", to=[]), WrongProof),
    "a node twice": (change("stores", "routes", to=lambda rows: rows * 2), RemoteProtocolError),
    "a node of two fields too few": (change("stores", "routes", to=[[b"x"]]), RemoteProtocolError),
    "no store": (change("stores", to={}), RemoteProtocolError),
    "nothing": (lambda answer: {}, RemoteProtocolError),
    "a list": (lambda answer: [], RemoteProtocolError),
}


@pytest.mark.parametrize("name", STATE_LIES)
async def test_a_lie_about_the_state_is_found_and_the_next_server_asked(
    name: str, chain: Chain
) -> None:
    lie, expected = STATE_LIES[name]
    keys, stores = (account_key(ALICE.id), ABSENT), ("routes",)
    liar = Server(chain, lies={"state": lie})
    async with reader(Servers(liar=liar), chain) as ledger:
        with pytest.raises(expected, match="no server proves"):
            await ledger.read(keys, stores)
    async with reader(Servers(liar=liar, honest=Server(chain)), chain) as ledger:
        assert (await ledger.read(keys, stores)).records[keys[0]] == {"nonce": 5}
        liar.calls.clear()
        await ledger.read(keys, stores)
        assert "abci_query" not in liar.calls


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"response": []},
        {"response": {"code": float("inf")}},
        {"response": {"height": "x"}},
        {"response": {"value": 5}},
        {"response": {"height": "9", "value": "wRA="}},
        {"response": {"height": "9", "value": "*"}},
    ],
)
async def test_a_malformed_answer_is_a_protocol_error(answer: Any, chain: Chain) -> None:
    server = Server(chain, lies={"abci_query": lambda result: answer})
    async with reader(Servers(one=server), chain) as ledger:
        with pytest.raises(PlanetServeError) as caught:
            await ledger.read()
        assert not isinstance(caught.value, WrongProof)


async def test_a_forged_header_is_refused(chain: Chain) -> None:
    """An honest chain up to 8, and blocks that strangers sign from there."""
    strangers = signers(range(90, 94))
    forged = chain.fork(8)
    for _ in range(4):
        forged.extend({ABSENT: encode({"nonce": 99})}, powers=strangers)
    liar = Server(forged)
    async with reader(Servers(liar=liar), chain) as ledger:
        with pytest.raises(ForgedHeader, match="no server proves"):
            await ledger.read((ABSENT,))
    async with reader(Servers(liar=liar, honest=Server(chain)), chain) as ledger:
        assert (await ledger.read((ABSENT,))).records == {ABSENT: None}


async def test_a_chain_of_other_validators_is_not_the_networks(chain: Chain) -> None:
    strangers = Chain()
    for _ in range(5):
        strangers.extend(dict(RECORDS), powers=signers(range(90, 94)))
    async with reader(Servers(one=Server(strangers)), strangers) as ledger:
        with pytest.raises(ForgedHeader, match="not the one that the network file trusts"):
            await ledger.read()


async def test_validators_may_change_between_reads(chain: Chain) -> None:
    server = Server(chain)
    async with reader(Servers(one=server), chain) as ledger:
        await ledger.read()
        for step in range(1, 30):
            chain.extend(
                dict(RECORDS),
                powers=signers(range(step - 1, step + 3)),
                next_powers=signers(range(step, step + 4)),
            )
        assert (await ledger.read()).height == chain.height - 1


async def test_a_fork_is_never_chosen_from(chain: Chain) -> None:
    """Two chains that the validators signed, one server each."""
    other = chain.fork(8)
    other.extend({ABSENT: encode({"nonce": 99})})
    other.extend({ABSENT: encode({"nonce": 99})})
    async with reader(Servers(one=Server(chain), two=Server(other)), chain) as ledger:
        with pytest.raises(ForkDetected, match="http://one and http://two"):
            await ledger.read()


async def test_a_witness_that_forges_is_ignored(chain: Chain) -> None:
    forged = chain.fork(8)
    for _ in range(2):
        forged.extend({}, powers=signers(range(90, 94)))
    witness = Server(forged)
    servers = Servers(one=Server(chain), two=witness, three=Server(chain))
    async with reader(servers, chain) as ledger:
        assert (await ledger.read()).height == 9
        assert "commit" in witness.calls
        chain.extend(dict(RECORDS))
        witness.calls.clear()
        await ledger.read()
        assert witness.calls == []
    # Alone beside another it counts for nothing either, and what it shows is no base for more.
    async with reader(Servers(one=Server(chain), two=witness), chain) as ledger:
        proven = await ledger.read()
        assert proven.height == 10
        assert not ledger.confirmed(proven.header)
        found = ledger.block(proven.header)
        assert found is not None
        assert found.header == proven.header
        assert ledger.block(chain.blocks[7].header) is None


async def test_old_headers_say_nothing_about_now(chain: Chain) -> None:
    def later() -> int:
        return chain.blocks[-1].header.time_ns + 301 * NANOSECONDS

    servers = Servers(one=Server(chain))
    async with LedgerClient(network_of(servers), now_ns=later, rpc=servers) as ledger:
        with pytest.raises(OldHeader, match="stands still"):
            await ledger.read()


async def test_a_server_that_withholds_blocks_is_left(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "HEADER_TIMEOUT_S", 0.1)
    old = chain.fork(5)
    for _ in range(40):
        chain.extend(dict(RECORDS))
    servers = Servers(one=Server(chain), two=Server(old), three=Server(chain))
    async with reader(servers, chain) as ledger:
        await ledger.read()
        for name in ("one", "three"):
            servers.by_address[f"http://{name}"].dead = True
        with pytest.raises(OldHeader, match="was seen already"):
            await ledger.read()
        servers.by_address["http://one"].dead = False
        assert (await ledger.read()).height == chain.height - 1


async def test_trust_ends(chain: Chain) -> None:
    servers = Servers(one=Server(chain))
    async with reader(servers, chain, trust_period_s=5) as ledger:
        with pytest.raises(OldHeader, match="trusted_height"):
            await ledger.read()


async def test_a_network_file_may_name_a_later_header(chain: Chain) -> None:
    servers = Servers(one=Server(chain))
    named = {"trusted_height": 6, "trusted_hash": chain.blocks[5].hash.hex()}
    async with reader(servers, chain, **named) as ledger:
        assert (await ledger.read()).height == 9
    wrong = {"trusted_height": 6, "trusted_hash": chain.blocks[4].hash.hex()}
    async with reader(servers, chain, **wrong) as ledger:
        with pytest.raises(ForgedHeader, match="not the one"):
            await ledger.read()


async def test_a_network_file_that_names_nothing_to_trust_is_refused(chain: Chain) -> None:
    servers = Servers(one=Server(chain))
    async with reader(servers, chain, genesis_validators_hash="") as ledger:
        with pytest.raises(ConfigurationError, match="names nothing to trust"):
            await ledger.read()


async def test_servers_that_stall_or_are_dead_are_left(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PATIENCE_S", (0.001, 0.01))
    stalling, dead = Server(chain, stalls=True), Server(chain, dead=True)
    async with reader(Servers(one=stalling, two=dead), chain) as ledger:
        with pytest.raises(NetworkNotFound, match=r"ConnectError.*too slow"):
            await ledger.read()
        assert stalling.calls.count("abci_query") == 2
    monkeypatch.setattr(ledger_module, "PATIENCE_S", (0.1, 5.0))
    monkeypatch.setattr(detector, "WITNESS_TIMEOUT_S", 0.02)
    async with reader(Servers(one=stalling, two=dead, three=Server(chain)), chain) as ledger:
        assert (await ledger.read()).height == 9


async def test_too_much_is_not_asked(chain: Chain) -> None:
    async with reader(Servers(one=Server(chain)), chain) as ledger:
        with pytest.raises(UsageError):
            await ledger.read([b"accounts/%d" % number for number in range(1_001)])


async def test_what_was_verified_is_kept(chain: Chain, tmp_path: Path) -> None:
    path = tmp_path / "trusted.json"
    server = Server(chain)
    servers = Servers(one=server)

    def client(**fields: Any) -> LedgerClient:
        network = network_of(servers, **fields)
        return LedgerClient(network, trusted=path, now_ns=clock(chain), rpc=servers)

    async with client() as ledger:
        await ledger.read()
    assert path.stat().st_mode & 0o777 == 0o600
    server.calls.clear()
    async with client() as ledger:
        await ledger.read()
    assert server.calls == ["abci_query", "commit"]
    for damage in ("{", "[]", path.read_text().replace("vote", "goat", 1)[:-9]):
        path.write_text(damage)
        async with client() as ledger:
            assert (await ledger.read()).height == 9
    server.calls.clear()
    # The file of another network, or of this one with another root of trust, is not believed.
    async with client(trusted_height=2, trusted_hash=chain.blocks[1].hash.hex()) as ledger:
        await ledger.read()
    assert server.calls.count("commit") == 2


def test_the_validators_of_the_made_chain_are_the_networks(chain: Chain) -> None:
    assert len(chain.blocks[0].validators.validators) == len(FOUR)

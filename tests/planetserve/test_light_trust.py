"""What is kept between runs, and how late an answer about the present may be."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from planetserve.errors import OldHeader
from planetserve.ledger import LedgerClient
from planetserve.light.client import MAX_AGE_S, MIN_AGE_S, LightClient
from planetserve.light.protobuf import NANOSECONDS
from planetserve.light.trust import Remembered, load_trusted, save_trusted
from planetserve.light.verifier import Rules
from planetserve.network import Network
from tests.planetserve.ledger_servers import Chain, Server, Servers, chain_of, clock, network_of
from tests.planetserve.light_chain import CHAIN_ID, now_ns

ONE = "http://one"
RULES = Rules(CHAIN_ID, 1 << 40)
RECORDS = {b"accounts/a": b"\x01"}


@pytest.fixture
def chain() -> Chain:
    return chain_of(20, RECORDS)


@pytest.fixture
def network(chain: Chain) -> Network:
    return network_of(Servers(one=Server(chain)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trusted" / "file.json"


def kept(path: Path, network: Network, chain: Chain) -> Remembered | None:
    return load_trusted(path, network, RULES, now_ns(chain.blocks[-1]))


def test_only_a_higher_header_replaces_one(path: Path, network: Network, chain: Chain) -> None:
    save_trusted(path, network, chain.blocks[11], 10)
    save_trusted(path, network, chain.blocks[4], 4)
    assert kept(path, network, chain) == Remembered(chain.blocks[11], 10)
    save_trusted(path, network, chain.blocks[12], 0)
    assert kept(path, network, chain) == Remembered(chain.blocks[12], 10)
    save_trusted(path, network, chain.blocks[10], 12)
    assert kept(path, network, chain) == Remembered(chain.blocks[12], 12)


def test_what_cannot_be_read_is_replaced(path: Path, network: Network, chain: Chain) -> None:
    save_trusted(path, replace(network, trusted_height=2), chain.blocks[11])
    assert kept(path, network, chain) is None
    save_trusted(path, network, chain.blocks[4])
    assert kept(path, network, chain) == Remembered(chain.blocks[4], 0)
    path.write_text("{")
    save_trusted(path, network, chain.blocks[3])
    assert kept(path, network, chain) == Remembered(chain.blocks[3], 0)
    content = json.loads(path.read_text())
    for wrong in (-1, 5, "3", None, True):
        path.write_text(json.dumps({**content, "read_height": wrong}))
        assert kept(path, network, chain) is None


def test_a_full_disk_leaves_nothing_behind(
    path: Path, network: Network, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_trusted(path, network, chain.blocks[3])

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("dump", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(json if name == "dump" else os, name, full)
            save_trusted(path, network, chain.blocks[11])
    assert sorted(item.name for item in path.parent.iterdir()) == ["file.json", "file.json.lock"]
    assert kept(path, network, chain) == Remembered(chain.blocks[3], 0)


def test_while_another_writes_nothing_is_written(
    path: Path, network: Network, chain: Chain
) -> None:
    save_trusted(path, network, chain.blocks[3])
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        save_trusted(path, network, chain.blocks[11])
        assert kept(path, network, chain) == Remembered(chain.blocks[3], 0)
    save_trusted(path, network, chain.blocks[11])
    assert kept(path, network, chain) == Remembered(chain.blocks[11], 0)


async def test_a_later_run_does_not_read_what_lies_before(
    path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planetserve.ledger.HEADER_TIMEOUT_S", 0.05)
    server = Server(chain)
    servers = Servers(one=server)

    def client() -> LedgerClient:
        return LedgerClient(network_of(servers), path, clock(chain), servers)

    async with client() as ledger:
        assert (await ledger.read()).height == 19
    server.chain = chain.fork(18)
    async with client() as ledger:
        with pytest.raises(OldHeader, match="height 17, and 19 was seen already"):
            await ledger.read()
    server.chain = chain
    async with client() as ledger:
        assert (await ledger.read()).height == 19


async def test_reads_of_one_client_do_not_go_back(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planetserve.ledger.HEADER_TIMEOUT_S", 0.05)
    servers = Servers(one=Server(chain), two=Server(chain), three=Server(chain))
    async with LedgerClient(network_of(servers), None, clock(chain), servers) as ledger:
        assert (await ledger.read()).height == 19
        for name in ("one", "two"):
            servers.by_address[f"http://{name}"].chain = chain.fork(19)
        servers.prefer(ONE)
        assert (await ledger.read()).height == 19
        servers.by_address["http://three"].dead = True
        with pytest.raises(OldHeader, match="height 18, and 19 was seen already"):
            await ledger.read()


async def test_how_old_the_newest_header_may_be_follows_from_the_chain(chain: Chain) -> None:
    """Blocks come every second here, so that a minute without one is long."""
    last = chain.blocks[-1].header
    for age_s, refused in ((MIN_AGE_S, False), (MIN_AGE_S + 1, True)):
        servers = Servers(one=Server(chain))
        clock_ns = partial(int, last.time_ns + age_s * NANOSECONDS)
        light = LightClient(network_of(servers), servers, None, clock_ns)
        header = await light.header(ONE)
        if refused:
            with pytest.raises(OldHeader, match="stands still"):
                light.require_recent(header)
        else:
            light.require_recent(header)


async def test_without_enough_blocks_the_limit_is_a_fixed_one(chain: Chain) -> None:
    short = chain.fork(5)
    servers = Servers(one=Server(short))
    now = short.blocks[-1].header.time_ns + MAX_AGE_S * NANOSECONDS
    light = LightClient(network_of(servers), servers, None, lambda: now)
    light.require_recent(await light.header(ONE))

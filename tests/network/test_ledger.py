"""One real validator: CometBFT, `ps-node` and clients of its RPC."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from abci_app.core.codes import Code
from abci_app.home import VerifierEntry, make_genesis, public_key_of, write_home
from planetserve import transactions
from planetserve.errors import TransactionRejected
from planetserve.keys import Identity, identity_from, write_identity
from planetserve.ledger import LedgerClient
from planetserve.light.trust import genesis_validators_hash
from planetserve.network import Network
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED
from planetserve.rpc import Rpc, to_base64
from planetserve.transactions import COMMIT, ENDORSE, REGISTER, REVEAL, sign_transaction

CHAIN_ID = "network-test"
CONSENSUS_SEED, NODE_SEED = b"c" * 32, b"n" * 32
START_TIMEOUT_S = 60.0
COMMANDS = Path(sys.executable).parent


def person(number: int) -> Identity:
    return identity_from(bytes([number]) * 96)


VERIFIER, MODEL, RELAY = person(1), person(2), person(3)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Validator:
    """`ps-node` on a home of its own."""

    def __init__(self, folder: Path) -> None:
        p2p, rpc, web = free_ports(3)
        self.home = folder / "home"
        self.log = folder / "log"
        self.web = f"127.0.0.1:{web}"
        genesis = make_genesis(
            CHAIN_ID,
            "2026-01-01T00:00:00Z",
            [
                VerifierEntry(
                    "verifier",
                    VERIFIER.public_key,
                    VERIFIER.onion_public,
                    VERIFIER.transport_public,
                    public_key_of(CONSENSUS_SEED),
                )
            ],
            {"epoch_blocks": 12, "commit_blocks": 5},
        )
        write_home(
            self.home,
            genesis=genesis,
            moniker="verifier",
            consensus_seed=CONSENSUS_SEED,
            node_seed=NODE_SEED,
            p2p=f"127.0.0.1:{p2p}",
            rpc=f"127.0.0.1:{rpc}",
            block_interval_s=0.15,
        )
        self.network = Network(
            CHAIN_ID,
            "",
            (f"http://127.0.0.1:{rpc}",),
            "tiny",
            genesis_validators_hash=genesis_validators_hash(genesis),
            trust_period_s=10 * 365 * 24 * 3600,
        )
        self.network_file = folder / "network.toml"
        self.network_file.write_text(self.network.to_toml())
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--home", str(self.home), "--http", self.web]
        command = [str(COMMANDS / "ps-node"), "run", *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.wait_for(lambda health: health["healthy"])

    def health(self) -> dict[str, Any] | None:
        connection = http.client.HTTPConnection(self.web, timeout=3)
        try:
            connection.request("GET", "/health")
            content: dict[str, Any] = json.loads(connection.getresponse().read())
        except OSError:
            return None
        finally:
            connection.close()
        return content

    def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            health = self.health()
            if health is not None and condition(health):
                return health
            assert self.process is not None
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        tail = self.log.read_text(errors="replace")[-3_000:]
        raise AssertionError(f"the validator is not as expected: {self.health()}\n{tail}")

    def wait_above(self, height: int) -> dict[str, Any]:
        return self.wait_for(lambda health: health["height"] > height)

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        line = [str(COMMANDS / command), *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    def ledger(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("ps-ledger", *arguments, "--network", str(self.network_file))


@pytest.fixture
def validator(tmp_path: Path) -> Iterator[Validator]:
    made = Validator(tmp_path)
    made.start()
    yield made
    made.stop()


def gone(pid: int) -> bool:
    """Whether no process with this id runs; one that nobody has waited for runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 15
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.05)


def registration(identity: Identity, name: str, role: str) -> dict[str, Any]:
    return transactions.register(
        name=name,
        roles=[role],
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        endpoints={"overlay": "tcp://127.0.0.1:7000"},
        model="tiny" if role == "model" else "",
    )


async def admit(ledger: LedgerClient, identity: Identity, name: str, role: str) -> None:
    await ledger.send(identity, REGISTER, registration(identity, name, role))
    expires = (await ledger.status())["height"] + 10_000
    data = transactions.endorse(node=identity.id, role=role, expires=expires)
    await ledger.send(VERIFIER, ENDORSE, data)


async def next_epoch(ledger: LedgerClient) -> int:
    """Wait for a fresh epoch and return its number."""
    epoch = int((await ledger.status())["epoch"]) + 1
    await until(ledger, "epoch_start", epoch)
    return epoch


async def until(ledger: LedgerClient, bound: str, epoch: int) -> None:
    """Wait until the next block is at or past one of the bounds of `epoch`."""
    while True:
        status = await ledger.status()
        if status["epoch"] > epoch or (
            status["epoch"] == epoch and status["height"] + 1 >= status[bound]
        ):
            return
        await asyncio.sleep(0.05)


async def score(ledger: LedgerClient, node: Identity, score_ppm: int) -> None:
    epoch = await next_epoch(ledger)
    data = transactions.reveal(
        epoch=epoch,
        node=node.id,
        score_ppm=score_ppm,
        samples=1,
        digest=bytes(32),
        salt=bytes(32),
    )
    digest = transactions.score_commitment(CHAIN_ID, VERIFIER.public_key, data)
    await ledger.send(VERIFIER, COMMIT, transactions.commit(epoch=epoch, commitment=digest))
    await until(ledger, "commit_end", epoch)
    await ledger.send(VERIFIER, REVEAL, data)
    await until(ledger, "epoch_start", epoch + 1)


async def test_a_node_is_admitted_scored_and_distrusted(
    validator: Validator, tmp_path: Path
) -> None:
    async with LedgerClient(validator.network) as ledger:
        await admit(ledger, MODEL, "model-a", "model")
        await admit(ledger, RELAY, "relay-a", "relay")
        routes = await ledger.routes()
        assert [node.name for node in routes.model_nodes("tiny")] == ["model-a"]
        assert [node.name for node in routes.relays()] == ["relay-a"]
        for _ in range(2):
            await score(ledger, MODEL, 100_000)
        routes = await ledger.routes()
        found = routes.find(MODEL.id)
        assert found is not None
        assert (found.status, routes.model_nodes()) == (UNTRUSTED, [])

    listed = json.loads(validator.ledger("nodes", "--json").stdout)
    nodes = {node["name"]: node for node in listed["nodes"]}
    assert set(listed) == {"height", "nodes"}
    assert set(nodes) == {"verifier", "model-a", "relay-a"}
    assert nodes["model-a"]["status"] == UNTRUSTED
    assert nodes["relay-a"]["reputation_ppm"] is None
    assert nodes["verifier"]["roles"] == ["prober", "verifier"]
    assert set(nodes["relay-a"]) == {
        *["id", "name", "roles", "status", "reputation_ppm"],
        *["credential_expires", "endpoints"],
    }

    shown = json.loads(validator.ledger("reputation", "model-a", "--json").stdout)
    assert [item["credit_ppm"] for item in shown["history"]] == [100_000, 100_000]
    epoch = shown["history"][-1]["epoch"]
    settled = json.loads(validator.ledger("epoch", str(epoch), "--json").stdout)
    assert (settled["commits"], settled["reveals"], len(settled["results"])) == (1, 1, 1)
    for command in (["status"], ["nodes"], ["reputation", "model-a"], ["epoch", str(epoch)]):
        result = validator.ledger(*command)
        assert (result.returncode, result.stderr) == (0, "")
    prefix = MODEL.id.hex()[:8]
    assert "model-a" in validator.ledger("reputation", prefix).stdout
    missing = validator.ledger("reputation", "nobody")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no node is called 'nobody'")

    key = tmp_path / "verifier.key"
    write_identity(key, VERIFIER)
    options = ["relay-a", "--role", "relay", "--key", str(key)]
    assert validator.ledger("revoke", *options).returncode == 0
    refused = validator.ledger("revoke", *options)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"code {int(Code.NO_CREDENTIAL)}" in refused.stderr
    assert validator.ledger("endorse", *options).returncode == 0
    async with LedgerClient(validator.network) as ledger:
        found = (await ledger.routes()).find(RELAY.id)
        assert found is not None
        assert found.status == TRUSTED


async def test_bad_transactions_get_their_codes_and_the_node_goes_on(
    validator: Validator,
) -> None:
    rpc = Rpc(validator.network.rpc)

    async def code_of(raw: bytes) -> int:
        result = await rpc.call("broadcast_tx_sync", tx=to_base64(raw))
        assert result["log"]
        return int(result["code"])

    data = registration(RELAY, "relay-a", "relay")
    good = sign_transaction(RELAY, CHAIN_ID, 0, REGISTER, data)
    assert await code_of(b"") == Code.MALFORMED
    assert await code_of(b"\xc1" * 100) == Code.MALFORMED
    assert await code_of(good[:-1]) == Code.MALFORMED
    assert await code_of(sign_transaction(RELAY, "other", 0, REGISTER, data)) == Code.BAD_SIGNATURE
    assert await code_of(sign_transaction(RELAY, CHAIN_ID, 7, REGISTER, data)) == Code.BAD_NONCE
    assert await code_of(sign_transaction(RELAY, CHAIN_ID, 0, "mint", {})) == Code.UNKNOWN_KIND
    bad = {**data, "name": "\x1b[2J"}
    assert await code_of(sign_transaction(RELAY, CHAIN_ID, 0, REGISTER, bad)) == Code.INVALID_FIELD
    async with LedgerClient(validator.network) as ledger:
        with pytest.raises(TransactionRejected) as refusal:
            await ledger.send(
                RELAY, ENDORSE, transactions.endorse(node=MODEL.id, role="relay", expires=9_999)
            )
        assert refusal.value.code == Code.NOT_A_VERIFIER
        with pytest.raises(TransactionRejected) as unknown_path:
            await ledger.query("/nothing")
        assert unknown_path.value.code == Code.UNKNOWN_PATH
        heights = await asyncio.gather(
            *(
                ledger.send(RELAY, REGISTER, registration(RELAY, f"relay-{n}", "relay"))
                for n in range(5)
            )
        )
        assert max(heights) - min(heights) <= 3, "one key's transactions share blocks"
        found = (await ledger.routes()).find(RELAY.id)
        assert found is not None
        assert (found.status, found.name) == (CANDIDATE, "relay-4")
    await rpc.close()
    health = validator.health()
    assert health is not None
    validator.wait_above(health["height"])


async def test_killed_at_once_it_continues_from_the_same_state(validator: Validator) -> None:
    async with LedgerClient(validator.network) as ledger:
        await ledger.send(RELAY, REGISTER, registration(RELAY, "relay-a", "relay"))
        for number in range(3):
            health = validator.wait_above(2 + 2 * number)
            assert validator.process is not None
            os.kill(health["cometbft_pid"], signal.SIGKILL)
            validator.process.kill()
            validator.process.wait(10)
            wait_until_gone(health["cometbft_pid"])
            inspected = validator.run("ps-node", "inspect", "--home", str(validator.home))
            before = json.loads(inspected.stdout)
            assert before["height"] >= health["height"]
            validator.start()
            status = validator.wait_above(before["height"] + 1)
            rpc = Rpc(validator.network.rpc)
            # The header after a height carries that height's app hash.
            block = await rpc.call("block", height=str(before["height"] + 1))
            await rpc.close()
            assert block["block"]["header"]["app_hash"].lower() == before["app_hash"]
            assert status["height"] > before["height"]
        assert (await ledger.routes()).find(RELAY.id) is not None
        await ledger.send(RELAY, REGISTER, registration(RELAY, "relay-b", "relay"))


def test_cometbft_does_not_outlive_ps_node(validator: Validator) -> None:
    health = validator.wait_above(1)
    assert validator.process is not None
    validator.process.kill()
    validator.process.wait(10)
    wait_until_gone(health["cometbft_pid"])


def test_ps_node_does_not_outlive_cometbft(validator: Validator) -> None:
    health = validator.wait_above(1)
    os.kill(health["cometbft_pid"], signal.SIGKILL)
    assert validator.process is not None
    assert validator.process.wait(15) == 1
    assert "error: CometBFT ended by itself" in validator.log.read_text()


def test_sigterm_ends_both(validator: Validator) -> None:
    health = validator.wait_above(1)
    assert validator.stop() == 0
    assert gone(health["cometbft_pid"])


def test_a_home_of_another_chain_is_refused(validator: Validator) -> None:
    validator.wait_above(1)
    validator.stop()
    genesis = validator.home / "config" / "genesis.json"
    genesis.write_text(genesis.read_text().replace(CHAIN_ID, "another"))
    result = validator.run("ps-node", "run", "--home", str(validator.home))
    assert result.returncode == 2
    assert "error: the ledger's database" in result.stderr
    assert "belongs to the chain 'network-test', not to 'another'" in result.stderr
    assert "Traceback" not in result.stderr

"""Real validators for tests: `ps-node`, each with its CometBFT, in chains of one or several."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from abci_app.config_file import Schedule
from abci_app.home import (
    ModelEntry,
    VerifierEntry,
    make_genesis,
    node_id_of,
    public_key_of,
    write_home,
)
from planetserve import transactions, vrf
from planetserve.assignment import ticket_input
from planetserve.encoding import decode
from planetserve.keys import Identity, identity_from
from planetserve.ledger import LedgerClient
from planetserve.light.trust import genesis_validators_hash
from planetserve.network import Network
from planetserve.records import ChainStatus
from planetserve.rpc import Rpc, to_base64
from planetserve.transactions import COMMIT, ENDORSE, REGISTER
from tests.network.localnetwork import free_base_port, ports_in_use, processes_naming

CHAIN_ID = "network-test"
MODEL_NAME = "tiny"
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 30.0
POLL_S = 0.05
PORTS_EACH = 3
MOST = 5
"""Validators of a chain."""
COMMANDS = Path(sys.executable).parent


def person(number: int) -> Identity:
    """Verifiers are numbered from 1; who else is in a test has a number above theirs."""
    return identity_from(bytes([number]) * 96)


def consensus_seed(number: int) -> bytes:
    return bytes([100 + number]) * 32


def node_seed(number: int) -> bytes:
    return bytes([200 + number]) * 32


def gone(pid: int) -> bool:
    """Whether no process with this id runs; one that nobody has waited for runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while not gone(pid):
        assert time.monotonic() < deadline_s, f"process {pid} lives on"
        time.sleep(POLL_S)


def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [str(COMMANDS / command), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=90, check=False)


class Validator:
    """`ps-node` on a home of its own, at three ports from `port` on."""

    def __init__(self, folder: Path, number: int, port: int) -> None:
        self.number = number
        self.port = port
        self.home = folder / f"validator-{number}"
        self.log = folder / f"validator-{number}.log"
        self.p2p = f"127.0.0.1:{port}"
        self.rpc = f"127.0.0.1:{port + 1}"
        self.web = f"127.0.0.1:{port + 2}"
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def peer(self) -> str:
        return f"{node_id_of(node_seed(self.number))}@{self.p2p}"

    @property
    def address(self) -> str:
        return f"http://{self.rpc}"

    def start(self, environment: Mapping[str, str] | None = None, *, wait: bool = True) -> None:
        """Start it, with more in its environment, and by default wait until it is healthy."""
        options = ["--home", str(self.home), "--http", self.web]
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(COMMANDS / "ps-node"), "run", *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
            )
        if wait:
            self.wait_for(lambda health: health["healthy"])

    def health(self) -> dict[str, Any] | None:
        """What it says of itself; None while it does not answer."""
        connection = http.client.HTTPConnection(self.web, timeout=3)
        try:
            connection.request("GET", "/health")
            content: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return content

    @property
    def height(self) -> int:
        health = self.health()
        return 0 if health is None else int(health["height"])

    def call(self, method: str, **params: Any) -> Any:
        """The result of one call of its CometBFT's RPC, which must not fail."""
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
        connection = http.client.HTTPConnection(self.rpc, timeout=10)
        try:
            connection.request("POST", "/", body)
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert "result" in answer, answer
        return answer["result"]

    def state_at(self, height: int) -> tuple[str, Any]:
        """The app hash and the stores' roots that its ledger has for a recent height."""
        answer = self.call("abci_query", path=f"/roots/{height}", data="", height="0", prove=False)
        response = answer["response"]
        assert response["code"] == 0, response["log"]
        content = decode(base64.b64decode(response["value"]))
        return content["app_hash"].hex(), content["roots"]

    def app_hash_at(self, height: int) -> str:
        """The app hash after `height` that the chain has agreed on, as its next block says."""
        block = self.call("block", height=str(height + 1))["block"]
        return str(block["header"]["app_hash"]).lower()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            health = self.health()
            if health is not None and condition(health):
                return health
            assert self.process is not None
            if self.process.poll() is not None:
                break
            time.sleep(POLL_S)
        raise AssertionError(
            f"{self.home.name} is not as expected: {self.health()}\n{self.output()[-3_000:]}"
        )

    def wait_above(self, height: int) -> dict[str, Any]:
        return self.wait_for(lambda health: health["height"] > height)

    def wait_end(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Wait until it ends by itself, and its CometBFT with it; returns its exit code."""
        assert self.process is not None
        code = self.process.wait(timeout_s)
        self._wait_until_nothing_runs()
        return code

    def stop(self) -> int:
        """End it in order; returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(END_TIMEOUT_S)

    def kill(self) -> None:
        """As a power cut would; returns when its CometBFT is gone too."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(END_TIMEOUT_S)
        self._wait_until_nothing_runs()

    def _wait_until_nothing_runs(self) -> None:
        deadline_s = time.monotonic() + END_TIMEOUT_S
        while left := processes_naming(str(self.home)):
            assert time.monotonic() < deadline_s, f"processes {left} live on"
            time.sleep(POLL_S)

    def output(self) -> str:
        """What it has logged since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def inspect(self) -> dict[str, Any]:
        """`ps-node inspect`, while it does not run."""
        done = run("ps-node", "inspect", "--home", str(self.home))
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@dataclass(slots=True)
class Chain:
    """A network of validators alone; `network` names the RPC servers of all of them."""

    folder: Path
    genesis: str
    validators: list[Validator]
    block_interval_s: float
    network: Network = field(init=False)

    def __post_init__(self) -> None:
        self.network = self.network_of(self.validators)
        self.network_file.write_text(self.network.to_toml())

    @property
    def network_file(self) -> Path:
        return self.folder / "network.toml"

    def network_of(self, validators: Sequence[Validator]) -> Network:
        return Network(
            CHAIN_ID,
            "",
            tuple(validator.address for validator in validators),
            MODEL_NAME,
            genesis_validators_hash=genesis_validators_hash(self.genesis),
        )

    def start(self) -> None:
        for validator in self.validators:
            validator.start(wait=False)
        for validator in self.validators:
            validator.wait_for(lambda health: health["healthy"])

    def stop(self) -> None:
        """End all, the ones that wait for the others too, and leave nothing."""
        running = [each.process for each in self.validators if each.process is not None]
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(END_TIMEOUT_S)
        assert processes_naming(str(self.folder)) == []
        for each in self.validators:
            assert ports_in_use(range(each.port, each.port + PORTS_EACH)) == []

    def add(self) -> Validator:
        """One more, without a home, that `stop` ends too."""
        number = len(self.validators) + 1
        assert number <= MOST
        added = Validator(self.folder, number, self.validators[-1].port + PORTS_EACH)
        self.validators.append(added)
        return added

    def ledger(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("ps-ledger", *arguments, "--network", str(self.network_file))

    def height(self) -> int:
        return max(validator.height for validator in self.validators)

    def wait_above(self, height: int) -> None:
        for validator in self.validators:
            validator.wait_above(height)


def assert_agreed(validators: Sequence[Validator], height: int) -> None:
    """Wait until all are past `height` and compare the states that they had there."""
    for validator in validators:
        validator.wait_above(height)
    states = [validator.state_at(height) for validator in validators]
    assert states == [states[0]] * len(states)
    assert {validator.app_hash_at(height) for validator in validators} == {states[0][0]}


def make_chain(
    folder: Path,
    count: int = 4,
    parameters: Mapping[str, int] | None = None,
    block_interval_s: float = 0.2,
    *,
    snapshot_blocks: int = 0,
    keep_blocks: int = 0,
    evidence_blocks: int = 100_000,
) -> Chain:
    """The homes of a chain of `count` validators of equal power, not started. The `*_blocks` are
    for all of them; see `abci_app.config_file.Schedule`."""
    base = free_base_port(PORTS_EACH * MOST)
    validators = [
        Validator(folder, number, base + PORTS_EACH * (number - 1))
        for number in range(1, count + 1)
    ]
    genesis = make_genesis(
        CHAIN_ID,
        datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        [verifier_entry(validator.number) for validator in validators],
        parameters,
        models=[ModelEntry(MODEL_NAME, b"w" * 32, "Q4_1", 2048)],
    )
    document = json.loads(genesis)
    document["consensus_params"]["evidence"]["max_age_num_blocks"] = str(evidence_blocks)
    genesis = json.dumps(document)
    chain = Chain(folder, genesis, validators, block_interval_s)
    for validator in validators:
        write_home(
            validator.home,
            genesis=genesis,
            moniker=validator.home.name,
            consensus_seed=consensus_seed(validator.number),
            node_seed=node_seed(validator.number),
            p2p=validator.p2p,
            rpc=validator.rpc,
            peers=[other.peer for other in validators if other is not validator],
            block_interval_s=block_interval_s,
            schedule=Schedule(snapshot_blocks=snapshot_blocks, keep_blocks=keep_blocks),
            local=True,
        )
    return chain


def verifier_entry(number: int) -> VerifierEntry:
    prober = person(number)
    return VerifierEntry(
        f"verifier-{number}",
        prober.public_key,
        prober.onion_public,
        prober.transport_public,
        public_key_of(consensus_seed(number)),
    )


@contextmanager
def running_chain(
    folder: Path,
    count: int = 4,
    parameters: Mapping[str, int] | None = None,
    block_interval_s: float = 0.2,
    **blocks: int,
) -> Iterator[Chain]:
    """A chain of `make_chain` while it runs."""
    chain = make_chain(folder, count, parameters, block_interval_s, **blocks)
    try:
        chain.start()
        yield chain
    finally:
        chain.stop()


def init_from_a_snapshot(chain: Chain, joiner: Validator) -> bytes:
    """`ps-node init` as an operator would; returns the consensus key that it prints."""
    genesis = chain.folder / "genesis.json"
    genesis.write_text(chain.genesis)
    running = [validator for validator in chain.validators if validator is not joiner]
    trusted = running[0].call("commit", height="2")["signed_header"]["commit"]["block_id"]["hash"]
    done = run(
        "ps-node",
        "init",
        *("--home", str(joiner.home), "--genesis", str(genesis), "--moniker", joiner.home.name),
        *("--p2p", joiner.p2p, "--rpc", joiner.rpc),
        *(part for validator in running for part in ("--peer", validator.peer)),
        *("--block-interval-s", str(chain.block_interval_s)),
        *("--state-sync", ",".join(validator.address for validator in running[:2])),
        *("--trust-height", "2", "--trust-hash", trusted, "--local"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    return bytes.fromhex(shown["consensus key"])


def registration(identity: Identity, name: str, role: str) -> dict[str, Any]:
    return transactions.register(
        name=name,
        roles=[role],
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        endpoints={"overlay": "tcp://127.0.0.1:7000"},
        model=MODEL_NAME if role == "model" else "",
    )


async def broadcast(validator: Validator, raw: bytes) -> tuple[int, str]:
    """The result code and log with which a validator takes a transaction into its mempool."""
    rpc = Rpc([validator.address])
    try:
        result = await rpc.call("broadcast_tx_sync", tx=to_base64(raw))
    finally:
        await rpc.close()
    return int(result["code"]), str(result["log"])


async def admit(ledger: LedgerClient, identity: Identity, name: str, role: str) -> None:
    """Register a node; the first verifier endorses it."""
    await ledger.send(identity, REGISTER, registration(identity, name, role))
    expires = (await ledger.status()).height + 10_000
    data = transactions.endorse(node=identity.id, role=role, expires=expires)
    await ledger.send(person(1), ENDORSE, data)


async def fresh_epoch(ledger: LedgerClient, after: int = -1) -> ChainStatus:
    """Wait until the commit window of an epoch later than `after` has just begun."""
    while True:
        status = await ledger.status()
        if status.epoch > after and status.height + 1 <= status.epoch_start + 1:
            return status
        await asyncio.sleep(POLL_S)


async def until_height(ledger: LedgerClient, height: int) -> None:
    """Wait until the next block is at or past `height`, as the proven state has it."""
    while True:
        if (await ledger.status()).height + 1 >= height:
            return
        await asyncio.sleep(POLL_S)


def score_of(
    prober: Identity, status: ChainStatus, node: Identity, score_ppm: int
) -> dict[str, Any]:
    """The data of a prober's reveal in the running epoch."""
    ticket = ticket_input(status.chain_id, status.epoch, status.seed)
    return transactions.reveal(
        epoch=status.epoch,
        node=node.id,
        score_ppm=score_ppm,
        samples=1,
        digest=bytes(32),
        salt=prober.id.ljust(32, b"\0"),
        proof=vrf.prove(prober.seed, ticket),
    )


async def commit_score(ledger: LedgerClient, prober: Identity, score: Mapping[str, Any]) -> None:
    commitment = transactions.score_commitment(CHAIN_ID, prober.public_key, score)
    data = transactions.commit(epoch=score["epoch"], node=score["node"], commitment=commitment)
    await ledger.send(prober, COMMIT, data)

"""One real validator: CometBFT, `ps-node` and clients of its RPC."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from abci_app.core.codes import Code
from planetserve import transactions
from planetserve.errors import TransactionRejected
from planetserve.keys import Identity, write_identity
from planetserve.ledger import LedgerClient
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED
from planetserve.rpc import Rpc
from planetserve.statekeys import result_key
from planetserve.transactions import ENDORSE, REGISTER, REVEAL, UPDATE, sign_transaction
from tests.network.validators import (
    CHAIN_ID,
    MODEL_NAME,
    Chain,
    Validator,
    admit,
    broadcast,
    commit_score,
    fresh_epoch,
    gone,
    person,
    registration,
    run,
    running_chain,
    score_of,
    until_height,
    wait_until_gone,
)

VERIFIER, MODEL, RELAY = person(1), person(2), person(3)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    parameters = {"epoch_blocks": 12, "commit_blocks": 5}
    with running_chain(tmp_path, 1, parameters, 0.15) as made:
        yield made


@pytest.fixture
def validator(chain: Chain) -> Validator:
    return chain.validators[0]


async def judge(ledger: LedgerClient, node: Identity, score_ppm: int) -> int:
    """Commit and reveal in a fresh epoch; returns its number once it is settled."""
    status = await fresh_epoch(ledger)
    score = score_of(VERIFIER, status, node, score_ppm)
    await commit_score(ledger, VERIFIER, score)
    await until_height(ledger, status.commit_end)
    await ledger.send(VERIFIER, REVEAL, score)
    await until_height(ledger, status.epoch_end)
    return status.epoch


async def test_a_node_is_admitted_scored_and_distrusted(chain: Chain, tmp_path: Path) -> None:
    async with LedgerClient(chain.network) as ledger:
        await admit(ledger, MODEL, "model-a", "model")
        await admit(ledger, RELAY, "relay-a", "relay")
        routes = await ledger.routes()
        assert [node.name for node in routes.relays()] == ["relay-a"]
        waiting = routes.find(MODEL.id)
        assert waiting is not None
        assert (waiting.status, routes.model_nodes()) == (CANDIDATE, [])
        epochs = [await judge(ledger, MODEL, 900_000)]
        assert [node.name for node in (await ledger.routes()).model_nodes(MODEL_NAME)] == [
            "model-a"
        ]
        for _ in range(3):
            epochs.append(await judge(ledger, MODEL, 100_000))
        routes = await ledger.routes()
        found = routes.find(MODEL.id)
        assert found is not None
        assert (found.status, routes.model_nodes()) == (UNTRUSTED, [])
        results = await ledger.read([result_key(epoch, MODEL.id) for epoch in epochs])
        credits = [result["credit_ppm"] for result in results.records.values()]
        assert credits == [900_000, 100_000, 100_000, 100_000]

    listed = json.loads(chain.ledger("nodes", "--json").stdout)
    nodes = {node["name"]: node for node in listed["nodes"]}
    assert set(nodes) == {"verifier-1", "model-a", "relay-a"}
    assert nodes["model-a"]["status"] == UNTRUSTED
    assert nodes["relay-a"]["reputation_ppm"] is None
    assert nodes["verifier-1"]["roles"] == ["prober", "verifier"]
    assert {
        *["id", "name", "roles", "status", "reputation_ppm", "credential_expires", "endpoints"]
    } <= set(nodes["relay-a"])

    shown = json.loads(chain.ledger("reputation", "model-a", "--json").stdout)
    assert [item["credit_ppm"] for item in shown["history"]] == credits
    settled = json.loads(chain.ledger("epoch", str(epochs[-1]), "--json").stdout)
    assert (settled["epoch"], settled["reveals"]) == (epochs[-1], 1)
    for command in (["status"], ["nodes"], ["reputation", "model-a"], ["epoch", str(epochs[-1])]):
        result = chain.ledger(*command)
        assert (result.returncode, result.stderr) == (0, "")
        assert "verified at height" in result.stdout
    prefix = MODEL.id.hex()[:8]
    assert "model-a" in chain.ledger("reputation", prefix).stdout
    missing = chain.ledger("reputation", "nobody")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no node is called 'nobody'")

    key = tmp_path / "verifier.key"
    write_identity(key, VERIFIER)
    options = ["relay-a", "--role", "relay", "--key", str(key)]
    assert chain.ledger("revoke", *options).returncode == 0
    refused = chain.ledger("revoke", *options)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"code {int(Code.NO_CREDENTIAL)}" in refused.stderr
    assert chain.ledger("endorse", *options).returncode == 0
    async with LedgerClient(chain.network) as ledger:
        found = (await ledger.routes()).find(RELAY.id)
        assert found is not None
        assert found.status == TRUSTED


async def test_bad_transactions_get_their_codes_and_the_node_goes_on(
    chain: Chain, validator: Validator
) -> None:
    async def code_of(raw: bytes) -> int:
        code, log = await broadcast(validator, raw)
        assert log
        return code

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
    async with LedgerClient(chain.network) as ledger:
        with pytest.raises(TransactionRejected) as refusal:
            await ledger.send(
                RELAY, ENDORSE, transactions.endorse(node=MODEL.id, role="relay", expires=9_999)
            )
        assert refusal.value.code == Code.NOT_A_VERIFIER
        await admit(ledger, RELAY, "relay-a", "relay")
        heights = await asyncio.gather(
            *(
                ledger.send(RELAY, UPDATE, registration(RELAY, f"relay-{n}", "relay"))
                for n in range(5)
            )
        )
        assert max(heights) - min(heights) <= 3, "one key's transactions share blocks"
        found = (await ledger.routes()).find(RELAY.id)
        assert found is not None
        assert (found.status, found.name) == (TRUSTED, "relay-4")
    validator.wait_above(validator.height)


async def test_queries_that_nobody_answers_are_refused_with_a_code(validator: Validator) -> None:
    rpc = Rpc([validator.address])
    for path, code in (
        ("/nothing", Code.UNKNOWN_PATH),
        ("/state", Code.BAD_ARGUMENT),
        ("/store/nodes/key", Code.BAD_ARGUMENT),
        ("/roots/1000000000", Code.BAD_ARGUMENT),
    ):
        answer = await rpc.call("abci_query", path=path, data="", height="0", prove=False)
        assert (answer["response"]["code"], answer["response"]["codespace"]) == (
            code,
            "planetserve",
        )
    await rpc.close()


async def test_killed_at_once_it_continues_from_the_same_state(
    chain: Chain, validator: Validator
) -> None:
    async with LedgerClient(chain.network) as ledger:
        await ledger.send(RELAY, REGISTER, registration(RELAY, "relay-a", "relay"))
        for number in range(3):
            health = validator.wait_above(2 + 2 * number)
            assert validator.process is not None
            os.kill(health["cometbft_pid"], signal.SIGKILL)
            validator.process.kill()
            validator.process.wait(10)
            wait_until_gone(health["cometbft_pid"])
            before = validator.inspect()
            assert before["height"] >= health["height"]
            validator.start()
            status = validator.wait_above(before["height"] + 1)
            rpc = Rpc([validator.address])
            # The header after a height carries that height's app hash.
            block = await rpc.call("block", height=str(before["height"] + 1))
            await rpc.close()
            assert block["block"]["header"]["app_hash"].lower() == before["app_hash"]
            assert status["height"] > before["height"]
        assert [node.id for node in await ledger.waiting()] == [RELAY.id]
        await ledger.send(RELAY, UPDATE, registration(RELAY, "relay-b", "relay"))


def test_cometbft_does_not_outlive_ps_node(validator: Validator) -> None:
    health = validator.wait_above(1)
    assert validator.process is not None
    validator.process.kill()
    validator.process.wait(10)
    wait_until_gone(health["cometbft_pid"])


def test_ps_node_does_not_outlive_cometbft(validator: Validator) -> None:
    health = validator.wait_above(1)
    os.kill(health["cometbft_pid"], signal.SIGKILL)
    assert validator.wait_end() == 1
    assert "error: CometBFT ended by itself" in validator.output()


def test_sigterm_ends_both(validator: Validator) -> None:
    health = validator.wait_above(1)
    assert validator.stop() == 0
    assert gone(health["cometbft_pid"])


def test_a_home_of_another_chain_is_refused(validator: Validator) -> None:
    validator.wait_above(1)
    validator.stop()
    genesis = validator.home / "config" / "genesis.json"
    genesis.write_text(genesis.read_text().replace(CHAIN_ID, "another"))
    result = run("ps-node", "run", "--home", str(validator.home))
    assert result.returncode == 2
    assert "error: the ledger's database" in result.stderr
    assert "belongs to the chain 'network-test', not to 'another'" in result.stderr
    assert "Traceback" not in result.stderr

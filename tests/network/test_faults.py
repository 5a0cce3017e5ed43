"""What a network does when a part of it is killed."""

from __future__ import annotations

import json
import os
import signal
from typing import Any
from urllib.request import urlopen

from planetserve import AsyncClient
from tests.network.localnetwork import LocalNetwork

LONG_QUESTION = "Write a long story about a lighthouse and the sea."


def validator_health(localnet: LocalNetwork, name: str) -> dict[str, Any]:
    address = localnet.process(name)["addresses"]["http"]
    with urlopen(f"http://{address}/health", timeout=10) as answer:
        report: dict[str, Any] = json.load(answer)
    return report


def app_hash_at(localnet: LocalNetwork, name: str, height: int) -> str:
    """The hash of the state before the block at `height`, as this validator has it."""
    address = localnet.process(name)["addresses"]["rpc"]
    with urlopen(f"http://{address}/block?height={height}", timeout=10) as answer:
        return str(json.load(answer)["result"]["block"]["header"]["app_hash"])


def test_an_answer_outlives_a_relay(localnet: LocalNetwork) -> None:
    # Four paths of three disjoint relays: with twelve relays, each carries a part of the answer.
    victim = localnet.process("relay-5")["pid"]
    asking = localnet.popen("ps-client", "ask", LONG_QUESTION, "--max-tokens", "400")
    assert asking.stdout is not None
    beginning = asking.stdout.read(20)
    os.kill(victim, signal.SIGKILL)
    in_mid_answer = asking.poll() is None
    rest, errors = asking.communicate(timeout=120)
    assert asking.returncode == 0, errors
    assert in_mid_answer
    assert len(beginning + rest) > 100
    localnet.start("relay-5")


async def test_a_killed_model_node_is_asked_no_more(localnet: LocalNetwork) -> None:
    localnet.kill("model-1")
    killed = localnet.nodes()["model-1"]["id"]
    async with AsyncClient(localnet.network_file) as client:
        for _ in range(2):  # a client that wants just this node finds another
            answer = await client.ask("What is 2 + 2?", max_tokens=16, prefer=bytes.fromhex(killed))
            assert answer.node_id.hex() != killed
    localnet.start("model-1")


def test_the_chain_goes_on_without_a_validator_which_catches_up(localnet: LocalNetwork) -> None:
    localnet.kill("validator-4")
    height = validator_health(localnet, "validator-1")["height"]
    localnet.wait(
        lambda: validator_health(localnet, "validator-1")["height"] >= height + 5, "blocks", 60.0
    )
    localnet.start("validator-4")
    localnet.wait(
        lambda: validator_health(localnet, "validator-4")["height"] > height + 5, "catch-up", 60.0
    )
    common = height + 5
    assert app_hash_at(localnet, "validator-4", common) == app_hash_at(
        localnet, "validator-1", common
    )


def test_readers_go_to_the_next_validator(localnet: LocalNetwork) -> None:
    localnet.kill("validator-1")
    assert len(localnet.nodes()) == 20
    answer = localnet.read_json("ps-client", "ask", "What is 2 + 2?", "--max-tokens", "16")
    assert answer["text"]
    localnet.start("validator-1")
    localnet.wait_ready()

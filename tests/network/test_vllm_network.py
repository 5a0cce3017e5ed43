"""A local network with a model node on a real vLLM; `make test-vllm` runs this."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.localnetwork import LocalNetwork, free_base_port, processes_naming

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

START_TIMEOUT_S = 660.0
QUESTIONS = 10


@pytest.fixture
def network(tmp_path: Path) -> Iterator[LocalNetwork]:
    started = LocalNetwork(tmp_path / ".localnet", free_base_port(), ["--engine", "vllm"])
    yield started
    started.down()


def answered_by(network: LocalNetwork) -> str:
    answer = network.read_json("ps-client", "ask", "What is the capital of France?")
    assert "Paris" in answer["text"]
    name: str = answer["node"]
    return name


def test_vllm_answers_and_goes_with_its_node(network: LocalNetwork) -> None:
    network.up(START_TIMEOUT_S)
    assert "model-1" in {answered_by(network) for _ in range(QUESTIONS)}
    # All of them work in the folder that the network was started in.
    place = str(network.folder.parent)
    before = set(processes_naming(place))
    network.kill("model-1")
    network.wait(lambda: len(before - set(processes_naming(place))) >= 4, "vLLM to end", 30.0)
    assert answered_by(network) == "model-2"
    network.down()
    assert processes_naming(place) == []

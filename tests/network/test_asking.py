"""Questions and answers through the whole network, from the command and from Python."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from planetserve import AsyncClient, Client
from planetserve.errors import AnswerCutShort, NetworkNotFound, NotEnoughRoutes
from planetserve.keys import read_identity
from planetserve.network import Network, load_network
from tests.network.localnetwork import LocalNetwork, free_base_port

QUESTION = "What is the capital of France?"
LONG_QUESTION = "Write a long story about a lighthouse and the sea."


def test_an_answer_is_streamed(localnet: LocalNetwork) -> None:
    asking = localnet.popen("ps-client", "ask", LONG_QUESTION, "--max-tokens", "200")
    assert asking.stdout is not None
    first = asking.stdout.read(1)
    assert first
    assert asking.poll() is None  # there is an answer, and it is not over
    rest, errors = asking.communicate(timeout=120)
    assert (asking.returncode, errors) == (0, "")
    assert len(rest) > 100


def test_verbose_shows_four_disjoint_paths_of_three_relays(localnet: LocalNetwork) -> None:
    done = localnet.run("ps-client", "ask", QUESTION, "--verbose", "--max-tokens", "16")
    assert done.returncode == 0, done.stderr
    paths = [line.split(maxsplit=2)[2] for line in done.stderr.splitlines() if "path " in line]
    relays = [name for path in paths for name in path.split(" > ")]
    assert len(paths) == 4
    assert len(set(relays)) == len(relays) == 12
    assert set(relays) == {f"relay-{number}" for number in range(1, 13)}
    for expected in ("route set", "answered by model-", "signature verified", "first token"):
        assert expected in done.stderr


def test_json_has_the_form_that_programs_rely_on(localnet: LocalNetwork) -> None:
    answer = localnet.read_json("ps-client", "ask", QUESTION, "--max-tokens", "16")
    assert {"text", "model", "node", "usage", "first_token_s", "total_s"} < set(answer)
    assert {"route_height", "route_hash", "paths"} < set(answer)
    assert 0 < answer["first_token_s"] <= answer["total_s"]
    assert answer["usage"]["completion_tokens"] <= 16


def test_the_synchronous_client(localnet: LocalNetwork) -> None:
    with Client(localnet.network_file) as client:
        answer = client.ask(QUESTION, max_tokens=12, temperature=0)
        assert answer.text
        stream = client.stream(QUESTION, max_tokens=12, temperature=0)
        assert "".join(stream) == stream.answer.text
        partial = iter(client.stream(LONG_QUESTION, max_tokens=200))
        next(partial)
        partial.close()  # type: ignore[attr-defined]
        assert client.ask("And now?", max_tokens=4).usage.completion_tokens <= 4
        with client.conversation() as conversation:
            first = conversation.ask("My name is Ada.", max_tokens=12)
            second = conversation.ask("What is my name?", max_tokens=12)
        assert [turn["role"] for turn in conversation.turns[1:]] == 2 * ["user", "assistant"]
        assert second.node == first.node


def test_chat_asks_line_by_line_and_relays_meanwhile(
    localnet: LocalNetwork, tmp_path: Path
) -> None:
    key = tmp_path / "relay.key"
    chat = localnet.popen(
        "ps-client",
        *("chat", "--max-tokens", "12", "--verbose", "--cover"),
        *("--bind", f"127.0.0.1:{free_base_port()}", "--key", str(key)),
        talks=True,
    )
    assert chat.stdin is not None
    assert chat.stdout is not None
    chat.stdin.write("My name is Ada.\n\n")
    chat.stdin.flush()
    assert chat.stdout.readline()
    name = f"relay-{read_identity(key).id.hex()[:8]}"
    # A relay that is retired before it is endorsed would be endorsed afterwards, and stay.
    deadline_s = time.monotonic() + 120
    while localnet.nodes().get(name, {}).get("status") != "trusted":
        assert time.monotonic() < deadline_s, "the client's relay is not endorsed"
    output, errors = chat.communicate("What is my name?\n", timeout=120)
    assert chat.returncode == 0, errors
    assert output.strip()
    assert errors.count("signature verified") == 2
    assert localnet.run("ps-ledger", "retire", "--key", str(key)).returncode == 0
    assert name not in localnet.nodes()


async def test_the_asynchronous_client_keeps_a_conversation(localnet: LocalNetwork) -> None:
    async with AsyncClient(localnet.network_file) as client:
        first = await client.ask("My name is Ada. Say hello.", max_tokens=20, temperature=0)
        turns = [
            {"role": "user", "content": "My name is Ada. Say hello."},
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "What is my name?"},
        ]
        second = await client.ask(turns, max_tokens=20, temperature=0, prefer=first.node_id)
        assert second.node == first.node


async def test_a_node_asked_by_name_answers_itself(localnet: LocalNetwork) -> None:
    node = bytes.fromhex(localnet.nodes()["model-2"]["id"])
    async with AsyncClient(localnet.network_file) as client:
        answer = await client.ask(QUESTION, node=node, max_tokens=8)
    assert answer.node == "model-2"


def test_a_model_that_nobody_serves_is_said(localnet: LocalNetwork) -> None:
    done = localnet.run("ps-client", "ask", QUESTION, "--model", "gpt-17")
    assert done.returncode == 3
    assert "no trusted node serves gpt-17" in done.stderr
    assert "smollm2-135m-instruct" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameters_that_no_node_takes_are_refused(localnet: LocalNetwork) -> None:
    done = localnet.run("ps-client", "ask", QUESTION, "--temperature", "9")
    assert done.returncode != 0
    assert "temperature must be a number from 0 to 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_dead_rpc_server_is_passed_over(localnet: LocalNetwork, tmp_path: Path) -> None:
    known = load_network(localnet.network_file)
    dead = replace(known, rpc=("http://127.0.0.1:9", *known.rpc))
    path = tmp_path / "network.toml"
    path.write_text(dead.to_toml())
    with Client(path) as client:
        assert client.ask(QUESTION, max_tokens=4).text


def test_without_a_network_the_command_says_what_to_do(tmp_path: Path) -> None:
    network = LocalNetwork(tmp_path / ".localnet", 1)
    environment_names_none = os.environ.get("PLANETSERVE_NETWORK") is None
    assert environment_names_none
    done = network.run("ps-client", "ask", QUESTION)
    assert done.returncode == 3
    assert "looked for .localnet/network.toml" in done.stderr
    assert "make localnet" in done.stderr
    assert "Traceback" not in done.stderr


def test_servers_that_are_all_down_are_named(tmp_path: Path) -> None:
    folder = tmp_path / ".localnet"
    folder.mkdir()
    down = Network("chain", "00" * 32, ("http://127.0.0.1:9", "http://127.0.0.1:10"), "tiny")
    (folder / "network.toml").write_text(down.to_toml())
    done = LocalNetwork(folder, 1).run("ps-client", "ask", QUESTION)
    assert done.returncode == 3
    assert "http://127.0.0.1:9" in done.stderr
    assert "http://127.0.0.1:10" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(NetworkNotFound), Client(folder / "network.toml"):
        pass


async def test_an_unknown_node_is_said(localnet: LocalNetwork) -> None:
    async with AsyncClient(localnet.network_file) as client:
        with pytest.raises(NotEnoughRoutes, match="lists no model node"):
            await client.ask(QUESTION, node=bytes(20))


def test_an_answer_cut_short_says_so(localnet: LocalNetwork) -> None:
    asking = localnet.popen("ps-client", "ask", LONG_QUESTION, "--max-tokens", "1000")
    assert asking.stdout is not None
    assert asking.stdout.read(1)
    nodes = ("model-1", "model-2", "model-3", "model-4")
    for name in nodes:
        localnet.kill(name)
    _, errors = asking.communicate(timeout=60)
    assert asking.returncode == AnswerCutShort.exit_code == 5
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    failed = localnet.run("ps-client", "ask", QUESTION, "--json")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    for name in nodes:
        assert localnet.run("ps-localnet", "start", name).returncode == 0
    for name in nodes:
        localnet.wait_healthy(name)
    localnet.wait_ready()
    assert json.loads(localnet.run("ps-client", "ask", QUESTION, "--json").stdout)["text"]

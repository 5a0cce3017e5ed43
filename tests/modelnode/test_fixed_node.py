"""Nodes of a group that a file names, over real ZeroMQ and HTTP, and nothing else."""

import asyncio
from pathlib import Path

import httpx2
from typer.testing import CliRunner

from modelnode.cli import app
from modelnode.engines.protocol import Engine
from modelnode.fixed_node import FixedNode
from modelnode.group_file import FILE_NAME, make_group, read_group_file
from planetserve.errors import ConfigurationError, UsageError
from planetserve.keys import read_identity
from tests.modelnode.scripted_engine import ScriptedEngine
from tests.modelnode.test_group import free_ports, until

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


async def test_each_member_s_http_serves_for_the_whole_group(tmp_path: Path) -> None:
    ports = free_ports(6)
    keys = make_group(tmp_path, "m", 3, 20_000)
    path = tmp_path / FILE_NAME
    text = path.read_text()
    for number in range(3):
        text = text.replace(f":{20_000 + number}", f":{ports[number]}")
    path.write_text(text)
    file = read_group_file(path)
    engines = [ScriptedEngine([f"node {number}"], gated_at=0, capacity=1) for number in range(3)]
    stop = asyncio.Event()

    async def live(number: int) -> None:
        async def load() -> Engine:
            return engines[number]

        node = FixedNode(file, read_identity(keys[number]), f"127.0.0.1:{ports[3 + number]}")
        await node.run(load, stop)

    living = [asyncio.create_task(live(number)) for number in range(3)]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports[3]}", trust_env=False) as http:
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await http.get("/health")
                except httpx2.HTTPError:
                    answer = None
                if answer is not None and answer.json()["healthy"]:
                    break
                await asyncio.sleep(0.05)
            assert answer.json()["group"] == 3
            # One request waits at each engine before the next is sent, so that all are used.
            asking = []
            for _ in range(3):
                asking.append(asyncio.create_task(http.post("/v1/chat/completions", json=ASKED)))
                await until(lambda: sum(engine.started for engine in engines) == len(asking))
            for engine in engines:
                engine.gate.set()
            answers = await asyncio.gather(*asking)
    texts = {answer.json()["choices"][0]["message"]["content"] for answer in answers}
    assert texts == {"node 0", "node 1", "node 2"}
    stop.set()
    await asyncio.wait_for(asyncio.gather(*living), 10)


def test_the_command_says_what_does_not_go_together(tmp_path: Path) -> None:
    runner = CliRunner()
    made = runner.invoke(
        app, ["make-group", "--folder", str(tmp_path), "--model", "m", "--members", "2"]
    )
    assert made.exit_code == 0
    first, second = made.stdout.splitlines()
    assert "--http 127.0.0.1:27102" in first
    assert "node-2.key" in second
    arguments = first.split()[1:]
    wrong = [
        ([*arguments, "--overlay", "127.0.0.1:1"], UsageError),
        ([*arguments, "--model", "other"], UsageError),
        ([*arguments, "--cheat", "random"], UsageError),
        (["run", "--group", "127.0.0.1:1"], UsageError),
        (["run", "--group", str(tmp_path / "none")], ConfigurationError),
    ]
    for words, error in wrong:
        assert isinstance(runner.invoke(app, words).exception, error), words

"""The process of a vLLM server, with a program in its place that does as tests need."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from modelnode.engines import vllm, vllm_process
from modelnode.engines.private_folder import PREFIX
from modelnode.engines.protocol import Piece
from modelnode.engines.vllm import VllmEngine, start_vllm
from modelnode.engines.vllm_place import find_python
from modelnode.engines.vllm_process import (
    VllmSettings,
    check_options,
    next_pause_s,
    open_log,
)
from planetserve.chat import ChatRequest, Message
from planetserve.errors import ConfigurationError, EngineError, UsageError

ROOT = Path(__file__).parents[2]
STARTER = """
import asyncio, sys
from pathlib import Path
from modelnode.engines.vllm import start_vllm
from tests.modelnode.test_vllm_process import settings_of

async def main():
    engine = await start_vllm(settings_of(Path(sys.argv[1])), 4)
    print(engine._process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def settings_of(folder: Path, model: str = "any") -> VllmSettings:
    return VllmSettings(Path(sys.executable), model, "upstream", folder / "vllm.log", 4, 512)


@pytest.fixture(autouse=True)
def _in_place_of_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent / 'fake_vllm'}:{ROOT}")
    monkeypatch.setattr(vllm_process, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(vllm, "POLL_INTERVAL_S", 0.05)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[VllmEngine]:
    started = await start_vllm(settings_of(tmp_path), 4)
    yield started
    await started.close()


def asking(text: str) -> ChatRequest:
    return ChatRequest("m", (Message("user", text),), 8, 0.0)


def shared_memory() -> set[Path]:
    return set(Path("/dev/shm").glob("ps-fake-*"))


async def answer_of(engine: VllmEngine, text: str = "hi") -> list[Piece]:
    return [piece async for piece in engine.stream(asking(text))]


def group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


def leader_of(engine: VllmEngine) -> int:
    assert engine._process is not None
    assert engine._process.pid is not None
    return engine._process.pid


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*"))


async def test_it_answers_and_leaves_nothing(tmp_path: Path) -> None:
    before = folders()
    engine = await start_vllm(settings_of(tmp_path), 4)
    stats = engine.stats()
    assert (stats.serving, stats.context_tokens) == (True, 512)
    assert (stats.kv_block_tokens, stats.kv_capacity_tokens) == (32, 3200)
    pieces = await answer_of(engine)
    leader = leader_of(engine)
    assert Path(f"/dev/shm/ps-fake-{int(pieces[0].text)}") in shared_memory()
    (folder,) = folders() - before
    assert folder.stat().st_mode & 0o777 == 0o700
    assert group_lives(leader)
    await engine.close()
    await until(lambda: not group_lives(leader))
    assert folders() == before
    assert shared_memory() == set()
    with pytest.raises(EngineError):
        await answer_of(engine)


async def test_what_others_send_to_the_server_counts_as_its_load(engine: VllmEngine) -> None:
    """The server says that three requests run and two wait, and none of them is ours."""
    await until(lambda: engine.stats().running == 3)
    assert (engine.stats().waiting, engine.stats().capacity) == (2, 4)
    assert REGISTRY.get_sample_value("planetserve_model_engine_starts") == 1


async def test_a_death_in_mid_answer_is_one_clear_error_and_it_comes_back(
    engine: VllmEngine,
) -> None:
    first, (memory,) = leader_of(engine), shared_memory()
    with pytest.raises(EngineError) as caught:
        await answer_of(engine, "die")
    assert caught.value.code == "engine_failed"
    assert engine.stats().running == 0
    await until(lambda: not engine.stats().serving)
    with pytest.raises(EngineError, match="started again"):
        await answer_of(engine)
    await until(lambda: engine.stats().serving)
    assert (await answer_of(engine))[-1].finish_reason == "stop"
    assert leader_of(engine) != first
    await until(lambda: not group_lives(first))
    assert memory not in shared_memory()


async def test_a_killed_guard_takes_the_server_with_it(engine: VllmEngine) -> None:
    first, (memory,) = leader_of(engine), shared_memory()
    os.kill(first, signal.SIGKILL)
    await until(lambda: not group_lives(first))
    assert memory not in shared_memory()
    await until(lambda: engine.stats().serving and leader_of(engine) != first)


async def test_a_killed_node_takes_the_server_with_it(tmp_path: Path) -> None:
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTER, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert node.stdout is not None
    leader = int(await asyncio.wait_for(node.stdout.readline(), 30))
    assert group_lives(leader)
    began = shared_memory()
    node.kill()
    await node.wait()
    await until(lambda: not group_lives(leader))
    assert (len(began), shared_memory()) == (1, set())


async def test_what_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    before = folders()
    with pytest.raises(ConfigurationError, match="no such model"):
        await start_vllm(settings_of(tmp_path, "broken"), 4)
    assert folders() == before


async def test_stopping_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    before = folders()
    starting = asyncio.create_task(start_vllm(settings_of(tmp_path), 4))
    await until(lambda: bool(folders() - before))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert folders() == before


def test_pauses_grow_up_to_a_minute_and_begin_anew_after_a_long_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vllm_process, "FIRST_PAUSE_S", 1.0)
    pauses = [1.0]
    for _ in range(8):
        pauses.append(next_pause_s(pauses[-1], 0.0))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert next_pause_s(60.0, 61.0) == 1.0


def test_the_command_line(tmp_path: Path) -> None:
    settings = VllmSettings(
        Path("/p"), "org/m", "m", tmp_path, 8, 4096, ("--tensor-parallel-size", "2")
    )
    line = settings.command(Path("/run"))
    assert line[:7] == [
        "/p",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        "org/m",
        "--served-model-name",
        "m",
    ]
    assert line[-2:] == ["--tensor-parallel-size", "2"]
    assert line[line.index("--uds") + 1] == "/run/http.sock"
    assert not any("key" in word for word in line)


@pytest.mark.parametrize("option", ["--port", "--uds=/x", "--api-key=k", "--model"])
def test_options_that_are_ours_are_refused(option: str) -> None:
    check_options(["--dtype", "bfloat16", "--tensor-parallel-size=2"])
    with pytest.raises(UsageError):
        check_options(["--dtype", "bfloat16", option])


def test_an_interpreter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert find_python(Path(sys.executable)) == Path(sys.executable)
    with pytest.raises(ConfigurationError):
        find_python(tmp_path / "python")


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_process, "MAX_LOG_BYTES", 4)
    path = tmp_path / "logs" / "vllm.log"
    for text in (b"first", b"second", b"third"):
        with open_log(path) as log:
            log.write(text)
    assert path.read_bytes() == b"third"
    assert path.with_suffix(".old.log").read_bytes() == b"second"

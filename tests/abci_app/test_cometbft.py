"""What `ps-node` hears of CometBFT."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from abci_app.cometbft import MAX_LINE_BYTES, compact_databases, relay_output
from planetserve.errors import ConfigurationError


async def relayed(script: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script), stdout=subprocess.PIPE
    )
    found: list[str] = []
    await relay_output(process, found.append)
    assert await process.wait() == 0
    return found


async def test_output_is_passed_on_and_failures_are_heard(
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = '{"level":"error","_msg":"State sync failed","err":"state sync aborted"}'
    assert await relayed(f"print('one'); print('{line}'); print('two')") == [line]
    assert capfd.readouterr().out == f"one\n{line}\ntwo\n"


async def test_a_line_in_pieces_or_without_end(capfd: pytest.CaptureFixture[str]) -> None:
    write = "import sys, time; w = lambda t: (sys.stdout.write(t), sys.stdout.flush())"
    script = f"{write}; w('State sy'); time.sleep(0.2); w('nc failed\\n')"
    assert await relayed(script) == ["State sync failed"]
    length = 10 * MAX_LINE_BYTES
    assert await relayed(f"{write}; w('x' * {length}); w(' State sync failed')") == []
    assert len(capfd.readouterr().out) > length


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", ""),
        ('echo \'{"_msg":"failed to compact cometbft db"}\'', "failed to compact"),
        ("echo no such command >&2; exit 1", "no such command"),
    ],
)
def test_a_compaction_that_fails_is_heard(tmp_path: Path, script: str, reason: str) -> None:
    binary = tmp_path / "cometbft"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    if not reason:
        compact_databases(binary, tmp_path)
        return
    with pytest.raises(ConfigurationError, match=reason):
        compact_databases(binary, tmp_path)

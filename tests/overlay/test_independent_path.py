"""docs/protocol.md suffices: a script with none of our code builds a path through our relays."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path

import msgpack
import pytest

from overlay.server import IncomingRequest
from tests.overlay.conftest import MakeOverlay

SCRIPT = Path(__file__).with_name("independent_path.py")


async def echo(request: IncomingRequest) -> None:
    await request.finish()


@pytest.mark.parametrize("hops", [1, 3, 4])
async def test_a_path_of_the_script(make_overlay: MakeOverlay, hops: int) -> None:
    overlay = await make_overlay(echo, 4)
    relays = [
        [node.id, node.onion_key, node.transport_key, node.endpoints["overlay"]]
        for node in overlay.routes.relays()[:hops]
    ]
    script = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(SCRIPT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await script.communicate(msgpack.packb(relays))
    assert (said.decode().split("\n")[:2], complained) == (
        ["established True", "pong True"],
        b"",
    )


def test_the_script_imports_nothing_of_ours_and_is_short() -> None:
    text = SCRIPT.read_text()
    tree = ast.parse(text)
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    allowed = {"cryptography", "hashlib", "msgpack", "os", "sys", "time", "zmq"}
    assert imported <= allowed
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) - len(imports) <= 55

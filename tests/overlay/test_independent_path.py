"""docs/protocol.md suffices: a script with none of our code builds a path through our relays."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from overlay.server import IncomingRequest
from tests.overlay.conftest import MakeOverlay
from tests.overlay.scripts import hop, imported, run_script

SCRIPT = Path(__file__).with_name("independent_path.py")


async def echo(request: IncomingRequest) -> None:
    await request.finish()


@pytest.mark.parametrize("hops", [1, 3, 4])
async def test_a_path_of_the_script(make_overlay: MakeOverlay, hops: int) -> None:
    overlay = await make_overlay(echo, 4)
    relays = [hop(node) for node in overlay.routes.relays()[:hops]]
    assert await run_script(SCRIPT, relays) == ["established True", "pong True"]


def test_the_script_imports_nothing_of_ours_and_is_short() -> None:
    tree = ast.parse(SCRIPT.read_text())
    assert imported(tree) <= {"cryptography", "hashlib", "msgpack", "os", "sys", "time", "zmq"}
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(statements) - len(imports) <= 55

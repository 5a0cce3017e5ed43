"""Runs the scripts that were written from docs/protocol.md alone, and looks at what they use."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path

import msgpack

from planetserve.records import NodeRecord


def hop(node: NodeRecord) -> list[object]:
    """What a script is told of a relay."""
    return [node.id, node.onion_key, node.transport_key, node.endpoints["overlay"]]


async def run_script(script: Path, given: object) -> list[str]:
    """The lines that `script` prints for `given`, which it reads as msgpack, without complaint."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate(msgpack.packb(given))
    assert complained == b""
    return said.decode().splitlines()


def imported(tree: ast.Module) -> set[str]:
    """The packages that a module imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names

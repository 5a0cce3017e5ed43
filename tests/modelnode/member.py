"""A member of a fixed group as a process of its own, with a scripted engine.

python -m tests.modelnode.member FILE KEY HTTP WORD...
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from modelnode.engines.protocol import Engine
from modelnode.fixed_node import FixedNode
from modelnode.group_file import read_group_file
from planetserve.keys import read_identity
from tests.modelnode.scripted_engine import ScriptedEngine


async def main(file: str, key: str, http: str, *words: str) -> None:
    """The engine never gets past its second word."""

    async def load() -> Engine:
        return ScriptedEngine(words, gated_at=1)

    node = FixedNode(read_group_file(Path(file)), read_identity(Path(key)), http)
    await node.run(load, asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""docs/protocol.md suffices: a script with none of our code asks a question over our relays."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path

import msgpack

from overlay.server import IncomingRequest
from planetserve.messages import (
    Accepted,
    Delta,
    End,
    Usage,
    decode_payload,
    encode_event,
    parse_body,
    sign_reply,
    state_reply,
)
from tests.overlay.conftest import MakeOverlay, seeded_identity

SCRIPT = Path(__file__).with_name("independent_question.py")
MODEL_NODE = seeded_identity(200)
CHAIN = "planetserve-test"
QUESTION = "What do you say to this: Grüße?"


async def echo(request: IncomingRequest) -> None:
    """A model node that answers with the question, signed."""
    payload = decode_payload(request.payload)
    asked = parse_body(payload.body)
    text = asked.messages[-1].content
    usage = Usage(7, 9, 3)
    statement = state_reply(CHAIN, payload.body, text, "stop", asked.model, usage)
    signature = sign_reply(MODEL_NODE, statement)
    await request.write(encode_event(Accepted(MODEL_NODE.id)))
    await request.write(encode_event(Delta(text[:5])))
    await request.write(encode_event(Delta(text[5:])))
    await request.write(encode_event(End(MODEL_NODE.id, asked.model, "stop", usage, signature)))
    await request.finish()


async def test_a_question_of_the_script(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 9)
    relays = [
        [node.id, node.onion_key, node.transport_key, node.endpoints["overlay"]]
        for node in overlay.routes.relays()
    ]
    given = {
        "paths": [relays[:3], relays[3:6], relays[6:]],
        "target": [overlay.target.id, overlay.target.onion_key, overlay.target.key],
        "chain_id": CHAIN,
        "model": "tiny",
        "question": QUESTION,
    }
    script = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(SCRIPT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await script.communicate(msgpack.packb(given))
    assert complained == b""
    first, frames, answered = said.decode().splitlines()
    assert (first, answered) == ("asked", f"answered {QUESTION}")
    assert int(frames.removeprefix("frames ")) >= 4


def test_the_script_imports_nothing_of_ours() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    of_others = {"cryptography", "msgpack", "pyhpke", "zmq"}
    assert imported <= {"hashlib", "json", "os", "sys", "time", "typing"} | of_others

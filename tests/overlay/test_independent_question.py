"""docs/protocol.md suffices: a script with none of our code asks a question over our relays."""

from __future__ import annotations

import ast
from pathlib import Path

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
from tests.overlay.scripts import hop, imported, run_script

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
    relays = [hop(node) for node in overlay.routes.relays()]
    given = {
        "paths": [relays[:3], relays[3:6], relays[6:]],
        "target": [overlay.target.id, overlay.target.onion_key, overlay.target.key],
        "chain_id": CHAIN,
        "model": "tiny",
        "question": QUESTION,
    }
    first, frames, answered = await run_script(SCRIPT, given)
    assert (first, answered) == ("asked", f"answered {QUESTION}")
    assert int(frames.removeprefix("frames ")) >= 4


def test_the_script_imports_nothing_of_ours() -> None:
    of_others = {"cryptography", "msgpack", "pyhpke", "zmq"}
    of_python = {"hashlib", "json", "os", "sys", "time", "typing"}
    assert imported(ast.parse(SCRIPT.read_text())) <= of_python | of_others

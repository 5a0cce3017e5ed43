"""More than a node can take, and what makes no sense: each request is answered or told why not."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from modelnode import completions, dispatch
from modelnode.engines.admission import MAX_RETRY_AFTER_S, Admission
from modelnode.engines.protocol import Overloaded
from modelnode.http import HttpServer, create_application
from modelnode.incoming import answer
from overlay.server import IncomingRequest
from planetserve.errors import EngineError
from planetserve.messages import Accepted, End, Failed, ReplyParser, RequestPayload
from tests.modelnode.scripted_engine import ScriptedEngine
from tests.modelnode.test_group import BODY, Node, group_of, in_order, until

STREAMED = json.dumps(json.loads(BODY) | {"stream": True}).encode()


@asynccontextmanager
async def http_of(node: Node) -> AsyncIterator[int]:
    """The port of the node's HTTP."""
    application = create_application(node.dispatcher, lambda: {"healthy": True})
    http = HttpServer(application, "127.0.0.1:0")
    await http.start()
    try:
        yield http.port
    finally:
        await http.close()


async def send(port: int, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


async def ask(port: int, body: bytes) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of a whole answer."""
    reader, writer = await send(port, body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    content = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return int(head[0].split()[1]), headers, json.loads(content)


async def test_a_thousand_at_once_are_answered_or_refused_and_nothing_is_left() -> None:
    engines = [ScriptedEngine(capacity=4, max_waiting=8) for _ in range(2)]
    async with group_of(*engines) as nodes, http_of(nodes[0]) as port:
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(ask(port, BODY) for _ in range(1000)))
        statuses = Counter(status for status, _, _ in answers)
        assert set(statuses) == {200, 429}
        for status, headers, content in answers:
            if status == 200:
                assert content["choices"][0]["message"]["content"] == "one two three"
            else:
                assert content["error"]["type"] == "rate_limit_error"
                assert 1 <= int(headers["retry-after"]) <= MAX_RETRY_AFTER_S
        assert sum(engine.ended for engine in engines) == statuses[200]
        entry = nodes[0].dispatcher
        await until(lambda: not entry.running and not nodes[1].group.running)
        assert entry._held_bytes == 0
        assert all(entry._group.router.members.assigned(node.identity.id) == 0 for node in nodes)


async def test_bodies_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "MAX_HELD_BYTES", 3 * len(BODY))
    engine = ScriptedEngine(gated_at=0, capacity=9)
    async with group_of(engine) as (node,):
        asking = [asyncio.create_task(node.ask()) for _ in range(5)]
        await until(lambda: sum(task.done() for task in asking) == 2)
        engine.gate.set()
        lasts = [events[-1] for events in await asyncio.gather(*asking)]
        assert sum(isinstance(last, End) for last in lasts) == 3
        refused = [last for last in lasts if isinstance(last, Failed)]
        assert {(last.code, last.retry_after_s) for last in refused} == {("overloaded", 1)}
        assert isinstance((await node.ask())[-1], End)


async def test_bodies_that_come_in_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "MAX_READING_BYTES", 150_000)
    body = json.dumps(json.loads(BODY) | {"user": "x" * 100_000}).encode()
    async with group_of(ScriptedEngine()) as (node,), http_of(node) as port:
        # It holds what has come of it as long as the rest does not.
        _, slow = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        slow.write(head.encode() + b"\r\n" + body[:90_000])
        await asyncio.sleep(0.1)
        status, headers, _ = await ask(port, body)
        assert (status, headers["retry-after"]) == (429, "1")
        slow.close()
        await asyncio.sleep(0.1)
        assert (await ask(port, body))[0] == 200


async def test_a_slow_reader_holds_up_itself_alone() -> None:
    words = ["x" * 1000] * 100_000
    engine = ScriptedEngine(words)
    async with group_of(engine) as (node,), http_of(node) as port:
        _, writer = await send(port, STREAMED)
        await until(lambda: engine.said > 0)
        await asyncio.sleep(0.5)
        said = engine.said
        await asyncio.sleep(0.1)
        assert engine.said == said < 20_000, "the engine waits for the reader"
        engine.words = ["quick"]
        assert (await ask(port, BODY))[0] == 200
        writer.transport.abort()
        await until(lambda: engine.ended == 2)


async def test_a_reader_that_takes_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "READER_STALL_S", 0.2)
    engine = ScriptedEngine(["x" * 1000] * 100_000)
    async with group_of(engine) as (node,), http_of(node) as port:
        _, writer = await send(port, STREAMED)
        await until(lambda: engine.ended == 1)
        assert not node.dispatcher.running
        writer.transport.abort()


@pytest.mark.parametrize("body", [STREAMED, BODY])
async def test_a_client_that_leaves_stops_the_serving_node_within_a_token(body: bytes) -> None:
    serving = ScriptedEngine(["a ", "b ", "c "], gated_at=1)
    async with (
        group_of(ScriptedEngine(fails=EngineError("engine_failed", "x")), serving) as (
            entry,
            _,
        ),
        http_of(entry) as port,
    ):
        _, writer = await send(port, body)
        await serving.reached_gate.wait()
        writer.close()
        await until(lambda: serving.ended == 1)
        assert serving.said == 1


async def test_a_full_group_tells_the_shortest_of_its_nodes_waits() -> None:
    engines = [
        ScriptedEngine(fails=Overloaded(9, 30)),
        ScriptedEngine(fails=Overloaded(9, 7)),
        ScriptedEngine(fails=EngineError("engine_failed", "broken")),
    ]
    async with group_of(*engines) as nodes, http_of(nodes[0]) as port:
        status, headers, content = await ask(port, BODY)
        assert (status, headers["retry-after"]) == (429, "7")
        assert content["error"]["code"] == "overloaded"
        assert all(engine.ended == 1 for engine in engines)


def asked(**fields: Any) -> bytes:
    return json.dumps(json.loads(BODY) | fields).encode()


WRONG = [
    (b"", "bad_request", 400),
    (b"\xff\xfe{}", "bad_request", 400),
    (b"[" * 100_000, "bad_request", 400),
    (b"x" * (10 << 20), "bad_request", 400),
    (asked(messages=[{"role": "user", "content": "y" * (10 << 20)}]), "bad_request", 400),
    (asked(messages=[{"role": "user", "content": "\ud800"}]), "bad_request", 400),
    (asked(messages=[]), "bad_request", 400),
    (asked(model="other"), "unknown_model", 404),
    (asked(model=None), "bad_request", 400),
    (asked(temperature=2.5), "bad_request", 400),
    (asked(temperature="warm"), "bad_request", 400),
    (asked(top_p=-1), "bad_request", 400),
    (asked(max_tokens=0.5), "bad_request", 400),
    (asked(seed=-1), "bad_request", 400),
    (asked(stop=["a"] * 5), "bad_request", 400),
    (asked(n=2), "bad_request", 400),
    (asked(presence_penalty=3), "bad_request", 400),
    (asked(tools=[{}]), "bad_request", 400),
]
NAMES = {"unknown_model": "model_not_found", "context_length": "context_length_exceeded"}


async def overlay_answer(node: Node, payload: bytes) -> Failed:
    """The error that a request over the overlay is answered with."""
    said = bytearray()
    ended: list[bool] = []

    def finish() -> None:
        ended.append(True)
        incoming.sent()

    def write(data: bytes) -> bool:
        said.extend(data)
        return True

    incoming = IncomingRequest(payload, write, finish)
    await asyncio.wait_for(answer(node.dispatcher, incoming), 20)
    assert ended == [True]
    events = ReplyParser().feed(bytes(said))
    assert all(isinstance(event, Accepted) for event in events[:-1])
    failed = events[-1]
    assert isinstance(failed, Failed)
    return failed


async def test_what_makes_no_sense_is_a_typed_error_over_http_and_overlay() -> None:
    engine = ScriptedEngine()
    async with group_of(engine) as (node,), http_of(node) as port:
        for body, code, status in WRONG:
            found, _, content = await ask(port, body)
            assert (found, content["error"]["code"]) == (status, NAMES.get(code, code)), body[:80]
            assert len(content["error"]["message"]) < 300
            # What is larger than a payload does not come this far over the overlay.
            if len(body) < 200_000:
                failed = await overlay_answer(node, RequestPayload(body).encode())
                assert failed.code == code, body[:80]
        for payload in (b"", b"\xff" * 100, RequestPayload(bytes(300 << 10)).encode()):
            assert (await overlay_answer(node, payload)).code == "bad_request"
        assert engine.started == 0


async def test_a_prompt_beyond_the_context_is_told_and_not_tried_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    too_long = ScriptedEngine(fails=EngineError("context_length", "the prompt is too long"))
    other = ScriptedEngine()
    async with group_of(too_long, other) as nodes, http_of(nodes[0]) as port:
        monkeypatch.setattr(nodes[0].group, "choose", in_order(nodes))
        for body in (BODY, STREAMED):
            status, _, content = await ask(port, body)
            assert (status, content["error"]["code"]) == (400, "context_length_exceeded")
        failed = await overlay_answer(nodes[0], RequestPayload(BODY).encode())
        assert failed.code == "context_length"
        assert other.started == 0


async def test_waits_are_told_from_the_line_and_from_how_long_requests_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    admission = Admission(2, 3)
    assert (admission.hold_ms, admission.retry_after_s()) == (None, 1)
    for _ in range(50):
        await admission.enter()
        await admission.enter()
        now_s += 5.0
        admission.leave()
        admission.leave()
        now_s += 100.0
    assert admission.hold_ms == pytest.approx(5000, rel=0.06)
    await admission.enter()
    await admission.enter()
    waiting = [asyncio.create_task(admission.enter()) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await admission.enter()
    assert refused.value.retry_after_s == 10, "four before it, two at a time, five seconds each"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

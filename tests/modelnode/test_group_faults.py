"""Nodes of a group that die, hang, flood, stall or lie, over real ZeroMQ."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from modelnode import group_client, group_server
from modelnode.core.breaker import FAILURES_TO_OPEN
from modelnode.dispatch import Dispatcher
from modelnode.group import Group
from modelnode.group_file import FILE_NAME, FIXED_CHAIN_ID, make_group, read_group_file
from modelnode.group_messages import Ping, encode_message
from modelnode.group_server import MAX_SESSIONS_A_NODE
from modelnode.members import members_of_routes
from modelnode.metrics import GROUP_DROPPED
from modelnode.serving import Server
from planetserve.errors import EngineError
from planetserve.keys import read_identity
from planetserve.messages import Delta, End, Failed, verify_reply
from planetserve.records import UNTRUSTED
from tests.modelnode.scripted_engine import ScriptedEngine
from tests.modelnode.test_group import (
    BODY,
    GREEDY,
    Node,
    chosen,
    free_ports,
    group_of,
    node_of,
    routes_of,
    text_of,
    until,
)

NEW_REQUESTS_STOP_S = 2.0


def running_at(node: Node, other: Node) -> int:
    """What `node` takes to run at `other`."""
    member = node.group.router.members.get(other.identity.id)
    assert member is not None
    return member.running()


def dropped(cause: str) -> float:
    return float(GROUP_DROPPED.labels(cause)._value.get())


async def ended(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_process_that_is_killed_or_hangs_gets_no_new_request_within_two_seconds(
    tmp_path: Path, ending: signal.Signals
) -> None:
    ports = free_ports(3)
    keys = make_group(tmp_path, "m", 2, 20_000)
    path = tmp_path / FILE_NAME
    text = path.read_text()
    for number in range(2):
        text = text.replace(f":{20_000 + number}", f":{ports[number]}")
    path.write_text(text)
    file = read_group_file(path)
    identity, other = read_identity(keys[0]), file.members[1].node
    command = ["-m", "tests.modelnode.member", str(path), str(keys[1]), f"127.0.0.1:{ports[2]}"]
    async with AsyncExitStack() as stack:
        process = await asyncio.create_subprocess_exec(sys.executable, *command, "half ", "way")
        stack.push_async_callback(ended, process)
        server = Server(ScriptedEngine(["half ", "way"]), identity, FIXED_CHAIN_ID, "m")
        group = Group(identity, file.members[0].group, server)
        group.set_members(file.as_members())
        await group.start()
        stack.push_async_callback(group.close)
        await until(lambda: group.usable(other), within_s=60)
        rtt_ms = group.liveness.rtt_ms(other)
        assert rtt_ms is not None
        assert 0 < rtt_ms < 1000
        await until(lambda: chosen(group, other) == other)
        replies = Dispatcher(server, group).answer(GREEDY, other)
        assert await anext(replies) == Delta("half ")
        process.send_signal(ending)
        await asyncio.sleep(NEW_REQUESTS_STOP_S)
        assert chosen(group, other) == identity.id
        async with asyncio.timeout(10):
            rest = [event async for event in replies]
        assert text_of(rest) == "way"
        assert isinstance(rest[-1], End)
        assert verify_reply(identity.public_key, FIXED_CHAIN_ID, GREEDY, "half way", rest[-1])


async def test_an_untrusted_node_s_connections_push_out_nobody_else_s() -> None:
    async with group_of(ScriptedEngine(["a"]), ScriptedEngine(["b"])) as (a, b):
        flooder = node_of(77, free_ports(1)[0], ScriptedEngine())
        flooder.record = replace(flooder.record, status=UNTRUSTED)
        for node in (a, b):
            node.group.routes_changed(routes_of(a, b, flooder))
        with zmq.Context() as context, ExitStack() as stack:
            for _ in range(5 * MAX_SESSIONS_A_NODE):
                socket = context.socket(zmq.DEALER)
                stack.callback(socket.close, 0)
                socket.curve_secretkey = z85.encode(flooder.identity.transport_secret)
                socket.curve_publickey = z85.encode(flooder.identity.transport_public)
                socket.curve_serverkey = z85.encode(b.identity.transport_public)
                socket.connect(b.record.endpoints["group"])
                socket.send(encode_message(Ping(1)))
            sessions = b.group._server._sessions
            await until(lambda: len(sessions) == 1 + MAX_SESSIONS_A_NODE)
            await asyncio.sleep(0.3)
            assert len(sessions) == 1 + MAX_SESSIONS_A_NODE
            assert text_of(await a.ask(prefer=b.identity.id)) == "b"


async def test_a_reply_that_is_given_up_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_server, "STALL_TIMEOUT_S", 0.2)
    words = ["x" * 60_000] * 200
    monkeypatch.setattr("modelnode.serving.MAX_TEXT_BYTES", 1 << 30)
    monkeypatch.setattr("planetserve.messages.MAX_REPLY_BYTES", 1 << 30)
    engines = [ScriptedEngine(["own"]), ScriptedEngine(words)]
    async with group_of(*engines) as (a, b):
        replies = a.dispatcher.answer(BODY, b.identity.id)
        first = await anext(replies)
        await until(lambda: engines[1].ended == 1)
        async with asyncio.timeout(5):
            events = [first, *[event async for event in replies]]
        assert isinstance(events[-1], Failed)
        assert events[-1].code == "node_lost"


async def test_a_peer_that_stops_in_mid_answer_is_lost_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_client, "STALL_TIMEOUT_S", 0.3)
    stalling = ScriptedEngine(["half ", "way"], gated_at=1)
    async with group_of(ScriptedEngine(["half way"]), stalling) as (a, b):
        replies = a.dispatcher.answer(GREEDY, b.identity.id)
        assert text_of([event async for event in replies]) == "half way"
        await until(lambda: stalling.ended == 1)


async def test_an_address_that_is_none_stops_nothing() -> None:
    async with group_of(ScriptedEngine(["own"]), ScriptedEngine(["peer"])) as (a, b):
        broken = node_of(77, 1, ScriptedEngine())
        broken.record = replace(broken.record, endpoints={"group": "tcp://no address"})
        before = dropped("bad_address")
        a.group.set_members(members_of_routes(routes_of(a, b, broken), "m"))
        await until(lambda: dropped("bad_address") > before)
        assert chosen(a.group, broken.identity.id) == a.identity.id
        engine = b.engine
        engine.gated_at = 0
        asking = asyncio.create_task(b.ask(prefer=b.identity.id))
        await engine.reached_gate.wait()
        started_s = asyncio.get_running_loop().time()
        await until(lambda: running_at(a, b) == 1)
        assert asyncio.get_running_loop().time() - started_s < 0.9, "told as it changed"
        engine.gate.set()
        await asking
        await until(lambda: running_at(a, b) == 0)


async def test_a_node_that_fails_is_spared_and_tried_again() -> None:
    broken = ScriptedEngine(fails=EngineError("engine_failed", "no memory"))
    async with group_of(ScriptedEngine(["own"]), broken) as (a, b):
        for _ in range(FAILURES_TO_OPEN):
            assert chosen(a.group, b.identity.id) == b.identity.id
            assert text_of(await a.ask(prefer=b.identity.id)) == "own"
        assert chosen(a.group, b.identity.id) == a.identity.id
        assert text_of(await a.ask(prefer=b.identity.id)) == "own"
        assert broken.started == FAILURES_TO_OPEN
        broken.fails = None
        await until(lambda: a.group.usable(b.identity.id))
        assert isinstance((await a.ask(prefer=b.identity.id))[-1], End)
        assert broken.started == FAILURES_TO_OPEN + 1
        assert chosen(a.group, b.identity.id) == b.identity.id


async def test_a_lone_node_answers_even_while_its_engine_fails() -> None:
    engine = ScriptedEngine(fails=EngineError("engine_failed", "no memory"))
    async with group_of(engine) as (node,):
        for _ in range(2 * FAILURES_TO_OPEN):
            (failed,) = await node.ask()
            assert isinstance(failed, Failed)
            assert failed.code == "engine_failed"
        engine.fails = None
        assert isinstance((await node.ask())[-1], End)


async def test_what_is_sent_after_the_end_opens_nothing() -> None:
    """A peer's last message may be answered while the group closes."""
    async with group_of(ScriptedEngine(), ScriptedEngine()) as (a, b):
        links = a.group._links
        links.close()
        assert not links.send(b.identity.id, Ping(1))
        assert links.get(b.identity.id) is None

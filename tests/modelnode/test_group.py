"""Real ZeroMQ between the groups of two or three nodes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import pytest
import zmq
from zmq.utils import z85

from modelnode.dispatch import Dispatcher
from modelnode.group import Group
from modelnode.question import Question
from modelnode.routing import Route
from modelnode.serving import Server
from planetserve.chat import parse_body
from planetserve.errors import EngineError
from planetserve.keys import Identity, NodeId, identity_from
from planetserve.messages import Delta, End, Failed, ReplyEvent, verify_reply
from planetserve.records import TRUSTED, UNTRUSTED, NodeRecord, RouteSet
from tests.modelnode.scripted_engine import ScriptedEngine

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


@dataclass
class Node:
    identity: Identity
    engine: ScriptedEngine
    group: Group
    dispatcher: Dispatcher
    record: NodeRecord

    async def ask(self, prefer: NodeId | None = None) -> list[ReplyEvent]:
        return [event async for event in self.dispatcher.answer(BODY, prefer)]


def node_of(number: int, port: int, engine: ScriptedEngine) -> Node:
    identity = identity_from(bytes([number]) * 96)
    server = Server(engine, identity, "chain", "m")
    address = f"127.0.0.1:{port}"
    group = Group(identity, address, server)
    record = NodeRecord(
        id=identity.id,
        key=identity.public_key,
        name=f"node {number}",
        roles=("model",),
        onion_key=identity.onion_public,
        transport_key=identity.transport_public,
        endpoints={"group": f"tcp://{address}"},
        model="m",
        operator="",
        registered=1,
        credential_expires=0,
        reputation_ppm=500_000,
        status=TRUSTED,
    )
    return Node(identity, engine, group, Dispatcher(server, group), record)


def free_ports(count: int) -> list[int]:
    with zmq.Context() as context:
        sockets = [context.socket(zmq.ROUTER) for _ in range(count)]
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in sockets]
        for socket in sockets:
            socket.close(0)
    return ports


def routes_of(*nodes: Node) -> RouteSet:
    return RouteSet(1, b"", tuple(node.record for node in nodes))


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def group_of(*engines: ScriptedEngine) -> AsyncIterator[list[Node]]:
    """Nodes that have heard from each other."""
    ports = free_ports(len(engines))
    nodes = [
        node_of(number + 1, port, engine)
        for number, (port, engine) in enumerate(zip(ports, engines, strict=True))
    ]
    async with AsyncExitStack() as stack:
        for node in nodes:
            node.group.routes_changed(routes_of(*nodes))
            await node.group.start()
            stack.push_async_callback(node.group.close)
        for node in nodes:
            others = {other.identity.id for other in nodes} - {node.identity.id}
            await until(partial(has_heard_from, node, others))
        yield nodes


def has_heard_from(node: Node, others: set[NodeId]) -> bool:
    return reachable(node) >= others


def reachable(node: Node) -> set[NodeId]:
    """The peers that `node` would choose."""
    group = node.group
    return {
        peer
        for peer, member in group.router.members.items()
        if peer != group.own and member.report is not None and group.usable(peer)
    }


def chosen(group: Group, prefer: NodeId | None, tried: Iterable[NodeId] = ()) -> NodeId | None:
    """The node that `group` would have serve a request."""
    question = Question(BODY, parse_body(BODY), prefer)
    return group.choose(group.router.route(question), set(tried))


def text_of(events: list[ReplyEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_preferred_peer_serves_and_signs() -> None:
    async with group_of(ScriptedEngine(["own"]), ScriptedEngine(["peer", "'s"])) as (a, b):
        events = await a.ask(prefer=b.identity.id)
        end = events[-1]
        assert isinstance(end, End)
        assert end.node == b.identity.id
        assert verify_reply(b.identity.public_key, "chain", BODY, "peer's", end)
        assert text_of(await a.ask(prefer=a.identity.id)) == "own"


async def test_a_burst_is_spread_and_released() -> None:
    engines = [ScriptedEngine(gated_at=0) for _ in range(3)]
    async with group_of(*engines) as nodes:
        asks = [asyncio.create_task(nodes[0].ask()) for _ in range(6)]
        await until(lambda: sum(engine.started for engine in engines) == 6)
        assert [engine.started for engine in engines] == [2, 2, 2]
        for engine in engines:
            engine.gate.set()
        for events in await asyncio.gather(*asks):
            assert isinstance(events[-1], End)
        members = nodes[0].group.router.members
        assert all(members.assigned(node.identity.id) == 0 for node in nodes)


async def test_peer_lost_before_its_first_word_is_replaced() -> None:
    engines = [ScriptedEngine(["own"]), ScriptedEngine(["late"], gated_at=0)]
    async with group_of(*engines) as (a, b):
        asking = asyncio.create_task(a.ask(prefer=b.identity.id))
        await engines[1].reached_gate.wait()
        await b.group.close()
        events = await asyncio.wait_for(asking, 5)
        assert text_of(events) == "own"
        assert isinstance(events[-1], End)
        assert engines[1].ended == 1


async def test_peer_lost_after_its_first_word_is_one_clear_error() -> None:
    engines = [ScriptedEngine(["own"]), ScriptedEngine(["half ", "way"], gated_at=1)]
    async with group_of(*engines) as (a, b):
        asking = asyncio.create_task(a.ask(prefer=b.identity.id))
        await engines[1].reached_gate.wait()
        await asyncio.sleep(0.1)
        await b.group.close()
        events = await asyncio.wait_for(asking, 5)
        assert text_of(events) == "half "
        assert isinstance(events[-1], Failed)
        assert events[-1].code == "node_lost"
        assert engines[0].started == 0


GREEDY = json.dumps(json.loads(BODY) | {"temperature": 0}).encode()


def in_order(nodes: list[Node]) -> Callable[[Route, set[NodeId]], NodeId | None]:
    """The first node's choice if the others cost more as they come in the list."""
    choose = nodes[0].group.choose

    def first_left(route: Route, tried: set[NodeId]) -> NodeId | None:
        left = [node.identity.id for node in nodes if node.identity.id not in tried]
        wanted = route.prefer if route.prefer in left else next(iter(left), None)
        return choose(route, {node.identity.id for node in nodes} - {wanted})

    return first_left


async def lost_in_mid_answer(
    body: bytes, *others: ScriptedEngine
) -> tuple[list[ReplyEvent], list[Node]]:
    """What the first node's client gets when the last node, which it asks for, dies after its
    first two words."""
    dying = ScriptedEngine(["half ", "way ", "there"], gated_at=2)
    async with group_of(*others, dying) as nodes:
        lost = nodes[-1]
        with patch.object(nodes[0].group, "choose", in_order(nodes)):
            replies = nodes[0].dispatcher.answer(body, lost.identity.id)
            events = [await anext(replies), await anext(replies)]
            await lost.group.close()
            async with asyncio.timeout(20):
                events += [event async for event in replies]
        assert all(nodes[0].group.router.members.assigned(node.identity.id) == 0 for node in nodes)
        return events, nodes


async def test_greedy_answer_goes_on_from_another_node_which_signs_its_own() -> None:
    cut_otherwise = ScriptedEngine(["ha", "lf way t", "here ", "at last"])
    events, nodes = await lost_in_mid_answer(GREEDY, cut_otherwise)
    text = "half way there at last"
    assert text_of(events) == text
    end = events[-1]
    assert isinstance(end, End)
    assert end.node == nodes[0].identity.id
    assert verify_reply(nodes[0].identity.public_key, "chain", GREEDY, text, end)


async def test_node_that_answers_otherwise_is_passed_over_for_one_that_does_not() -> None:
    other, same = ScriptedEngine(["half of it"]), ScriptedEngine(["half way there"])
    events, _ = await lost_in_mid_answer(GREEDY, other, same)
    assert text_of(events) == "half way there"
    assert isinstance(events[-1], End)
    assert other.ended == same.ended == 1


@pytest.mark.parametrize("words", [["half way"], ["other"]])
async def test_no_node_that_tells_the_same_is_one_clear_error(words: list[str]) -> None:
    events, _ = await lost_in_mid_answer(GREEDY, ScriptedEngine(words))
    assert text_of(events) == "half way "
    assert events[-1] == Failed("node_lost", "the node that served this request was lost", 0)


async def test_chance_is_not_tried_again_after_text() -> None:
    own = ScriptedEngine(["half way there"])
    events, _ = await lost_in_mid_answer(BODY, own)
    assert text_of(events) == "half way "
    assert isinstance(events[-1], Failed)
    assert own.started == 0


async def test_peer_that_refuses_is_replaced() -> None:
    broken = ScriptedEngine(fails=EngineError("engine_failed", "no memory"))
    async with group_of(ScriptedEngine(["own"]), broken) as (a, b):
        assert text_of(await a.ask(prefer=b.identity.id)) == "own"


async def test_full_group_says_when_to_come_back() -> None:
    engine = ScriptedEngine(gated_at=0, capacity=1, max_waiting=0)
    async with group_of(engine) as (a,):
        asking = asyncio.create_task(a.ask())
        await engine.reached_gate.wait()
        (refusal,) = await a.ask()
        assert isinstance(refusal, Failed)
        assert refusal.code == "overloaded"
        assert refusal.retry_after_s is not None
        engine.gate.set()
        await asking


async def test_leaving_client_cancels_at_the_serving_node() -> None:
    engines = [ScriptedEngine(), ScriptedEngine(["a", "b"], gated_at=1)]
    async with group_of(*engines) as (a, b):
        replies = a.dispatcher.answer(BODY, b.identity.id)
        await anext(replies)
        await replies.aclose()
        await until(lambda: engines[1].ended == 1)
        assert a.group.router.members.assigned(b.identity.id) == 0


async def test_slow_reader_holds_back_the_serving_node() -> None:
    words = [f"{number} " for number in range(2000)]
    engines = [ScriptedEngine(), ScriptedEngine(words)]
    async with group_of(*engines) as (a, b):
        replies = a.dispatcher.answer(BODY, b.identity.id)
        first = await anext(replies)
        await asyncio.sleep(0.3)
        assert engines[1].said < 200
        rest = [event async for event in replies]
        assert text_of([first, *rest]) == "".join(words)


async def test_untrusted_node_gets_no_new_request() -> None:
    engines = [ScriptedEngine(["own"]), ScriptedEngine(["cheat"])]
    async with group_of(*engines) as (a, b):
        b.record = replace(b.record, status=UNTRUSTED)
        a.group.routes_changed(routes_of(a, b))
        assert text_of(await a.ask(prefer=b.identity.id)) == "own"


async def test_stranger_s_key_is_not_admitted() -> None:
    async with group_of(ScriptedEngine(), ScriptedEngine()) as (a, b):
        stranger = node_of(77, free_ports(1)[0], ScriptedEngine())
        # The stranger knows the others; they do not know it.
        stranger.group.routes_changed(routes_of(a, b, stranger))
        await stranger.group.start()
        try:
            events = await stranger.ask(prefer=a.identity.id)
            end = events[-1]
            assert isinstance(end, End)
            assert end.node == stranger.identity.id
            assert a.engine.started == 0
        finally:
            await stranger.group.close()


async def test_garbage_from_a_member_is_counted_and_survived() -> None:
    async with group_of(ScriptedEngine(["own"]), ScriptedEngine(["peer"])) as (a, b):
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.curve_secretkey = z85.encode(a.identity.transport_secret)
            socket.curve_publickey = z85.encode(a.identity.transport_public)
            socket.curve_serverkey = z85.encode(b.identity.transport_public)
            socket.connect(b.record.endpoints["group"])
            for frames in ([b""], [b"\xff" * 1000], [b"a", b"b"], [bytes(200_000)]):
                socket.send_multipart(frames)
            await asyncio.sleep(0.2)
        assert text_of(await a.ask(prefer=b.identity.id)) == "peer"


async def test_peer_that_comes_back_is_used_again() -> None:
    async with group_of(ScriptedEngine(["own"]), ScriptedEngine(["peer"])) as (a, b):
        await b.group.close()
        await until(lambda: b.identity.id not in reachable(a))
        port = int(b.record.endpoints["group"].rpartition(":")[2])
        again = node_of(2, port, ScriptedEngine(["again"]))
        again.group.routes_changed(routes_of(a, b))
        await again.group.start()
        try:
            await until(lambda: b.identity.id in reachable(a))
            assert text_of(await a.ask(prefer=b.identity.id)) == "again"
        finally:
            await again.group.close()


async def test_each_node_tells_what_its_engine_holds_and_when_it_is_empty() -> None:
    async with group_of(ScriptedEngine(["own"]), ScriptedEngine(["peer " * 20])) as (a, b):
        router, peer = a.group.router, b.identity.id

        def believed() -> int:
            """Chunks that `a`, which sent no request there, believes `b` to hold."""
            return router._tree.owned_chunks(router._indices.of(peer))

        await b.ask(prefer=peer)
        await until(lambda: believed() > 0)
        b.group._gossip.emptied()
        await until(lambda: believed() == 0)

"""Requests through real relays over real ZeroMQ, with relays and model nodes that die."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from overlay.client import OverlayClient
from overlay.core import layer
from overlay.core.cover import CoverSettings, Shape
from overlay.core.effects import Peer, Send
from overlay.core.exchange import ExchangeLimits
from overlay.core.frames import AnswerAssembler
from overlay.core.path_driver import PathDriver
from overlay.core.payload import Payload
from overlay.core.relay_exit import Exit
from overlay.guard_file import GuardFile
from overlay.server import IncomingRequest, ReplyGone
from planetserve.errors import (
    AnswerCutShort,
    NodeUnreachable,
    NotEnoughRoutes,
    PathsUnavailable,
    UsageError,
)
from planetserve.records import NodeRecord
from tests.overlay.conftest import MakeOverlay


async def echo(request: IncomingRequest) -> None:
    await request.write(b"you said: ")
    await request.write(request.payload)
    await request.finish()


async def ask(
    client: OverlayClient, target: NodeRecord, payload: bytes, session: int | None = None
) -> bytes:
    return b"".join([data async for data in client.request(target, payload, session)])


@pytest.mark.parametrize("size", [0, 1, 5_000, 20_000])
async def test_an_answer_comes_back_whole(make_overlay: MakeOverlay, size: int) -> None:
    overlay = await make_overlay(echo)
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    client = overlay.client()
    assert await ask(client, overlay.target, payload) == b"you said: " + payload


async def test_four_disjoint_paths_of_three_relays(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo)
    client = overlay.client()
    await client.ensure_paths()
    request = client.request(overlay.target, b"hello")
    assert b"".join([data async for data in request]) == b"you said: hello"
    names = [[relay.name for relay in hops.relays] for hops in request.paths]
    assert [len(path) for path in names] == [3, 3, 3, 3]
    assert len({name for path in names for name in path}) == 12


async def test_several_requests_of_a_conversation_share_the_paths(
    make_overlay: MakeOverlay,
) -> None:
    overlay = await make_overlay(echo)
    client = overlay.client()
    await client.ensure_paths()
    before = overlay.names(client)
    answers = await asyncio.gather(
        *(ask(client, overlay.target, b"%d" % number, session=1) for number in range(8))
    )
    assert answers == [b"you said: %d" % number for number in range(8)]
    assert overlay.names(client) == before
    client.end_session(1)
    for _ in range(100):
        if not overlay.names(client):
            return
        await asyncio.sleep(0.05)  # padding comes yet
    pytest.fail("the paths of a conversation that is over are still open")


async def test_requests_of_no_conversation_share_no_more_than_first_hops(
    make_overlay: MakeOverlay,
) -> None:
    overlay = await make_overlay(echo, 30)
    client = overlay.client()
    requests = [client.request(overlay.target, b"%d" % number) for number in range(3)]
    for request in requests:
        assert [data async for data in request]
    firsts = [{hops.ids[0] for hops in request.paths} for request in requests]
    others = [{hops.ids[1:] for hops in request.paths} for request in requests]
    assert all(len(one & two) >= 3 for one, two in pairwise(firsts))
    # Of some 460 pairs one may be drawn twice; a set that was used again would show all four.
    assert all(len(one & two) < 3 for one, two in pairwise(others))


async def test_a_relay_killed_in_mid_answer_is_not_noticed(make_overlay: MakeOverlay) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: IncomingRequest) -> None:
        await request.write(b"one ")
        await request.write(b"two ")
        begun.set()
        await go_on.wait()
        await request.write(b"three")
        await request.finish()

    overlay = await make_overlay(slow)
    client = overlay.client()
    asking = asyncio.create_task(ask(client, overlay.target, b"count"))
    await begun.wait()
    await overlay.kill_relay(overlay.names(client)[0][1])
    go_on.set()
    assert await asking == b"one two three"


async def test_two_paths_lost_in_mid_answer_are_replaced(make_overlay: MakeOverlay) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: IncomingRequest) -> None:
        await request.write(b"one ")
        await request.write(b"two ")
        begun.set()
        await go_on.wait()
        await request.write(b"three")
        await request.finish()

    overlay = await make_overlay(slow, 15)
    client = overlay.client()
    asking = asyncio.create_task(ask(client, overlay.target, b"count"))
    await begun.wait()
    names = overlay.names(client)
    await overlay.kill_relay(names[0][0])
    await overlay.kill_relay(names[1][2])
    go_on.set()
    assert await asking == b"one two three"
    assert names[0] not in overlay.names(client)


async def test_paths_that_cannot_be_replaced_cut_an_answer_short(
    make_overlay: MakeOverlay,
) -> None:
    begun = asyncio.Event()
    left = asyncio.Event()

    async def endless(request: IncomingRequest) -> None:
        try:
            while True:
                await request.write(b"more ")
                begun.set()
                await asyncio.sleep(0.01)
        except (ReplyGone, asyncio.CancelledError):
            left.set()
            raise

    overlay = await make_overlay(endless, 9)
    client = overlay.client(ExchangeLimits(repair_timeout_s=0.5))
    asking = asyncio.create_task(ask(client, overlay.target, b"go"))
    await begun.wait()
    await asyncio.sleep(0.2)
    await overlay.kill_relay(overlay.names(client)[0][1])
    with pytest.raises(AnswerCutShort):
        await asking
    await asyncio.wait_for(left.wait(), 5)


async def test_a_client_that_stops_reading_cancels_the_request(make_overlay: MakeOverlay) -> None:
    left = asyncio.Event()

    async def endless(request: IncomingRequest) -> None:
        try:
            while True:
                await request.write(b"more ")
                await asyncio.sleep(0.01)
        except (ReplyGone, asyncio.CancelledError):
            left.set()
            raise

    overlay = await make_overlay(endless)
    client = overlay.client()
    answer = client.request(overlay.target, b"go")
    await anext(answer)
    await answer.aclose()
    await asyncio.wait_for(left.wait(), 5)


async def test_a_dead_model_node_is_told_at_once(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo)
    client = overlay.client()
    await client.ensure_paths()
    await overlay.server.close()
    with pytest.raises(NodeUnreachable):
        await ask(client, overlay.target, b"hello")


async def test_a_model_node_that_dies_in_mid_answer(make_overlay: MakeOverlay) -> None:
    begun = asyncio.Event()

    async def stuck(request: IncomingRequest) -> None:
        await request.write(b"part")
        begun.set()
        await asyncio.Event().wait()

    overlay = await make_overlay(stuck)
    client = overlay.client()
    asking = asyncio.create_task(ask(client, overlay.target, b"go"))
    await begun.wait()
    await asyncio.sleep(0.1)
    await overlay.server.close()
    with pytest.raises(AnswerCutShort):
        await asking


async def test_with_one_relay_dead_three_paths_still_answer(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo)
    await overlay.kill_relay("relay-5")
    client = overlay.client()
    assert await ask(client, overlay.target, b"hi") == b"you said: hi"


async def test_too_few_relays_is_said(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 8)
    with pytest.raises(NotEnoughRoutes, match="lists 8 relays"):
        await ask(overlay.client(), overlay.target, b"hi")


async def test_relays_that_do_not_answer_are_said(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo)
    for number in range(1, 13):
        await overlay.kill_relay(f"relay-{number}")
    client = overlay.client(ExchangeLimits(repair_timeout_s=1.0))
    with pytest.raises(PathsUnavailable, match="relays do not answer"):
        await client.ensure_paths()
    with pytest.raises(PathsUnavailable, match="relays do not answer"):
        await ask(client, overlay.target, b"hi")


async def test_lost_paths_are_rebuilt_behind_the_scenes(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 25)
    client = overlay.client()
    await ask(client, overlay.target, b"hi", session=1)
    lost = overlay.names(client)[2]
    await overlay.kill_relay(lost[1])
    for _ in range(50):
        assert await ask(client, overlay.target, b"again", session=1) == b"you said: again"
        names = overlay.names(client)
        if len(names) == 4 and lost not in names:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the lost path was not rebuilt")


async def test_paths_that_swallow_cells_are_left(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 25)
    client = overlay.client(ExchangeLimits(accept_timeout_s=0.5))
    await client.ensure_paths()
    names = overlay.names(client)
    for path in names[:2]:
        exit_node = next(node for node in overlay.routes.nodes if node.name == path[2])
        overlay.relays[exit_node.id].links._frame_arrived = swallow
    with pytest.raises(NodeUnreachable):
        await ask(client, overlay.target, b"first", session=1)
    for path in names[:2]:
        assert path not in overlay.names(client)


def swallow(peer: Peer, frame: bytes) -> None:
    """What a relay does that keeps its paths and passes nothing on."""


async def test_no_relay_decrypts_anything_of_the_question(
    make_overlay: MakeOverlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = await make_overlay(echo)
    seen: list[bytes] = []
    original = layer.peel_with

    def recording(aead: ChaCha20Poly1305, counter: int, frame: bytes, start: int) -> bytes:
        plaintext = original(aead, counter, frame, start)
        seen.append(plaintext)
        return plaintext

    monkeypatch.setattr("overlay.core.relay_path.peel_with", recording)
    question = b"a question about xylophones " * 20
    assert await ask(overlay.client(), overlay.target, question) == b"you said: " + question
    assert len(seen) >= 12
    target = bytes(overlay.target.id)
    assert any(target in plaintext for plaintext in seen)  # last relays know the node
    assert not any(b"xylophone" in plaintext for plaintext in seen)


async def test_nodes_with_unusable_onion_keys_are_passed_over(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 15)
    assert overlay.directory is not None
    bad = replace(overlay.routes.relays()[0], onion_key=bytes(32))
    nodes = tuple(bad if node.id == bad.id else node for node in overlay.routes.nodes)
    overlay.directory.current = replace(overlay.routes, nodes=nodes)
    for _ in range(5):
        client = overlay.client()
        assert await ask(client, overlay.target, b"hi", session=1) == b"you said: hi"
        assert all(bad.name not in path for path in overlay.names(client))
    with pytest.raises(NodeUnreachable, match="unusable key"):
        await ask(client, replace(overlay.target, onion_key=bytes(32)), b"hi")


async def test_a_node_that_only_keeps_alive_is_given_up(make_overlay: MakeOverlay) -> None:
    async def wedged(request: IncomingRequest) -> None:
        await request.write(b"accepted")
        await asyncio.Event().wait()

    overlay = await make_overlay(wedged)
    client = overlay.client(ExchangeLimits(empty_timeout_s=0.3))
    async with asyncio.timeout(10):
        with pytest.raises(AnswerCutShort, match="empty"):
            await ask(client, overlay.target, b"hello")


async def test_a_polluting_path_is_left_and_the_answer_is_whole(
    make_overlay: MakeOverlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = await make_overlay(echo, 25)
    client = overlay.client()
    await client.ensure_paths()
    polluter = overlay.names(client)[0]
    original = Exit.from_target
    (polluted,) = (
        path.exit
        for node in overlay.routes.nodes
        if node.name == polluter[2]
        for path in overlay.relays[node.id]._core._paths
    )

    def polluting(self: Exit, number: int, chunk: bytes) -> list[Payload]:
        if self is polluted:
            chunk = chunk[:-1] + bytes((chunk[-1] ^ 1,))
        return original(self, number, chunk)

    monkeypatch.setattr(Exit, "from_target", polluting)
    for _ in range(20):  # an answer may be whole before the polluted clove comes
        assert await ask(client, overlay.target, b"hi", session=1) == b"you said: hi"
        if polluter not in overlay.names(client):
            return
    pytest.fail("the polluting path is still there")


async def test_first_hops_are_kept_from_one_run_to_the_next(
    make_overlay: MakeOverlay, tmp_path: Path
) -> None:
    overlay = await make_overlay(echo, 30)
    firsts = []
    for _ in range(3):
        client = overlay.client(guard_file=GuardFile(tmp_path / "guards.json", "chain"))
        await client.ensure_paths()
        firsts.append({hops.ids[0] for hops in client.open_paths()})
        await client.close()
    assert len(firsts[0]) == 4
    assert firsts[0] == firsts[1] == firsts[2]


async def test_puzzles_are_solved_beside_the_loop(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo)
    for relay in overlay.relays.values():
        relay._core._puzzle.difficulty = 8
    assert await ask(overlay.client(), overlay.target, b"hi") == b"you said: hi"


async def test_cover_keeps_paths_busy_and_asks_for_nothing(
    make_overlay: MakeOverlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    pinged, answered = asyncio.Event(), asyncio.Event()
    ping, frame = PathDriver.ping, AnswerAssembler.feed

    async def listening(request: IncomingRequest) -> None:
        asked.append(request.payload)
        await request.finish()

    def pinging(driver: PathDriver, number: int, slot: int) -> list[Send]:
        pinged.set()
        return ping(driver, number, slot)

    def feeding(assembler: AnswerAssembler, index: int, chunk: bytes) -> list[bytes]:
        pieces = frame(assembler, index, chunk)
        if assembler.complete:
            answered.set()
        return pieces

    monkeypatch.setattr(PathDriver, "ping", pinging)
    monkeypatch.setattr(AnswerAssembler, "feed", feeding)
    overlay = await make_overlay(listening)
    cover = CoverSettings((Shape(100, 4),), loop_mean_s=0.05, dummy_mean_s=0.2)
    client = overlay.client(cover=cover)
    await client.ensure_paths()
    async with asyncio.timeout(20):
        await pinged.wait()
        await answered.wait()
    assert asked == []  # the node answered by itself


async def test_closing_waits_for_all_of_the_padding(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo)
    client = overlay.client()
    request = client.request(overlay.target, b"hi")
    await anext(request)
    (question,) = client._asking._questions.values()
    async for _ in request:
        pass
    assert client._asking.under_way
    limits = replace(client.settings.limits, drain_timeout_s=0.0)
    client.settings = replace(client.settings, limits=limits)  # those of the question stay
    await client.close()
    assert question.exchange._answer.complete


async def test_a_client_that_is_closed_says_so(make_overlay: MakeOverlay) -> None:
    async def endless(request: IncomingRequest) -> None:
        while True:
            await request.write(b"more ")
            await asyncio.sleep(0.01)

    overlay = await make_overlay(endless)
    client = overlay.client()
    request = client.request(overlay.target, b"go")
    await anext(request)

    async def read_on() -> None:
        async for _ in request:
            pass

    reading = asyncio.create_task(read_on())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(UsageError, match="this client is closed"):
        await reading
    with pytest.raises(UsageError, match="this client is closed"):
        await anext(request)
    with pytest.raises(UsageError, match="this client is closed"):
        await ask(client, overlay.target, b"hi")
    with pytest.raises(UsageError, match="this client is closed"):
        await client.ensure_paths()

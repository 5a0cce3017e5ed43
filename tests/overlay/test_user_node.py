"""A user node: it asks over the links by which it relays for others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.client import OverlayClient, PathSettings
from overlay.core.effects import Neighbour, Peer
from overlay.core.wire import CELL, encode_frame
from overlay.relay_node import RelayNode
from overlay.replay_log import mark_new
from overlay.server import IncomingRequest
from tests.overlay.conftest import MakeOverlay, Overlay, record, seeded_identity

USER = seeded_identity(150)


async def echo(request: IncomingRequest) -> None:
    await request.write(request.payload)
    await request.finish()


async def ask(overlay: Overlay, client: OverlayClient, payload: bytes) -> list[list[str]]:
    request = client.request(overlay.target, payload)
    assert b"".join([data async for data in request]) == payload
    return [[relay.name for relay in hops.relays] for hops in request.paths]


async def with_user(overlay: Overlay, folder: Path) -> tuple[RelayNode, OverlayClient]:
    """A user node in the route set."""
    assert overlay.directory is not None
    assert overlay.ledger is not None
    mark_new(folder / "user")
    node = RelayNode(USER, "127.0.0.1:0", overlay.directory, folder / "user")
    port = node.start()
    overlay.relays[USER.id] = node
    nodes = (*overlay.routes.nodes, record(USER, "user", "relay", port))
    overlay.ledger.answer = replace(overlay.routes, height=2, hash=bytes(32), nodes=nodes)
    overlay.routes = await overlay.directory.refresh()
    client = OverlayClient(
        overlay.directory, PathSettings(keep_ahead=False), links=node.links, own=USER.id
    )
    node.share(client)
    overlay.clients.append(client)
    return node, client


async def test_it_asks_and_relays_over_the_same_connections(
    make_overlay: MakeOverlay, tmp_path: Path
) -> None:
    overlay = await make_overlay(echo, 11)  # twelve with the user node: it is on every set
    node, user = await with_user(overlay, tmp_path)
    other = overlay.client()
    await other.ensure_paths()
    assert any("user" in path for path in overlay.names(other))
    for number in range(3):
        mine, theirs = await asyncio.gather(
            ask(overlay, user, b"mine %d" % number), ask(overlay, other, b"theirs %d" % number)
        )
        assert not any("user" in path for path in mine)
        assert any("user" in path for path in theirs)
    seen = [
        [link.neighbour for link in relay.links._door.links.values()]
        for relay in overlay.relays.values()
        if relay is not node and relay.links._door is not None
    ]
    own = Neighbour(True, USER.id)
    assert any(own in neighbours for neighbours in seen)
    assert all(neighbours.count(own) <= 1 for neighbours in seen)


async def test_a_lost_first_hop_is_told_to_both(make_overlay: MakeOverlay, tmp_path: Path) -> None:
    overlay = await make_overlay(echo, 14)
    _, user = await with_user(overlay, tmp_path)
    await user.ensure_paths()
    first = overlay.names(user)[0][0]
    await overlay.kill_relay(first)
    for _ in range(100):
        if all(path[0] != first for path in overlay.names(user)):
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("the path over the lost relay is still open")
    await ask(overlay, user, b"still there?")


async def test_frames_of_no_path_of_its_own_go_to_the_relay(
    make_overlay: MakeOverlay, tmp_path: Path
) -> None:
    overlay = await make_overlay(echo, 12)
    node, user = await with_user(overlay, tmp_path)
    stray = encode_frame(b"nobody's", CELL, bytes(2039))
    assert not user.knows(Peer(True, overlay.routes.relays()[0].id), stray)
    before = node.paths
    node._frame_arrived(Peer(True, overlay.routes.relays()[0].id), stray)
    node._frame_arrived(Peer(False, b"x"), b"")
    assert node.paths == before

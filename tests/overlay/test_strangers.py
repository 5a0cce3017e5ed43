"""Whatever anyone sends to a relay's or model node's socket, it serves on."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

import pytest
import zmq
from zmq.utils import z85

from overlay.core.wire import CELL, FRAME_BYTES, ID_BYTES, KINDS, SETUP
from overlay.link_sockets import EVENTS
from overlay.server import IncomingRequest
from planetserve.records import NodeRecord
from tests.overlay.conftest import MakeOverlay, Overlay


async def echo(request: IncomingRequest) -> None:
    await request.write(request.payload)
    await request.finish()


def a_frame(kind: int) -> bytes:
    return os.urandom(ID_BYTES) + bytes((kind,)) + os.urandom(FRAME_BYTES - ID_BYTES - 1)


GARBAGE: tuple[Sequence[bytes], ...] = (
    [b""],
    [b"x"],
    [os.urandom(FRAME_BYTES - 1)],
    [os.urandom(FRAME_BYTES + 1)],
    [b"", b"", b""],
    [a_frame(CELL), a_frame(CELL)],
    *([a_frame(kind)] for kind in (*KINDS, 77)),
)


async def send_garbage(target: NodeRecord, messages: Sequence[Sequence[bytes]]) -> None:
    """From a socket that speaks CURVE to the target, as anyone can."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender = context.socket(zmq.DEALER)
    public, secret = zmq.curve_keypair()
    sender.setsockopt(zmq.CURVE_PUBLICKEY, public)
    sender.setsockopt(zmq.CURVE_SECRETKEY, secret)
    sender.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(target.transport_key))
    sender.connect(target.endpoints["overlay"])
    for message in messages:
        sender.send_multipart(list(message))
    sender.close(linger=5000)
    await asyncio.to_thread(context.term)


async def still_answers(overlay: Overlay) -> None:
    client = overlay.client()
    answer = b"".join([data async for data in client.request(overlay.target, b"still there?")])
    assert answer == b"still there?"


async def test_garbage_cells(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 9)
    nodes = [*overlay.routes.relays(), overlay.target]
    before = {event: EVENTS.labels(event)._value.get() for event in ("wrong_size", "parts")}
    for node in nodes:
        await send_garbage(node, GARBAGE)
    await still_answers(overlay)
    counted = {event: EVENTS.labels(event)._value.get() - before[event] for event in before}
    assert counted == {"wrong_size": 4 * len(nodes), "parts": 2 * len(nodes)}


async def test_a_flood_of_set_ups_does_not_stop_a_relay(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 9)
    for node in overlay.routes.relays():
        await send_garbage(node, [[a_frame(SETUP)] for _ in range(200)])
    await still_answers(overlay)
    assert all(relay.paths <= 4 for relay in overlay.relays.values())


@pytest.mark.parametrize(
    "hello",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" + bytes(8) + b"\x7f" + bytes(54), b"\x01"],
    ids=["http", "zeros", "greeting", "byte"],
)
async def test_bytes_that_are_no_zeromq(make_overlay: MakeOverlay, hello: bytes) -> None:
    overlay = await make_overlay(echo, 9)
    with_open = []
    for node in [*overlay.routes.relays(), overlay.target]:
        host, _, port = node.endpoints["overlay"].removeprefix("tcp://").rpartition(":")
        connection = socket.create_connection((host, int(port)))
        connection.sendall(hello)
        with_open.append(connection)
    await still_answers(overlay)
    for connection in with_open:
        connection.close()


async def test_a_frame_that_is_far_too_large_drops_its_sender(make_overlay: MakeOverlay) -> None:
    overlay = await make_overlay(echo, 9)
    for node in [*overlay.routes.relays(), overlay.target]:
        await send_garbage(node, [[bytes(1 << 20)], [a_frame(CELL)]])
    await still_answers(overlay)

"""Links beside those who break the rules, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Protocol

import pytest
import zmq

from overlay import doorkeeper
from overlay.core.connections import ConnectionLimits
from overlay.core.effects import Peer
from overlay.core.fair_queue import MAX_FRAMES_AN_ID
from overlay.core.quotas import Rate
from overlay.core.wire import FRAME_BYTES
from overlay.link_sockets import LinkLimits
from overlay.links import Address
from tests.overlay.conftest import seeded_identity
from tests.overlay.link_ends import (
    DEADLINE_S,
    End,
    Outsider,
    counted,
    frame,
    link_id,
    outsiders,
    stuttering,
)

SERVER = seeded_identity(1)
A_SOCKETFUL = 20_000
"""More frames than the system's buffers between two sockets take."""

MakeOutsider = Callable[[Address], Outsider]


@pytest.fixture
def outsider() -> Iterator[MakeOutsider]:
    with outsiders() as make:
        yield make


class Server(End):
    def __init__(self, limits: LinkLimits | None = None) -> None:
        super().__init__(limits=limits)
        self.address = self.listen(SERVER)

    async def first_from(self, outsider: Outsider) -> Peer:
        """The peer that the first frame of `outsider` came from."""
        before = len(self.frames)
        outsider.socket.send(frame(0))
        await self.until(lambda: len(self.frames) > before)
        return self.frames[-1][0]

    def send_parts(self, peer: Peer, parts: list[bytes]) -> None:
        """What our links never send: a message of many parts."""
        assert self.links._door is not None
        self.links._door._socket.send_multipart([peer.name, *parts])

    def until_one_waits(self, peer: Peer, path: int) -> None:
        """Send under `path` until a frame waits; then all wait until the loop gets its turn."""
        for number in range(A_SOCKETFUL):
            assert self.links.send(peer, frame(path, number))
            if self.links.queued_bytes:
                return
        raise AssertionError("the buffers between two sockets take more than a socketful")


class MakeServer(Protocol):
    def __call__(self, limits: LinkLimits | None = None) -> Server: ...


@pytest.fixture
async def make_server() -> AsyncIterator[MakeServer]:
    servers: list[Server] = []

    def make(limits: LinkLimits | None = None) -> Server:
        servers.append(Server(limits))
        return servers[-1]

    yield make
    for server in servers:
        server.links.close()


async def test_an_id_of_the_diallers_choosing_is_no_name(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server()
    names = set()
    for routing_id in (b"I am", b"I am", b"\0\0\0\0\1"):
        someone = outsider(server.address)
        someone.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        peer = await server.first_from(someone.connect())
        assert peer.name != routing_id
        names.add(peer)
    assert len(names) == 3


async def test_a_newcomer_does_not_get_the_frames_of_one_who_left(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server()
    first, second = outsider(server.address), outsider(server.address)
    for someone in (first, second):
        someone.socket.setsockopt(zmq.ROUTING_ID, b"the same")
    left = await server.first_from(first.connect())
    first.close()
    await server.until(lambda: bool(server.gone))
    came = await server.first_from(second.connect())
    assert not server.links.send(left, frame(1))
    assert server.links.send(came, frame(2))
    assert await second.recv() == frame(2)


async def test_a_name_that_was_not_granted_is_hung_up(
    make_server: MakeServer, outsider: MakeOutsider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the answer comes before ZeroMQ has read the dialler's own id."""
    monkeypatch.setattr(doorkeeper, "_property", lambda name, value: b"")
    server = make_server()
    before = counted("refused_frame")
    someone = outsider(server.address)
    someone.socket.setsockopt(zmq.ROUTING_ID, b"I am")
    someone.connect().socket.send(frame(1))
    await someone.disconnected()
    assert server.frames == []
    assert counted("refused_frame") == before + 1


async def test_who_asks_for_no_name_is_linked_also_when_the_answer_comes_early(
    make_server: MakeServer, outsider: MakeOutsider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorkeeper, "_property", lambda name, value: b"")
    server = make_server()
    someone = outsider(server.address)
    came = await server.first_from(someone.connect())
    assert server.links.send(came, frame(2))
    assert await someone.recv() == frame(2)
    someone.close()
    await server.until(lambda: bool(server.gone))
    assert server.gone == [came]


async def test_messages_that_are_no_frames_are_counted_and_the_rest_goes_on(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server()
    before = counted("wrong_size"), counted("parts")
    someone = outsider(server.address).connect()
    for message in (
        [b""],
        [bytes(FRAME_BYTES - 1)],
        [bytes(FRAME_BYTES + 1)],
        [b"", b""],
        [frame(1), frame(1)],
        [b""] * 5000,
        [frame(2)],
    ):
        someone.socket.send_multipart(message)
    await server.until(lambda: bool(server.frames))
    assert [data for _, data in server.frames] == [frame(2)]
    assert (counted("wrong_size") - before[0], counted("parts") - before[1]) == (3, 3)


async def test_a_part_that_is_too_large_ends_its_connection(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server()
    someone = outsider(server.address).connect()
    came = await server.first_from(someone)
    someone.socket.send(bytes(1 << 20))
    await server.until(lambda: bool(server.gone))
    assert server.gone == [came]


@pytest.mark.parametrize("spoke", [True, False], ids=["after a frame", "from the start"])
async def test_a_message_without_end_is_cut_off(
    make_server: MakeServer, outsider: MakeOutsider, spoke: bool
) -> None:
    server = make_server()
    before = counted("endless_message")
    async with stuttering(server.address, towards_server=1 << 20, towards_client=1 << 20) as way:
        someone = outsider(way).connect()
        if spoke:
            await server.first_from(someone)
        someone.socket.send_multipart([bytes(FRAME_BYTES)] * 1000)
        await someone.disconnected()
    assert counted("endless_message") == before + 1
    assert len(server.frames) == len(server.gone) == int(spoke)


async def test_a_dialled_node_that_never_ends_a_message_is_hung_up(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server, client = make_server(), make_server()
    before = counted("endless_message")
    async with stuttering(server.address, towards_server=1 << 20, towards_client=1 << 20) as way:
        client.addresses[SERVER.id] = way
        client.links.send(Peer(True, SERVER.id), frame(1))
        await server.until(lambda: bool(server.frames))
        server.send_parts(server.frames[0][0], [bytes(FRAME_BYTES)] * 1000)
        await client.until(lambda: bool(client.gone))
    assert counted("endless_message") == before + 1
    assert client.gone == [Peer(True, SERVER.id)]


async def test_many_frames_are_no_endless_message(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server()
    someone = outsider(server.address).connect()
    await asyncio.to_thread(lambda: [someone.socket.send(frame(1, n)) for n in range(A_SOCKETFUL)])
    await server.until(lambda: len(server.frames) == A_SOCKETFUL)
    assert server.gone == []


async def test_paths_that_wait_take_turns(make_server: MakeServer, outsider: MakeOutsider) -> None:
    server = make_server()
    slow = outsider(server.address)
    slow.socket.setsockopt(zmq.RCVHWM, 1)
    came = await server.first_from(slow.connect())
    server.until_one_waits(came, 1)
    for number in range(100):
        server.links.send(came, frame(2, number))
    for number in range(5):
        server.links.send(came, frame(3, number))
    arrived: list[bytes] = []
    while frame(3, 4) not in arrived[-1:]:
        arrived.append(await slow.recv())
    assert frame(2, 4) in arrived
    assert frame(2, 6) not in arrived


async def test_a_path_that_fills_its_queue_is_shed_and_no_other(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server()
    slow = outsider(server.address)
    slow.socket.setsockopt(zmq.RCVHWM, 1)
    came = await server.first_from(slow.connect())
    server.until_one_waits(came, 1)
    server.links.send(came, frame(2))
    for number in range(2 * MAX_FRAMES_AN_ID):
        server.links.send(came, frame(3, number))
    assert server.links.queued_bytes == 2 * FRAME_BYTES
    await server.until(lambda: bool(server.shed))
    assert server.shed == [(came, link_id(3))]
    while await slow.recv() != frame(2):
        pass


async def test_all_queues_together_are_bounded(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    budget = 100 * FRAME_BYTES
    server = make_server(LinkLimits(queued_bytes=budget))
    slow = outsider(server.address)
    slow.socket.setsockopt(zmq.RCVHWM, 1)
    came = await server.first_from(slow.connect())
    server.until_one_waits(came, 1)
    for path in range(2, 60):
        for number in range(path):
            server.links.send(came, frame(path, number))
            assert server.links.queued_bytes <= budget
    await server.until(lambda: bool(server.shed))
    assert (came, link_id(2)) not in server.shed


async def test_what_waits_for_a_closed_path_is_dropped(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server()
    slow = outsider(server.address)
    slow.socket.setsockopt(zmq.RCVHWM, 1)
    came = await server.first_from(slow.connect())
    server.until_one_waits(came, 1)
    for path in (2, 3):
        server.links.send(came, frame(path))
    server.links.purge(came, link_id(2))
    arrived: list[bytes] = []
    while frame(3) not in arrived[-1:]:
        arrived.append(await slow.recv())
    assert frame(2) not in arrived


async def test_who_reads_nothing_is_hung_up(
    make_server: MakeServer, outsider: MakeOutsider
) -> None:
    server = make_server(LinkLimits(stall_s=0.3))
    before = counted("stalled")
    slow = outsider(server.address)
    slow.socket.setsockopt(zmq.RCVHWM, 1)
    came = await server.first_from(slow.connect())
    for number in range(A_SOCKETFUL):
        server.links.send(came, frame(number // 200, number))
    other = await server.first_from(outsider(server.address).connect())
    await server.until(lambda: bool(server.gone))
    assert counted("stalled") == before + 1
    assert server.gone == [came]
    assert server.links.queued_bytes == 0
    assert not server.links.send(came, frame(1))
    assert server.links.send(other, frame(1))


async def closed_by_server(port: int) -> None:
    """Returns when a new connection to `port` has been closed by the other side."""
    with suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while await reader.read(1024):
                pass
            writer.close()


@pytest.mark.parametrize(
    "limits",
    [ConnectionLimits(a_local=3), ConnectionLimits(local_rate=Rate(0.0, 3))],
    ids=["beyond a share", "too fast"],
)
async def test_connections_that_one_may_not_have_are_closed(
    make_server: MakeServer, limits: ConnectionLimits
) -> None:
    server = make_server(LinkLimits(connections=limits))
    before = counted("connection_refused")
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
    await closed_by_server(server.port)
    assert counted("connection_refused") == before + 1
    for _, writer in held:
        writer.close()


async def test_a_handshake_that_does_not_go_on_is_cut_off(make_server: MakeServer) -> None:
    server = make_server()
    before = counted("handshake_failed")
    await closed_by_server(server.port)
    assert counted("handshake_failed") == before + 1


async def test_links_close_while_connections_pour_in(make_server: MakeServer) -> None:
    """No turn of the loop comes in which to hear of them, until ZeroMQ can say no more."""
    server = make_server()
    refused_in_a_row = 0
    while refused_in_a_row < 2:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1.0).close()
            refused_in_a_row = 0
        except TimeoutError:
            refused_in_a_row += 1
    server.links.close()

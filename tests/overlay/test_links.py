"""Links between processes that keep the rules, over real sockets."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
import zmq

from overlay.core.effects import Neighbour, Peer
from overlay.core.wire import CELL, CLOSE, STREAM
from overlay.doorkeeper import stranger
from overlay.link_sockets import LinkLimits
from overlay.links import Address
from planetserve.errors import ConfigurationError
from planetserve.keys import Identity
from tests.overlay.conftest import seeded_identity
from tests.overlay.link_ends import End, frame, link_id, outsiders

SERVER = seeded_identity(1)
RELAY = seeded_identity(2)
TO_SERVER = Peer(True, SERVER.id)
LOCALHOST = Neighbour(False, bytes((127, 0, 0, 1)), is_local=True)


class MakeEnd(Protocol):
    def __call__(
        self,
        identity: Identity | None = None,
        nodes: dict[bytes, bytes] | None = None,
        limits: LinkLimits | None = None,
    ) -> End: ...


@pytest.fixture
async def make_end() -> AsyncIterator[MakeEnd]:
    ends: list[End] = []

    def make(
        identity: Identity | None = None,
        nodes: dict[bytes, bytes] | None = None,
        limits: LinkLimits | None = None,
    ) -> End:
        ends.append(End(identity, nodes, limits))
        return ends[-1]

    yield make
    for end in ends:
        end.links.close()


async def test_frames_in_order_both_ways(make_end: MakeEnd) -> None:
    server, client = make_end(), make_end()
    client.addresses[SERVER.id] = server.listen(SERVER)
    there = [frame(7, number) for number in range(300)]
    assert all(client.links.send(TO_SERVER, data) for data in there)
    await server.until(lambda: len(server.frames) == len(there))
    assert [data for _, data in server.frames] == there
    (came,) = {peer for peer, _ in server.frames}
    assert not came.dialled
    assert all(server.links.send(came, data) for data in reversed(there))
    await client.until(lambda: len(client.frames) == len(there))
    assert client.frames == [(TO_SERVER, data) for data in reversed(there)]


@pytest.mark.parametrize(
    ("dials_as", "expected"), [(RELAY, Neighbour(True, RELAY.id)), (None, LOCALHOST)]
)
async def test_a_node_is_known_by_its_key_on_the_ledger(
    make_end: MakeEnd, dials_as: Identity | None, expected: Neighbour
) -> None:
    server = make_end(nodes={RELAY.transport_public: RELAY.id})
    client = make_end(identity=dials_as)
    client.addresses[SERVER.id] = server.listen(SERVER)
    client.links.send(TO_SERVER, frame(1))
    await server.until(lambda: bool(server.frames))
    assert server.links.neighbour(server.frames[0][0]) == expected
    assert client.links.neighbour(TO_SERVER) == Neighbour(True, SERVER.id)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_over_both_kinds_of_addresses(make_end: MakeEnd, host: str) -> None:
    server, client = make_end(), make_end()
    port = server.links.bind(f"{host}:0", SERVER)
    client.addresses[SERVER.id] = Address(f"tcp://{host}:{port}", SERVER.transport_public)
    client.links.send(TO_SERVER, frame(1))
    await server.until(lambda: bool(server.frames))
    neighbour = server.links.neighbour(server.frames[0][0])
    assert neighbour == stranger(host.strip("[]"))
    assert neighbour.is_local


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.0"),
        ("::ffff:192.0.2.7", "192.0.2.0"),
        ("2001:db8:1:2::3", "2001:db8:1::"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_a_stranger_is_its_prefix(address: str, name: str) -> None:
    prefix = ipaddress.ip_address(name)
    size = 3 if prefix.version == 4 else 6
    assert stranger(address) == Neighbour(False, prefix.packed[:size])


async def test_a_node_that_cannot_be_dialled(make_end: MakeEnd) -> None:
    client = make_end()
    assert not client.links.send(TO_SERVER, frame(1))
    client.addresses[SERVER.id] = Address("tcp://no host:0", SERVER.transport_public)
    assert not client.links.send(TO_SERVER, frame(1))
    assert not client.links.send(Peer(False, b"nobody"), frame(1))
    assert client.gone == []


async def test_a_dial_that_is_refused_is_reported_once_and_drops_what_waits(
    make_end: MakeEnd,
) -> None:
    client = make_end()
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    client.addresses[SERVER.id] = Address(f"tcp://127.0.0.1:{port}", SERVER.transport_public)
    for number in range(200):
        assert client.links.send(TO_SERVER, frame(1, number))
    assert client.links.queued_bytes > 0
    await client.until(lambda: bool(client.gone))
    assert client.links.queued_bytes == 0
    assert client.links.send(TO_SERVER, frame(1))  # it is dialled anew
    await client.until(lambda: len(client.gone) == 2)
    assert client.gone == [TO_SERVER, TO_SERVER]


@pytest.mark.parametrize("key", [SERVER.transport_public, bytes(32)], ids=["silent", "no key"])
async def test_whoever_shakes_no_hand_is_given_up(make_end: MakeEnd, key: bytes) -> None:
    client = make_end()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client.addresses[SERVER.id] = Address(f"tcp://127.0.0.1:{port}", key)
        client.links.send(TO_SERVER, frame(1))
        await client.until(lambda: bool(client.gone))
    assert client.gone == [TO_SERVER]


async def test_a_server_with_another_key_gets_no_frame(make_end: MakeEnd) -> None:
    server, client = make_end(), make_end()
    address = server.listen(SERVER)
    client.addresses[SERVER.id] = Address(address.endpoint, RELAY.transport_public)
    client.links.send(TO_SERVER, frame(1))
    await client.until(lambda: bool(client.gone))
    assert server.frames == []


async def test_each_end_hears_once_that_the_other_has_gone(make_end: MakeEnd) -> None:
    server, client, other = make_end(), make_end(), make_end()
    client.addresses[SERVER.id] = other.addresses[SERVER.id] = server.listen(SERVER)
    client.links.send(TO_SERVER, frame(1))
    other.links.send(TO_SERVER, frame(2))
    await server.until(lambda: len(server.frames) == 2)
    came = {data: peer for peer, data in server.frames}
    client.links.hang_up(TO_SERVER)
    await server.until(lambda: bool(server.gone))
    assert server.gone == [came[frame(1)]]
    assert not server.links.send(came[frame(1)], frame(1))
    assert client.gone == []
    assert server.links.send(came[frame(2)], frame(2))
    await other.until(lambda: bool(other.frames))
    server.links.close()
    await other.until(lambda: bool(other.gone))
    assert other.gone == [TO_SERVER]


async def test_what_was_sent_before_the_end_still_arrives(make_end: MakeEnd) -> None:
    server = make_end()
    address = server.listen(SERVER)
    with outsiders() as make:
        outsider = make(address).connect()
        for number in range(300):
            outsider.socket.send(frame(1, number))
        outsider.socket.setsockopt(zmq.LINGER, -1)
        outsider.close()
        await server.until(lambda: bool(server.gone))
    assert [data for _, data in server.frames] == [frame(1, number) for number in range(300)]


async def test_hanging_up_on_one_who_came(make_end: MakeEnd) -> None:
    server, client = make_end(), make_end()
    client.addresses[SERVER.id] = server.listen(SERVER)
    client.links.send(TO_SERVER, frame(1))
    await server.until(lambda: bool(server.frames))
    came = server.frames[0][0]
    server.links.hang_up(came)
    await client.until(lambda: bool(client.gone))
    assert not server.links.send(came, frame(1))
    assert server.gone == []


async def test_only_stream_frames_are_reported_sent(make_end: MakeEnd) -> None:
    server, client = make_end(), make_end()
    client.addresses[SERVER.id] = server.listen(SERVER)
    for kind in (CELL, STREAM, CLOSE):
        client.links.send(TO_SERVER, frame(kind, kind=kind))
    await server.until(lambda: len(server.frames) == 3)
    await client.until(lambda: bool(client.sent))
    assert client.sent == [(TO_SERVER, link_id(STREAM), 1)]


def threads() -> int:
    """Also those that Python knows nothing of."""
    return len(list(Path("/proc/self/task").iterdir()))


async def test_closing_frees_the_port_and_the_threads(make_end: MakeEnd) -> None:
    before = threads()
    server, client = make_end(), make_end()
    client.addresses[SERVER.id] = server.listen(SERVER)
    client.links.send(TO_SERVER, frame(1))
    await server.until(lambda: bool(server.frames))
    client.links.close()
    server.links.close()
    assert threads() == before
    with socket.create_server(("127.0.0.1", server.port)):
        pass


async def test_a_port_in_use_is_our_configuration(make_end: MakeEnd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=str(port)):
            make_end().links.bind(f"127.0.0.1:{port}", SERVER)


async def test_a_dialled_link_without_frames_is_closed_and_reported(make_end: MakeEnd) -> None:
    server, client = make_end(), make_end(limits=LinkLimits(idle_s=0.0))
    client.addresses[SERVER.id] = server.listen(SERVER)
    assert client.links.send(TO_SERVER, frame(1))
    await client.until(lambda: client.gone == [TO_SERVER])


async def test_of_too_many_dialled_links_the_idlest_gives_way(make_end: MakeEnd) -> None:
    server, client = make_end(), make_end(limits=LinkLimits(dialled=2, unused_s=0.0))
    address = server.listen(SERVER)
    peers = [Peer(True, bytes((number,)) * 20) for number in range(5)]
    for peer in peers:
        client.addresses[peer.name] = address
        assert client.links.send(peer, frame(1))
    await client.until(lambda: client.gone == peers[:3])


async def test_links_that_a_path_may_use_do_not_give_way(make_end: MakeEnd) -> None:
    server, client = make_end(), make_end(limits=LinkLimits(dialled=2))
    address = server.listen(SERVER)
    peers = [Peer(True, bytes((number,)) * 20) for number in range(3)]
    for peer in peers:
        client.addresses[peer.name] = address
    assert [client.links.send(peer, frame(1)) for peer in peers] == [True, True, False]
    assert client.gone == []

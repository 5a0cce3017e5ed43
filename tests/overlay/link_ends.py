"""Ends of links for tests: ours, which note what happens, and ZeroMQ sockets of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import zmq
from zmq.utils import z85

from overlay.core.effects import Peer
from overlay.core.wire import BODY_BYTES, CELL, encode_frame
from overlay.link_sockets import EVENTS, LinkLimits
from overlay.links import Address, Links
from planetserve.keys import Identity

DEADLINE_S = 20.0


def frame(link_id: int, number: int = 0, kind: int = CELL) -> bytes:
    body = number.to_bytes(4, "big").ljust(BODY_BYTES, b"\0")
    return encode_frame(link_id.to_bytes(8, "big"), kind, body)


def link_id(number: int) -> bytes:
    return number.to_bytes(8, "big")


def counted(event: str) -> float:
    value: float = EVENTS.labels(event)._value.get()
    return value


Notes = TypeVar("Notes")


class End:
    """Links that note what their callbacks are called with."""

    def __init__(
        self,
        identity: Identity | None = None,
        nodes: dict[bytes, bytes] | None = None,
        limits: LinkLimits | None = None,
    ) -> None:
        self.addresses: dict[bytes, Address] = {}
        self.frames: list[tuple[Peer, bytes]] = []
        self.gone: list[Peer] = []
        self.shed: list[tuple[Peer, bytes]] = []
        self.sent: list[tuple[Peer, bytes, int]] = []
        self._something = asyncio.Event()
        self.links = Links(
            self.addresses.get,
            lambda peer, data: self._note(self.frames, (peer, data)),
            lambda peer: self._note(self.gone, peer),
            lambda peer, path: self._note(self.shed, (peer, path)),
            lambda peer, path, frames: self._note(self.sent, (peer, path, frames)),
            identity=identity,
            node_of_key=(nodes or {}).get,
            limits=limits,
        )

    def listen(self, identity: Identity) -> Address:
        self.port = self.links.bind("127.0.0.1:0", identity)
        return Address(f"tcp://127.0.0.1:{self.port}", identity.transport_public)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for callbacks until `holds`."""
        async with asyncio.timeout(DEADLINE_S):
            while not holds():
                self._something.clear()
                await self._something.wait()

    def _note(self, where: list[Notes], what: Notes) -> None:
        where.append(what)
        self._something.set()


class Outsider:
    """A DEALER of somebody else's, in a context of its own; its calls block in a thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: Address) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        public, secret = zmq.curve_keypair()
        self.socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        self.socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self.socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(address.transport_key))
        self.socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._monitor.setsockopt(zmq.RCVTIMEO, int(DEADLINE_S * 1000))
        self.address = address

    def connect(self) -> Outsider:
        self.socket.connect(self.address.endpoint)
        return self

    def close(self) -> None:
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()

    async def recv(self) -> bytes:
        return await asyncio.to_thread(self.socket.recv)

    async def disconnected(self) -> None:
        """Returns when the other side has closed the connection."""
        await asyncio.to_thread(self._monitor.recv_multipart)


@contextmanager
def outsiders() -> Iterator[Callable[[Address], Outsider]]:
    """Makes outsiders; all of them end with the context."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[Outsider] = []

    def make(address: Address) -> Outsider:
        made.append(Outsider(context, address))
        return made[-1]

    try:
        yield make
    finally:
        for outsider in made:
            if not outsider.socket.closed:
                outsider.close()
        context.destroy(linger=0)


@asynccontextmanager
async def stuttering(
    address: Address, towards_server: int, towards_client: int
) -> AsyncIterator[Address]:
    """A way to `address` that lets so many bytes through in each direction, then holds still
    until either side closes."""

    async def carry(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left_bytes: int
    ) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data[:left_bytes])
            left_bytes -= min(left_bytes, len(data))
            await writer.drain()

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.endpoint.removeprefix("tcp://").rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        ways = {
            asyncio.ensure_future(carry(reader, far_writer, towards_server)),
            asyncio.ensure_future(carry(far_reader, writer, towards_client)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.close()
            writer.close()

    server = await asyncio.start_server(both, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Address(f"tcp://127.0.0.1:{port}", address.transport_key)
    finally:
        server.close()

"""HTTP servers that keep connections, end them, drip, or speak something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from planetserve.errors import RemoteProtocolError
from planetserve.http import HttpClient, HttpError
from planetserve.rpc import NoAnswer, Rpc

Serve = Callable[[list[bytes]], Awaitable[str]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """Answers the requests of each connection with the given bytes, then ends it."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.servers: list[asyncio.Server] = []

    async def serve(self, answers: list[bytes]) -> str:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            for answer in answers:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    break
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                writer.write(answer)
                await writer.drain()
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        self.servers.append(server)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    made = Peer()
    yield made
    for server in made.servers:
        server.close()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    made = HttpClient(connect_timeout_s=1.0)
    yield made
    await made.close()


async def test_a_connection_is_kept(peer: Peer, client: HttpClient) -> None:
    url = await peer.serve([OK] * 3)
    assert [await client.post(url, b"{}", 1_000) for _ in range(3)] == [b"ok"] * 3
    assert peer.connections == 1
    assert peer.requests[0].startswith(b"POST / HTTP/1.1\r\n")
    assert peer.requests[0].endswith(b"\r\n\r\n{}")


async def test_side_by_side_each_has_its_own(peer: Peer, client: HttpClient) -> None:
    url = await peer.serve([OK] * 3)
    answers = await asyncio.gather(*(client.post(url, b"{}", 1_000) for _ in range(3)))
    assert answers == [b"ok"] * 3
    assert peer.connections == 3


async def test_one_that_the_server_ended_is_opened_again(peer: Peer, client: HttpClient) -> None:
    url = await peer.serve([OK])
    assert [await client.post(url, b"{}", 1_000) for _ in range(3)] == [b"ok"] * 3
    assert peer.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.0 200 OK\r\n\r\nok",
    ],
)
async def test_every_form_of_answer_is_read(peer: Peer, client: HttpClient, answer: bytes) -> None:
    assert await client.post(await peer.serve([answer]), b"{}", 1_000) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"220 smtp.example\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
async def test_what_is_no_answer_is_an_error(peer: Peer, client: HttpClient, answer: bytes) -> None:
    with pytest.raises(HttpError):
        await client.post(await peer.serve([answer]), b"{}", 1_000)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1_001,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"x" * 100 + b"\r\n",
    ],
)
async def test_an_answer_without_end_is_cut(peer: Peer, answer: bytes) -> None:
    client = HttpClient(connect_timeout_s=1.0)
    with pytest.raises(RemoteProtocolError, match="size limit"):
        await client.post(await peer.serve([answer]), b"{}", 50)


@pytest.mark.parametrize(
    "url", ["", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://127.0.0.1:9"]
)
async def test_nobody_there_is_an_error(client: HttpClient, url: str) -> None:
    with pytest.raises(HttpError):
        await client.post(url, b"{}", 1_000)


async def test_a_server_that_drips_is_left(peer: Peer) -> None:
    url = await peer.serve([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\no", b""])
    rpc = Rpc([url], timeout_s=0.05)
    with pytest.raises(NoAnswer, match="too slow"):
        await rpc.call_at(url, "status")
    await rpc.close()

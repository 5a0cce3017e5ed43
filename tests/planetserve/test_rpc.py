"""RPC servers that answer, refuse, lie about their form, or are not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from planetserve import rpc as rpc_module
from planetserve.errors import NetworkNotFound, RemoteProtocolError
from planetserve.rpc import NoAnswer, Rpc, RpcError

DEAD = "http://127.0.0.1:9"
MakeServer = Callable[[bytes], str]


@pytest.fixture
def serve() -> Iterator[MakeServer]:
    """Call with the body that a server shall answer everything with; returns its address."""
    servers = []

    def make(body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Keeps the test's output clean."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


async def call(*addresses: str) -> object:
    client = Rpc(addresses)
    try:
        return await client.call("status")
    finally:
        await client.close()


async def test_the_result_is_returned(serve: MakeServer) -> None:
    assert await call(serve(b'{"result": {"height": 3}}')) == {"height": 3}


@pytest.mark.parametrize(
    "broken",
    [
        b"<html>",
        b"[1]",
        b'{"id": 1}',
        b"\xff",
        b'{"error": "busy"}',
        b"[" * 100_000,
    ],
)
async def test_the_next_server_is_asked(serve: MakeServer, broken: bytes) -> None:
    good = serve(b'{"result": 1}')
    assert await call(DEAD, serve(broken), good) == 1


async def test_who_answered_is_asked_first_afterwards(serve: MakeServer) -> None:
    client = Rpc([DEAD, serve(b'{"result": 1}')])
    assert await client.call("status") == 1
    assert client._current == 1
    await client.close()


async def test_a_refusal_is_not_asked_elsewhere(serve: MakeServer) -> None:
    refusal = json.dumps({"error": {"code": -32603, "message": "no", "data": "not found"}})
    with pytest.raises(RpcError, match="no not found"):
        await call(serve(refusal.encode()), serve(b'{"result": 1}'))


async def test_nobody_there_names_every_address() -> None:
    with pytest.raises(NetworkNotFound, match=r"127\.0\.0\.1:9 .*127\.0\.0\.1:10 "):
        await call(DEAD, "http://127.0.0.1:10")


async def test_an_answer_without_end_is_cut(
    serve: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "LIMIT", rpc_module.Limit(1000, 1000))
    with pytest.raises(RemoteProtocolError, match="size limit"):
        await call(serve(b'{"result": "' + b"x" * 2000 + b'"}'))


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("commit", b'{"result": "' + b"x" * (1 << 20) + b'"}'),
        ("tx", b'{"result": "' + b"x" * (1 << 20) + b'"}'),
        ("validators", b'{"result": [' + b"{}," * 10_000 + b"{}]}"),
        ("abci_query", b'{"result": [' + b"{}," * (6 << 20) + b"{}]}"),
        ("block_results", b'{"result": {' + b'"a":[],' * 600_000 + b'"b":1}}'),
    ],
)
async def test_no_answer_takes_more_memory_than_an_honest_one(
    serve: MakeServer, method: str, body: bytes
) -> None:
    client = Rpc([serve(body)])
    with pytest.raises(RemoteProtocolError, match=r"size limit|too many parts"):
        await client.call_at(client.addresses[0], method)
    await client.close()


async def test_a_large_text_is_read(serve: MakeServer) -> None:
    content = "x" * (20 << 20)
    client = Rpc([serve(json.dumps({"result": content}).encode())])
    assert await client.call_at(client.addresses[0], "abci_query") == content
    await client.close()


async def test_the_words_of_a_server_are_cut_and_made_printable(serve: MakeServer) -> None:
    error = {"code": -32603, "message": "\x1b[2Jno", "data": "B" * 1_000_000}
    with pytest.raises(RpcError) as caught:
        await call(serve(json.dumps({"error": error}).encode()))
    assert len(str(caught.value)) < 1_100
    assert "\x1b" not in str(caught.value)
    assert "[2Jno BBB" in str(caught.value)


async def test_whether_a_call_may_have_arrived_is_told(serve: MakeServer) -> None:
    client = Rpc([DEAD])
    with pytest.raises(NoAnswer) as caught:
        await client.call_at(DEAD, "status")
    assert not caught.value.reached
    await client.close()

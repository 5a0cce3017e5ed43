"""RPC servers that answer, refuse, lie about their form, or are not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from planetserve import rpc as rpc_module
from planetserve.errors import NetworkNotFound, RemoteProtocolError
from planetserve.rpc import Rpc, RpcError

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
    monkeypatch.setattr(rpc_module, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(RemoteProtocolError, match="size limit"):
        await call(serve(b'{"result": "' + b"x" * 2000 + b'"}'))

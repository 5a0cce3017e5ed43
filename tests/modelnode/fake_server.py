"""An HTTP server of one's own making, to be an engine's in tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

MODELS = {"data": [{"id": "upstream", "max_model_len": 512}]}


def chunk(text: str = "", finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish_reason}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}


class Exchange:
    """One request that came, and the way to answer it."""

    def __init__(self, target: str, headers: str, body: bytes, writer: asyncio.StreamWriter):
        self.target = target
        self.headers = headers
        self.body = body
        self.writer = writer

    async def answer(self, status: int, value: Any) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n"
        self.writer.write(head.encode() + content)
        await self.writer.drain()

    async def begin(self) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await self.writer.drain()

    async def send(self, content: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(content), content))
        await self.writer.drain()

    async def say(self, *values: Any) -> None:
        for value in values:
            await self.send(b"data: %s\n\n" % json.dumps(value).encode())

    async def end(self) -> None:
        await self.send(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()


class FakeServer:
    """Has `respond` answer whatever is not the list of models; counts connections."""

    def __init__(self, respond: Callable[[Exchange], Awaitable[None]]) -> None:
        self._respond = respond
        self.connections = 0
        self.requests = 0
        self.gone = asyncio.Event()
        """Set when a client left in the middle of its answer."""
        self.url = ""
        self.tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.lower().partition("content-length: ")[2].partition("\r")[0]
                body = await reader.readexactly(int(length or 0))
                target = head.split(" ")[1]
                exchange = Exchange(target, head, body, writer)
                if target == "/v1/models":
                    await exchange.answer(200, MODELS)
                    continue
                self.requests += 1
                await self._respond(exchange)
        except asyncio.IncompleteReadError:
            pass  # an idle client left
        except ConnectionError:
            self.gone.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(respond: Callable[[Exchange], Awaitable[None]]) -> AsyncIterator[FakeServer]:
    fake = FakeServer(respond)
    server = await asyncio.start_server(fake.accept, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
        for task in fake.tasks:
            task.cancel()
        failures = await asyncio.gather(*fake.tasks, return_exceptions=True)
    for failure in failures:
        if isinstance(failure, Exception):
            raise failure

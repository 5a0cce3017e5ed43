"""HTTP to an engine's server: h11's protocol on asyncio's streams, over kept connections.

Every byte of a reply passes through here, some hundred requests a second: with a whole HTTP
library a request costs five times and each piece of its reply twice as much. Reads are bounded,
in bytes by who asks and in time by `SILENCE_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import h11

from planetserve.errors import ConfigurationError
from planetserve.http import HttpError

READ_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 120.0
END_TIMEOUT_S = 1.0
IDLE_S = 4.0
"""Shorter than the five seconds after which uvicorn, and so vLLM, ends an idle connection."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens: `host` and `port`, or `unix_socket`. `path` stands before every
    target; `token` is its API key, empty for none."""

    host: str = "localhost"
    port: int = 0
    secure: bool = False
    path: str = ""
    token: str = ""
    unix_socket: Path | None = None

    def __str__(self) -> str:
        if self.unix_socket is not None:
            return f"unix:{self.unix_socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.path}/"


def endpoint_of(url: str, token: str = "") -> Endpoint:
    """`url` with or without the `/v1` of OpenAI's clients. Raises `ConfigurationError`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"the engine's URL is wrong: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError("the engine's URL must begin with http:// or https:// and a host")
    secure = parts.scheme == "https"
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Endpoint(parts.hostname, port or (443 if secure else 80), secure, path, token)


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))
    idle_since_s: float = 0.0

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event, at the latest after a silence of `SILENCE_TIMEOUT_S`."""
        while True:
            event = self.protocol.next_event()
            if event is not h11.NEED_DATA:
                return event
            async with asyncio.timeout(SILENCE_TIMEOUT_S):
                data = await self.reader.read(READ_BYTES)
            if not data and self.protocol.their_state is h11.SEND_RESPONSE:
                raise ConnectionResetError("the server ended the connection")
            self.protocol.receive_data(data)


class Response:
    """The status and, piece by piece, the body of an answer that is being read."""

    def __init__(self, connection: _Connection, status: int) -> None:
        self._connection = connection
        self.status = status

    async def read(self) -> bytes:
        """What comes next of the body, empty at its end."""
        while True:
            event = await self._connection.event()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if not isinstance(event, h11.InformationalResponse):
                return b""

    async def start(self, max_bytes: int) -> bytes:
        """At most `max_bytes` of the body, and no more of it is read."""
        body = bytearray()
        while len(body) < max_bytes and (data := await self.read()):
            body += data
        return bytes(body[:max_bytes])


class EngineHttp:
    """Requests to one server, each on a connection of its own, kept for the next."""

    def __init__(self, endpoint: Endpoint, max_idle: int) -> None:
        self._endpoint = endpoint
        self._max_idle = max_idle
        self._idle: list[_Connection] = []
        self._tls = ssl.create_default_context() if endpoint.secure else None
        host = str(endpoint).split("//")[-1].partition("/")[0]
        headers = [("Host", "localhost" if endpoint.unix_socket else host)]
        headers += [("Accept-Encoding", "identity"), ("Content-Type", "application/json")]
        headers += [("Authorization", f"Bearer {endpoint.token}")] if endpoint.token else []
        self._headers = headers

    async def close(self) -> None:
        for connection in self._idle:
            connection.writer.close()
        self._idle.clear()

    @asynccontextmanager
    async def ask(self, method: str, target: str, body: bytes = b"") -> AsyncGenerator[Response]:
        """The answer to one request. Leaving before its end ends the connection, which tells the
        server that nobody reads on. Raises `HttpError`, also for what is read within."""
        connection: _Connection | None = None
        reached = False
        try:
            connection = self._kept()
            response: Response | None = None
            if connection is not None:
                reached = True
                try:
                    response = await self._begin(connection, method, target, body)
                except ConnectionError:
                    connection.writer.close()  # the server had ended it meanwhile
                    connection = None
            if connection is None or response is None:
                reached = False
                connection = await self._open()
                reached = True
                response = await self._begin(connection, method, target, body)
            yield response
            await self._keep(connection)
            connection = None
        except (OSError, EOFError, h11.ProtocolError) as error:
            raise HttpError(type(error).__name__, reached=reached) from error
        finally:
            if connection is not None:
                connection.writer.transport.abort()

    async def fetch(
        self, method: str, target: str, body: bytes = b"", *, max_bytes: int
    ) -> tuple[int, bytes]:
        """Status and body. Raises `HttpError`, also for a body of more than `max_bytes`."""
        async with self.ask(method, target, body) as response:
            answer = await response.start(max_bytes + 1)
            if len(answer) > max_bytes:
                raise HttpError("too long an answer")
            return response.status, answer

    def _kept(self) -> _Connection | None:
        """The connection that was used last, unless its server has probably ended it."""
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if now_s - connection.idle_since_s < IDLE_S and not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None

    async def _keep(self, connection: _Connection) -> None:
        protocol = connection.protocol
        if protocol.their_state is h11.SEND_BODY:
            # Who has read all that matters may leave the mark at the end unread.
            async with asyncio.timeout(END_TIMEOUT_S):
                await connection.event()
        done = (protocol.our_state, protocol.their_state) == (h11.DONE, h11.DONE)
        if not done or len(self._idle) >= self._max_idle:
            connection.writer.transport.abort()
            return
        protocol.start_next_cycle()
        connection.idle_since_s = asyncio.get_running_loop().time()
        self._idle.append(connection)

    async def _open(self) -> _Connection:
        endpoint = self._endpoint
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if endpoint.unix_socket is not None:
                streams = await asyncio.open_unix_connection(str(endpoint.unix_socket))
            else:
                streams = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=self._tls)
        return _Connection(*streams)

    async def _begin(
        self, connection: _Connection, method: str, target: str, body: bytes
    ) -> Response:
        protocol = connection.protocol
        headers = [*self._headers, ("Content-Length", str(len(body)))]
        request = h11.Request(
            method=method, target=f"{self._endpoint.path}{target}", headers=headers
        )
        parts = [protocol.send(request), protocol.send(h11.Data(data=body)) if body else b""]
        parts.append(protocol.send(h11.EndOfMessage()))
        connection.writer.write(b"".join(part for part in parts if part))
        await connection.writer.drain()
        while True:
            event = await connection.event()
            if isinstance(event, h11.Response):
                return Response(connection, event.status_code)
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the server ended the connection")

"""HTTP POST to a few servers over kept connections: h11's protocol on asyncio's streams.

For the ledger's RPC this is all that is needed, and a command that asks one question starts a
quarter of a second sooner than with a whole HTTP library.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from planetserve.errors import PlanetServeError, RemoteProtocolError

READ_BYTES = 1 << 16
MAX_IDLE = 8
"""Connections kept for each server."""
IDLE_S = 5.0
"""Shorter than the ten seconds after which CometBFT ends an idle connection."""


class HttpError(PlanetServeError):
    """The server was not reached or does not speak HTTP; the text is the kind of failure.
    `reached` says whether the request may have arrived."""

    def __init__(self, reason: str, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a URL leads."""

    host: str
    port: int
    target: str
    secure: bool


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))
    idle_since_s: float = 0.0


class HttpClient:
    """Posts bodies and returns the bodies of the answers, whatever their status."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[str, list[_Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def close(self) -> None:
        for connections in self._idle.values():
            for connection in connections:
                connection.writer.close()
        self._idle.clear()

    async def post(self, url: str, body: bytes, max_answer_bytes: int) -> bytes:
        """Raises `HttpError` when there is no answer, `RemoteProtocolError` for one that is larger
        than `max_answer_bytes`. Bounds connecting, but not the whole exchange, in time."""
        reached = False
        try:
            place = _place(url)
            kept = self._kept(url)
            if kept is not None:
                reached = True
                try:
                    return await self._exchange(url, place, kept, body, max_answer_bytes)
                except ConnectionError:
                    pass  # the server had ended it meanwhile
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._open(place)
            reached = True
            return await self._exchange(url, place, connection, body, max_answer_bytes)
        except (OSError, ValueError, h11.ProtocolError) as error:
            raise HttpError(type(error).__name__, reached=reached) from error

    def _kept(self, url: str) -> _Connection | None:
        """A connection that its server has probably not ended yet."""
        now_s = asyncio.get_running_loop().time()
        connections = self._idle.get(url, [])
        while connections:
            connection = connections.pop()
            if now_s - connection.idle_since_s < IDLE_S and not connection.reader.at_eof():
                return connection
            connection.writer.close()
        return None

    async def _open(self, place: _Place) -> _Connection:
        if place.secure and self._tls is None:
            self._tls = ssl.create_default_context()
        tls = self._tls if place.secure else None
        reader, writer = await asyncio.open_connection(place.host, place.port, ssl=tls)
        return _Connection(reader, writer)

    async def _exchange(
        self, url: str, place: _Place, connection: _Connection, body: bytes, max_bytes: int
    ) -> bytes:
        try:
            answer = await self._converse(place, connection, body, max_bytes)
        except BaseException:  # cancelled too: half an exchange leaves it of no use
            connection.writer.close()
            raise
        idle = self._idle.setdefault(url, [])
        protocol = connection.protocol
        if (protocol.our_state, protocol.their_state) == (h11.DONE, h11.DONE) and (
            len(idle) < MAX_IDLE
        ):
            protocol.start_next_cycle()
            connection.idle_since_s = asyncio.get_running_loop().time()
            idle.append(connection)
        else:
            connection.writer.close()
        return answer

    async def _converse(
        self, place: _Place, connection: _Connection, body: bytes, max_bytes: int
    ) -> bytes:
        protocol = connection.protocol
        host = f"[{place.host}]" if ":" in place.host else place.host
        request = h11.Request(
            method="POST",
            target=place.target,
            headers=[
                ("Host", f"{host}:{place.port}"),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
            ],
        )
        parts = [protocol.send(request), protocol.send(h11.Data(data=body))]
        parts.append(protocol.send(h11.EndOfMessage()))
        connection.writer.write(b"".join(part for part in parts if part))
        await connection.writer.drain()
        answer = bytearray()
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                data = await connection.reader.read(READ_BYTES)
                if not data and protocol.their_state is h11.SEND_RESPONSE:
                    raise ConnectionResetError("the server ended the connection")
                protocol.receive_data(data)
            elif isinstance(event, h11.Data):
                answer += event.data
                if len(answer) > max_bytes:
                    raise RemoteProtocolError("an RPC server's answer exceeds the size limit")
            elif isinstance(event, h11.EndOfMessage):
                return bytes(answer)


def _place(url: str) -> _Place:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http:// or https:// address")
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    return _Place(parts.hostname, port, parts.path or "/", secure)

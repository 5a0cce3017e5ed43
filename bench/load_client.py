"""Keeps a number of chat completions under way at one server and counts the answers.

Bytes over asyncio's transports: a client that costs more than the server would be what is measured.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Load:
    """What came back: whole answers, others, and each one's time in seconds."""

    answered: int = 0
    failed: int = 0
    times_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0


class _Asker(asyncio.Protocol):
    """One connection that sends `request` again and again until `until_s`."""

    def __init__(self, request: bytes, end: bytes, until_s: float, found: Load) -> None:
        self._request = request
        self._end = end
        self._until_s = until_s
        self._found = found
        self._answer = b""
        self._asked_s = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not self._whole():
            return
        if self._answer.startswith(b"HTTP/1.1 200") and self._end in self._answer:
            self._found.answered += 1
            self._found.times_s.append(time.monotonic() - self._asked_s)
        else:
            self._found.failed += 1
        if time.monotonic() < self._until_s:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)

    def _ask(self) -> None:
        self._answer = b""
        self._asked_s = time.monotonic()
        self._transport.write(self._request)

    def _whole(self) -> bool:
        head, gap, body = self._answer.partition(b"\r\n\r\n")
        if not gap:
            return False
        lower = head.lower()
        if (at := lower.find(b"content-length:")) >= 0:
            return len(body) >= int(lower[at + 15 :].split(b"\r\n", 1)[0])
        return body.endswith(b"\r\n0\r\n\r\n") or body == b"0\r\n\r\n"


async def load(
    port: int, path: str, body: bytes, end: bytes, *, connections: int, seconds: float
) -> Load:
    """Post `body` over `connections` at once for so long; a whole answer holds `end`."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    found = Load()
    started_s = time.monotonic()
    loop = asyncio.get_running_loop()
    askers = []
    for _ in range(connections):
        _, asker = await loop.create_connection(
            lambda: _Asker(head.encode() + body, end, started_s + seconds, found),
            "127.0.0.1",
            port,
        )
        askers.append(asker)
    await asyncio.gather(*(asker.over for asker in askers))
    found.elapsed_s = time.monotonic() - started_s
    return found

"""An OpenAI-compatible server that answers at once: 20 tokens, each a chunk, in one write.

    python -m bench.instant_engine PORT

It costs next to nothing, so that what is measured in front of it is what is in front of it.
"""

from __future__ import annotations

import asyncio
import json
import sys

TOKENS = 20
MODELS = json.dumps({"object": "list", "data": [{"id": "instant", "max_model_len": 8192}]})


def _chunk(**fields: object) -> str:
    frame = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "instant",
    }
    return f"data: {json.dumps(frame | fields)}\n\n"


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> list[dict[str, object]]:
    return [{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}]


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": TOKENS,
    "prompt_tokens_details": {"cached_tokens": 8},
}
STREAM = "".join(
    [
        _chunk(choices=_choice({"role": "assistant", "content": ""})),
        *(_chunk(choices=_choice({"content": f" word{number}"})) for number in range(TOKENS)),
        _chunk(choices=_choice({}, "length")),
        _chunk(choices=[], usage=USAGE),
        "data: [DONE]\n\n",
    ]
)


def _answer(kind: str, content: str, tail: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{tail}\r\n\r\n"
    return (head + content).encode()


LISTED = _answer("application/json", MODELS, f"content-length: {len(MODELS)}")
STREAMED = _answer(
    "text/event-stream",
    f"{len(STREAM):x}\r\n{STREAM}\r\n0\r\n\r\n",
    "transfer-encoding: chunked",
)


class InstantEngine(asyncio.Protocol):
    """One connection; knows just enough of HTTP for the engine's client."""

    def __init__(self) -> None:
        self._pending = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._pending) < end + 4 + length:
                return
            self._pending = self._pending[end + 4 + length :]
            if head.startswith(b"get"):
                self._transport.write(LISTED)
            else:
                self._transport.write(STREAMED)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(InstantEngine, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))

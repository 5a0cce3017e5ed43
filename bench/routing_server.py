"""Eight engines of `bench.routing_engine` behind OpenAI's HTTP, in one process.

    python -m bench.routing_server FIRST_PORT COUNT

`POST /restart` empties an engine's cache and ends its running replies, as a restart would; `GET
/figures` tells its prompt and cached tokens since the last `POST /figures`. Of `max_tokens` and
`max_completion_tokens` either is honoured: some routers rewrite the one into the other.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from bench.routing_engine import EngineModel, EngineSettings

MODEL = "simulated"
WORD = "word"
"""What each token of a reply is: one token long."""

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def prompt_bytes(messages: list[dict[str, str]]) -> bytes:
    """The prompt that `messages` become, without what opens the reply."""
    return "".join(f"<{m['role']}>{m['content']}" for m in messages).encode()


class Engines:
    """An ASGI application; which engine is asked depends on the port."""

    def __init__(self, first_port: int, count: int, settings: EngineSettings) -> None:
        self._settings = settings
        self._engines = {first_port + number: EngineModel(settings) for number in range(count)}
        self._epochs = dict.fromkeys(self._engines, 0)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        port = int(scope["server"][1])
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        if path == "/v1/chat/completions":
            await self._complete(port, json.loads(body), send)
            return
        await _answer(send, self._plain(port, path, scope["method"]))

    def _plain(self, port: int, path: str, method: str) -> Any:
        engine = self._engines[port]
        if path == "/restart":
            self._engines[port] = EngineModel(self._settings)
            self._epochs[port] += 1
        if path == "/figures" and method == "POST":
            engine.prompt_tokens = engine.cached_tokens = 0
        if path == "/figures":
            return {"prompt": engine.prompt_tokens, "cached": engine.cached_tokens}
        if path == "/v1/models":
            model = {"id": MODEL, "object": "model", "owned_by": "bench", "max_model_len": 32_768}
            return {"object": "list", "data": [model]}
        return {"model_path": MODEL, "served_model_name": MODEL, "status": "ok"}

    async def _complete(self, port: int, wanted: dict[str, Any], send: Send) -> None:
        tokens = wanted.get("max_completion_tokens") or wanted.get("max_tokens") or 16
        epoch = self._epochs[port]
        reply = b"<assistant>" + (WORD * tokens).encode()
        served = self._engines[port].serve(
            prompt_bytes(wanted["messages"]), reply, time.monotonic()
        )
        usage = {
            "prompt_tokens": served.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": served.prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": served.cached_tokens},
        }
        if not wanted.get("stream"):
            await asyncio.sleep(served.last_s - time.monotonic())
            choice = {"index": 0, "finish_reason": "length"}
            choice["message"] = {"role": "assistant", "content": WORD * tokens}
            await _answer(send, _frame("chat.completion") | {"choices": [choice], "usage": usage})
            return
        await _start(send, b"text/event-stream")
        pace_s = (served.last_s - served.first_s) / max(tokens - 1, 1)
        for number in range(tokens):
            await asyncio.sleep(served.first_s + number * pace_s - time.monotonic())
            if self._epochs[port] != epoch:
                return
            finish = "length" if number == tokens - 1 else None
            choice = {"index": 0, "delta": {"content": WORD}, "finish_reason": finish}
            await _event(send, _frame("chat.completion.chunk") | {"choices": [choice]})
        await _event(send, _frame("chat.completion.chunk") | {"choices": [], "usage": usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _frame(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-0", "object": kind, "created": 0, "model": MODEL}


async def _start(send: Send, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _answer(send: Send, content: Any) -> None:
    await _start(send, b"application/json")
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def _event(send: Send, content: Any) -> None:
    data = b"data: " + json.dumps(content).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


def main() -> None:
    import socket

    first_port, count = int(sys.argv[1]), int(sys.argv[2])
    sockets = []
    for port in range(first_port, first_port + count):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1024)
        sockets.append(sock)
    application = Engines(first_port, count, EngineSettings())
    config = uvicorn.Config(application, lifespan="off", log_config=None, access_log=False)
    asyncio.run(uvicorn.Server(config).serve(sockets))


if __name__ == "__main__":
    main()

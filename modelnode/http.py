"""The operator's HTTP: health, metrics and an OpenAI endpoint, on loopback only.

Requests here take the same way through the group as requests from the overlay.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from modelnode.dispatch import Dispatcher
from planetserve.chat import MAX_BODY_BYTES, BadRequest, parse_body
from planetserve.errors import ConfigurationError
from planetserve.messages import Delta, End, Failed, ReplyEvent

BACKLOG = 1024
STATUS = {
    "bad_request": 400,
    "context_length": 400,
    "unknown_model": 404,
    "overloaded": 429,
    "engine_failed": 500,
    "node_lost": 502,
    "not_serving": 503,
}
NODE_HEADER = "x-planetserve-node"


def create_application(dispatcher: Dispatcher, health: Callable[[], dict[str, Any]]) -> FastAPI:
    """The routes; `health` returns what `/health` shows, "healthy" deciding its status."""
    application = FastAPI(title="PlanetServe model node", openapi_url=None)
    started_s = int(time.time())

    @application.get("/health")
    async def show_health() -> JSONResponse:
        report = health()
        return JSONResponse(report, 200 if report.get("healthy") else 503)

    @application.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)

    @application.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        model = {
            "id": dispatcher.server.model,
            "object": "model",
            "created": started_s,
            "owned_by": "planetserve",
        }
        return {"object": "list", "data": [model]}

    @application.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        try:
            body = await _read(request)
            parse_body(body)
        except BadRequest as error:
            return _error_response(Failed(error.code, str(error)), error.param)
        wanted = json.loads(body)
        replies = dispatcher.answer(body)
        if not wanted.get("stream"):
            return await _whole(replies, request, dispatcher.server.model)
        # The first event decides between a stream and an error with a status of its own.
        first = await anext(replies)
        if isinstance(first, Failed):
            await replies.aclose()
            return _error_response(first)
        options = wanted.get("stream_options")
        with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
        lines = _sse(first, replies, dispatcher.server.model, with_usage)
        return StreamingResponse(lines, media_type="text/event-stream")

    @application.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(_error_body("there is nothing at this path", None, "not_found"), 404)

    return application


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"the request has more than {MAX_BODY_BYTES} bytes")
    return bytes(body)


async def _whole(
    replies: AsyncGenerator[ReplyEvent, None], request: Request, model: str
) -> Response:
    gathering = asyncio.create_task(_gather(replies))
    # uvicorn does not cancel a handler whose client left; the engine should not work for it.
    leaving = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({gathering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not gathering.done():
            return Response(status_code=499)
        text, last = gathering.result()
    finally:
        for task in (gathering, leaving):
            task.cancel()
        await asyncio.gather(gathering, leaving, return_exceptions=True)
    if isinstance(last, Failed):
        return _error_response(last)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": last.finish_reason,
        "logprobs": None,
    }
    content = _frame(_new_id(), model, "chat.completion") | {
        "choices": [choice],
        "usage": _usage(last),
    }
    return JSONResponse(content, headers={NODE_HEADER: last.node.hex()})


async def _gather(replies: AsyncGenerator[ReplyEvent, None]) -> tuple[str, End | Failed]:
    texts = []
    async with aclosing(replies) as events:
        async for event in events:
            if isinstance(event, Delta):
                texts.append(event.text)
            elif isinstance(event, End | Failed):
                return "".join(texts), event
    raise AssertionError("a reply ends with End or Failed")


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def _sse(
    first: ReplyEvent,
    replies: AsyncGenerator[ReplyEvent, None],
    model: str,
    with_usage: bool,
) -> AsyncGenerator[str, None]:
    frame = _frame(_new_id(), model, "chat.completion.chunk")

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return _data(frame | {"choices": [choice]})

    async with aclosing(replies):
        yield chunk({"role": "assistant", "content": ""})
        event: ReplyEvent | None = first
        while event is not None:
            if isinstance(event, Delta):
                yield chunk({"content": event.text})
            elif isinstance(event, Failed):
                yield _data(_error_body(event.message, None, event.code))
            elif isinstance(event, End):
                yield chunk({}, event.finish_reason)
                if with_usage:
                    yield _data(frame | {"choices": [], "usage": _usage(event)})
                yield "data: [DONE]\n\n"
            event = await anext(replies, None)


def _data(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def _frame(identifier: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": identifier, "object": kind, "created": int(time.time()), "model": model}


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _usage(end: End) -> dict[str, Any]:
    return {
        "prompt_tokens": end.usage.prompt_tokens,
        "completion_tokens": end.usage.completion_tokens,
        "total_tokens": end.usage.prompt_tokens + end.usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": end.usage.cached_tokens},
    }


def _error_body(message: str, param: str | None, code: str) -> dict[str, Any]:
    fault = STATUS.get(code, 400)
    kind = "invalid_request_error" if fault < 429 else "server_error"
    if fault == 429:
        kind = "rate_limit_error"
    names = {"context_length": "context_length_exceeded", "unknown_model": "model_not_found"}
    return {
        "error": {"message": message, "type": kind, "param": param, "code": names.get(code, code)}
    }


def _error_response(failure: Failed, param: str | None = None) -> JSONResponse:
    headers = {}
    if failure.retry_after_s is not None:
        headers["retry-after"] = str(failure.retry_after_s)
    body = _error_body(failure.message, param, failure.code)
    return JSONResponse(body, STATUS[failure.code], headers)


class _Uvicorn(uvicorn.Server):
    """uvicorn inside a process that handles its own signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves `application` at `address` (HOST:PORT) between `start` and `close`."""

    def __init__(self, application: FastAPI, address: str) -> None:
        self._address = address
        self._application = application
        self._socket: socket.socket | None = None
        self._uvicorn: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        if self._socket is None:
            raise ConfigurationError("the HTTP server is not started")
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Raises `ConfigurationError` for an address that is not loopback or cannot be bound."""
        host, port = loopback_address(self._address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise ConfigurationError(
                f"cannot serve HTTP on {self._address}: {error.strerror}"
            ) from error
        config = uvicorn.Config(
            self._application,
            backlog=BACKLOG,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._uvicorn = _Uvicorn(config)
        self._task = asyncio.create_task(self._uvicorn.serve([self._socket]), name="http")

    async def close(self) -> None:
        if self._uvicorn is not None and self._task is not None:
            self._uvicorn.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()


def loopback_address(address: str) -> tuple[str, int]:
    """HOST and PORT of `address`. Raises `ConfigurationError` when others could reach HOST: what
    is asked here would not be anonymous, and nobody has to log in."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        number = int(port)
    except ValueError as error:
        raise ConfigurationError(f"{address} is not HOST:PORT with a numeric HOST") from error
    if not loopback or not 0 <= number <= 65535:
        raise ConfigurationError(
            f"--http {address}: the operator's HTTP only binds to loopback, such as 127.0.0.1:8080"
        )
    return ("127.0.0.1" if host == "localhost" else host), number

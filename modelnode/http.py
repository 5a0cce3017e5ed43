"""The operator's HTTP: health, metrics and an OpenAI endpoint, on loopback only.

Requests here take the same way through the group as requests from the overlay.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from modelnode.completions import ChatCompletions, Receive, Send
from modelnode.dispatch import Dispatcher
from modelnode.openai_form import error_body
from planetserve.errors import ConfigurationError

BACKLOG = 1024
COMPLETIONS_PATH = "/v1/chat/completions"


def create_application(dispatcher: Dispatcher, health: Callable[[], dict[str, Any]]) -> Application:
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

    @application.get("/debug/choices")
    async def show_choices() -> dict[str, Any]:
        return {"choices": dispatcher.explain()}

    @application.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body("there is nothing at this path", None, "not_found"), 404)

    return Application(ChatCompletions(dispatcher), application)


class Application:
    """The operator's HTTP as ASGI: chat completions by the short way, the rest by FastAPI."""

    def __init__(self, completions: ChatCompletions, others: FastAPI) -> None:
        self._completions = completions
        self._others = others

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope.get("path") == COMPLETIONS_PATH and scope.get("method") == "POST":
            await self._completions.answer(receive, send)
        else:
            await self._others(scope, receive, send)


class _Uvicorn(uvicorn.Server):
    """uvicorn inside a process that handles its own signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves `application` at `address` (HOST:PORT) between `start` and `close`."""

    def __init__(self, application: Application, address: str) -> None:
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
            ws="none",
            proxy_headers=False,
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

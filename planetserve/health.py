"""`/health` and `/metrics` on loopback for processes that have no web server of their own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app

from planetserve.errors import ConfigurationError

Health = Callable[[], dict[str, Any]]
"""Returns what `/health` shows; its "healthy" entry decides between status 200 and 503."""


class _QuietHandler(WSGIRequestHandler):
    timeout = 5

    def log_message(self, format: str, *args: Any) -> None:
        """Requests to a health page are not worth a log line."""


class HealthServer:
    """Serves from a thread of its own until `close`."""

    def __init__(
        self, address: str, health: Health, registry: CollectorRegistry = REGISTRY
    ) -> None:
        """`address` is HOST:PORT. Raises `ConfigurationError` when it cannot be bound."""
        metrics = make_wsgi_app(registry)

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ.get("PATH_INFO") == "/metrics":
                page: Iterable[bytes] = metrics(environ, start_response)
                return page
            if environ.get("PATH_INFO") != "/health":
                start_response("404 Not Found", [("Content-Type", "text/plain")])
                return [b"try /health or /metrics\n"]
            report = health()
            status = "200 OK" if report.get("healthy") else "503 Service Unavailable"
            start_response(status, [("Content-Type", "application/json")])
            return [json.dumps(report).encode() + b"\n"]

        host, _, port = address.rpartition(":")
        try:
            self._server: WSGIServer = make_server(
                host, int(port), application, handler_class=_QuietHandler
            )
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"cannot serve HTTP on {address}: {error}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""The ABCI socket server: frames in, frames out, in order on each connection.

CometBFT opens four connections and tells them apart by nothing on the wire; requests are
dispatched by their type. Each connection has a thread of its own, so that a query waits for no
block. A handler that raises has met a fault that other validators may not have: the server then
answers nothing any more, rather than diverge.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable

from google.protobuf.message import DecodeError

from abci_app.handlers import Handlers
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.wire import FrameDecoder, FramingError, encode_frame
from planetserve.errors import ConfigurationError, PlanetServeError
from planetserve.logs import get_logger

READ_BYTES = 1 << 18
WAITING_ANSWER_BYTES = 1 << 20
"""Longer answers are sent before the next request is looked at: a peer that asks and does not
read must not have them pile up here."""
MAX_CONNECTIONS = 16
"""CometBFT opens four; a few more serve whoever looks at a running node."""
JOIN_TIMEOUT_S = 10.0
ACCEPT_PAUSE_S = 0.1
SWITCH_INTERVAL_S = 0.0002
"""How long Python lets one thread compute while another waits: a query that touches the
interpreter a few times must not add up to many of the default 5 ms."""
COLLECTED_AFTER = (20_000, 50, 100)
"""Python looks for circular garbage after 700 new objects, which a block makes every few dozen
transactions and drops without a circle; it took a third of the time of a block."""

log = get_logger()


class AbciServer:
    """Serves until `close`, or until a handler fails: `on_failure` then gets the exception, once
    and on another thread."""

    def __init__(self, handlers: Handlers, on_failure: Callable[[Exception], None]) -> None:
        self._handlers = handlers
        self._on_failure = on_failure
        self._listener: socket.socket | None = None
        self._path: str | None = None
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._stopped = False

    def listen(self, address: str) -> None:
        """Let peers connect at `tcp://HOST:PORT` or `unix://PATH`; they wait for `serve`. Raises
        `ConfigurationError`."""
        scheme, _, place = address.partition("://")
        try:
            if scheme == "unix":
                _remove_stale_socket(place)
                listener = socket.socket(socket.AF_UNIX)
                listener.bind(place)
                self._path = place
            elif scheme == "tcp":
                host, _, port = place.rpartition(":")
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                listener = socket.socket(family)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((host.strip("[]"), int(port)))
            else:
                raise ValueError("neither tcp:// nor unix://")
            listener.listen()
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"cannot serve ABCI at {address}: {error}") from error
        self._listener = listener

    def serve(self) -> None:
        """Answer from now on. Starts threads, which a process that still forks must not have."""
        if self._listener is None:
            raise ValueError("the server does not listen")
        tune_interpreter()
        threading.Thread(
            target=self._accept, args=(self._listener,), name="abci", daemon=True
        ).start()

    def close(self) -> None:
        """Stop serving; requests that are being answered are finished first."""
        with self._lock:
            self._stopped = True
            threads = list(self._connections.values())
            for connection in self._connections:
                # Wakes the thread that reads; what it answers can still be written.
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
        if self._listener is not None:
            # Wakes the thread that accepts.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        for thread in threads:
            thread.join(JOIN_TIMEOUT_S)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                if self._stopped:
                    return
                time.sleep(ACCEPT_PAUSE_S)
                continue
            with self._lock:
                if self._stopped or len(self._connections) >= MAX_CONNECTIONS:
                    connection.close()
                    continue
                thread = threading.Thread(
                    target=self._connected, args=(connection,), name="abci", daemon=True
                )
                self._connections[connection] = thread
                thread.start()

    def _connected(self, connection: socket.socket) -> None:
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._serve(connection)
        except (FramingError, DecodeError) as error:
            log.error("an ABCI peer does not speak the protocol", reason=str(error))
        except OSError:
            log.info("an ABCI connection broke")
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        decoder = FrameDecoder()
        while data := connection.recv(READ_BYTES):
            # CometBFT follows what it wants answered with a Flush; each read's answers go out
            # together, the Flush's last, unless they are long.
            answers, waiting_bytes = [], 0
            for message in decoder.feed(data):
                request = abci.Request.FromString(message)
                if request.WhichOneof("value") is None:
                    raise FramingError("a request without content")
                if self._stopped:
                    return
                try:
                    response = self._handlers.handle(request)
                except Exception as error:
                    self._fail(request, error)
                    return
                answers.append(encode_frame(response.SerializeToString()))
                waiting_bytes += len(answers[-1])
                if waiting_bytes > WAITING_ANSWER_BYTES:
                    connection.sendall(b"".join(answers))
                    answers, waiting_bytes = [], 0
            connection.sendall(b"".join(answers))

    def _fail(self, request: abci.Request, error: Exception) -> None:
        with self._lock:
            first, self._stopped = not self._stopped, True
        kind = request.WhichOneof("value")
        expected = isinstance(error, PlanetServeError)
        log.critical("the ledger failed and stops", request=kind, exc_info=not expected)
        if first:
            self._on_failure(error)


def tune_interpreter() -> None:
    """Settings of the whole process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)


def _remove_stale_socket(path: str) -> None:
    """One that a process left behind which was killed."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)

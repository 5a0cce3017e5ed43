"""The ABCI socket server: frames in, frames out, in order on each connection.

CometBFT opens four connections and tells them apart by nothing on the wire; requests are
dispatched by their type. Handlers run one at a time in the event loop. One that raises has met a
fault that other validators may not have: the server stops, rather than answer and diverge.
"""

from __future__ import annotations

import asyncio

from google.protobuf.message import DecodeError

from abci_app.handlers import Handlers
from abci_app.proto.tendermint.abci import types_pb2 as abci
from abci_app.wire import FrameDecoder, FramingError, encode_frame
from planetserve.errors import ConfigurationError, PlanetServeError
from planetserve.logs import get_logger

READ_BYTES = 1 << 16

log = get_logger()


class AbciServer:
    """Serves until `close`, or until a handler fails; `failed` then holds its exception."""

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def start(self, address: str) -> None:
        """Listen at `tcp://HOST:PORT` or `unix://PATH`. Raises `ConfigurationError`."""
        scheme, _, place = address.partition("://")
        try:
            if scheme == "unix":
                self._server = await asyncio.start_unix_server(self._connected, place)
            elif scheme == "tcp":
                host, _, port = place.rpartition(":")
                self._server = await asyncio.start_server(self._connected, host, int(port))
            else:
                raise ValueError("neither tcp:// nor unix://")
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"cannot serve ABCI at {address}: {error}") from error

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        try:
            await self._serve(reader, writer)
        except (FramingError, DecodeError) as error:
            log.error("an ABCI peer does not speak the protocol", reason=str(error))
        except ConnectionError:
            log.info("an ABCI connection broke")
        except asyncio.CancelledError:
            pass  # the server closes
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = FrameDecoder()
        while data := await reader.read(READ_BYTES):
            for message in decoder.feed(data):
                request = abci.Request.FromString(message)
                try:
                    response = self._handlers.handle(request)
                except Exception as error:
                    self._fail(request, error)
                    return
                writer.write(encode_frame(response.SerializeToString()))
            # CometBFT follows what it wants answered with a Flush; each read's answers go out
            # together, the Flush's last.
            await writer.drain()

    def _fail(self, request: abci.Request, error: Exception) -> None:
        kind = request.WhichOneof("value")
        expected = isinstance(error, PlanetServeError)
        log.critical("the ledger failed and stops", request=kind, exc_info=not expected)
        if not self.failed.done():
            self.failed.set_result(error)

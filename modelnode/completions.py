"""`/v1/chat/completions`, straight on ASGI: most of what a node does for a request that it only
passes on would else be the web framework's.

What of a reply is there at once is written at once. A reader that takes its time holds up its own
request and, for `READER_STALL_S` at most, a slot of an engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from modelnode.batches import Batches
from modelnode.dispatch import Dispatcher
from modelnode.openai_form import STATUS, Stream, completion, error_body, to_json
from planetserve.chat import MAX_BODY_BYTES, BadRequest, parse_fields, read_fields
from planetserve.messages import Delta, End, Failed, ReplyEvent

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

NODE_HEADER = "x-planetserve-node"
READER_STALL_S = 60.0
MAX_READING_BYTES = 64 << 20
"""Of bodies that are still coming, all together."""


class ClientLeft(Exception):
    """Nobody is there to read an answer."""


class ChatCompletions:
    """The route; `answer` is an ASGI application for its POST requests."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._reading_bytes = 0

    async def answer(self, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(receive)
            fields = read_fields(body)
            request = parse_fields(fields)
        except BadRequest as error:
            retry_after_s = 1 if error.code == "overloaded" else None
            await _refuse(send, Failed(error.code, str(error), retry_after_s), error.param)
            return
        except ClientLeft:
            return
        replies = self._dispatcher.answer(body, request=request)
        async with Batches(replies) as reading:
            # uvicorn does not cancel a handler whose client left; no engine should work for it.
            leaving = asyncio.create_task(_stop_when_gone(receive, reading), name="client")
            try:
                if fields.get("stream"):
                    options = fields.get("stream_options")
                    with_usage = isinstance(options, dict) and bool(options.get("include_usage"))
                    await self._stream(reading, send, with_usage)
                else:
                    await self._whole(reading, send)
            finally:
                leaving.cancel()
                await asyncio.gather(leaving, return_exceptions=True)

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                part = message.get("body", b"")
                body += part
                self._reading_bytes += len(part)
                if len(body) > MAX_BODY_BYTES:
                    raise BadRequest(f"the request has more than {MAX_BODY_BYTES} bytes")
                if self._reading_bytes > MAX_READING_BYTES:
                    raise BadRequest("too many requests are coming in", code="overloaded")
                if not message.get("more_body"):
                    return bytes(body)
        finally:
            self._reading_bytes -= len(body)

    async def _whole(self, reading: Batches[ReplyEvent], send: Send) -> None:
        texts: list[str] = []
        while batch := await reading.take():
            texts += [event.text for event in batch if isinstance(event, Delta)]
            last = batch[-1]
            if isinstance(last, Failed):
                await _refuse(send, last)
            elif isinstance(last, End):
                model = self._dispatcher.server.model
                content = completion(model, "".join(texts), last)
                node = (NODE_HEADER.encode(), last.node.hex().encode())
                await _respond(send, 200, content, [node])

    async def _stream(self, reading: Batches[ReplyEvent], send: Send, with_usage: bool) -> None:
        stream = Stream(self._dispatcher.server.model, with_usage)
        batch = await reading.take()
        if not batch:
            return
        # The first event decides between a stream and an error with a status of its own.
        if isinstance(batch[0], Failed):
            await _refuse(send, batch[0])
            return
        kind = (b"content-type", b"text/event-stream; charset=utf-8")
        await send({"type": "http.response.start", "status": 200, "headers": [kind]})
        text = stream.begin()
        while batch:
            last = isinstance(batch[-1], End | Failed)
            text += stream.lines(batch)
            try:
                async with asyncio.timeout(READER_STALL_S):
                    await send(_part(text.encode(), more=not last))
            except TimeoutError:
                return
            if last:
                return
            text = ""
            batch = await reading.take()


async def _stop_when_gone(receive: Receive, reading: Batches[ReplyEvent]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    reading.stop()


async def _refuse(send: Send, failure: Failed, param: str | None = None) -> None:
    headers = []
    if failure.retry_after_s is not None:
        headers.append((b"retry-after", str(failure.retry_after_s).encode()))
    body = error_body(failure.message, param, failure.code)
    await _respond(send, STATUS[failure.code], body, headers)


async def _respond(
    send: Send, status: int, content: dict[str, Any], headers: list[tuple[bytes, bytes]]
) -> None:
    body = to_json(content).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send(_part(body, more=False))


def _part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}

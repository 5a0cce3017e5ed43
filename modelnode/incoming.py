"""Requests that come over the overlay."""

from __future__ import annotations

from contextlib import aclosing

from modelnode.dispatch import Dispatcher
from overlay.server import IncomingRequest
from planetserve.errors import RemoteProtocolError
from planetserve.messages import Accepted, Failed, decode_payload, encode_event


async def answer(dispatcher: Dispatcher, incoming: IncomingRequest) -> None:
    """Answer one request, or say why not. Raises `ReplyGone` when its client left."""
    try:
        payload = decode_payload(incoming.payload)
    except RemoteProtocolError as error:
        await incoming.write(encode_event(Failed("bad_request", str(error))))
        await incoming.finish()
        return
    await incoming.write(encode_event(Accepted(dispatcher.server.identity.id)))
    async with aclosing(dispatcher.answer(payload.body, payload.prefer)) as events:
        async for event in events:
            await incoming.write(encode_event(event))
    await incoming.finish()

"""How a question ends for who iterates it, in whatever order the news of it come."""

from __future__ import annotations

from typing import Any, cast

import pytest

from overlay.client import OverlayClient, Request
from overlay.core.choice import Hops
from overlay.core.request import QUESTION
from planetserve.errors import AnswerCutShort, UsageError
from tests.overlay.relays import relay


class Answer:
    """In place of a client: the bytes that came."""

    def __init__(self, *unread: bytes) -> None:
        self.unread = list(unread)

    async def _ask(self, request: Request) -> int:
        return 0

    def _read(self, number: int) -> bytes:
        return self.unread.pop(0) if self.unread else b""

    def _hops(self, number: int) -> list[Hops]:
        return []

    def _leave(self, number: int) -> None:
        self.unread.clear()


def asked(*unread: bytes) -> Request:
    client = cast(OverlayClient, cast(Any, Answer(*unread)))
    return Request(client, relay(1), b"question", None, QUESTION, 0)


async def test_an_answer_that_is_whole_is_followed_by_no_error() -> None:
    request = asked(b"all ", b"of it")
    request._told(whole=True)
    request._told(AnswerCutShort("too late"))
    assert [data async for data in request] == [b"all ", b"of it"]
    with pytest.raises(StopAsyncIteration):
        await anext(request)


async def test_an_answer_that_is_cut_short_gives_what_came_and_then_the_error() -> None:
    request = asked(b"some")
    request._told(AnswerCutShort("in the middle"))
    request._told(whole=True)
    assert await anext(request) == b"some"
    for _ in range(2):
        with pytest.raises(AnswerCutShort):
            await anext(request)


async def test_a_client_that_is_closed_fails_what_is_not_read_to_its_end() -> None:
    for whole, read, fails in ((True, 2, False), (True, 1, True), (False, 2, True)):
        request = asked(b"all ", b"of it")
        for _ in range(read):
            await anext(request)
        request._told(whole=whole)
        request._give_up(UsageError("this client is closed"))
        with pytest.raises(UsageError if fails else StopAsyncIteration):
            await anext(request)

"""A model node's door over real sockets where values do not suffice, and its handlers' view."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from overlay.core.answering import DummyReady, RequestReady
from overlay.core.effects import Remember
from overlay.core.inbox import InboxEffect
from overlay.core.setup import period_of
from overlay.replay_log import ReplayLog
from overlay.server import EVENTS, IncomingRequest, OverlayServer, ReplyGone
from tests.overlay.conftest import MakeOverlay, seeded_identity


class Answer:
    """Where an `IncomingRequest` writes: room for `room` writes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.written: list[bytes] = []
        self.ends = 0
        self.request = IncomingRequest(b"payload", self.write, self.finish)

    def write(self, data: bytes) -> bool:
        self.written.append(data)
        return len(self.written) < self.room

    def finish(self) -> None:
        self.ends += 1


async def test_who_writes_waits_for_room() -> None:
    answer = Answer(2)
    await answer.request.write(b"one")
    await answer.request.write(b"two")
    third = asyncio.create_task(answer.request.write(b"three"))
    await asyncio.sleep(0)
    assert answer.written == [b"one", b"two"]
    answer.request.room_came()
    await third
    assert answer.written == [b"one", b"two", b"three"]


async def test_who_finishes_waits_for_the_last_byte() -> None:
    answer = Answer(9)
    finishing = asyncio.create_task(answer.request.finish())
    await asyncio.sleep(0)
    assert (answer.ends, finishing.done()) == (1, False)
    answer.request.sent()
    await finishing
    answer.request.end()
    assert answer.ends == 1


@pytest.mark.parametrize("waits", ["write", "finish"])
async def test_who_waits_learns_that_the_client_left(waits: str) -> None:
    answer = Answer(1)
    await answer.request.write(b"one")
    work = answer.request.write(b"two") if waits == "write" else answer.request.finish()
    waiting = asyncio.create_task(work)
    await asyncio.sleep(0)
    answer.request.abandon()
    with pytest.raises(ReplyGone):
        await waiting
    await answer.request.gone()
    assert answer.written == [b"one"]


async def test_a_handler_that_fails_ends_its_answer(make_overlay: MakeOverlay) -> None:
    async def failing(request: IncomingRequest) -> None:
        await request.write(b"begun")
        raise RuntimeError("a fault of ours")

    overlay = await make_overlay(failing, 9)
    before = EVENTS.labels("handler_failed")._value.get()
    client = overlay.client()
    assert [data async for data in client.request(overlay.target, b"hi")] == [b"begun"]
    assert EVENTS.labels("handler_failed")._value.get() == before + 1
    assert overlay.server.running == 0


async def test_requests_are_written_down_before_they_are_answered(
    make_overlay: MakeOverlay, tmp_path: Path
) -> None:
    written: list[int] = []

    async def looking(request: IncomingRequest) -> None:
        files = [path for path in (tmp_path / "model").iterdir() if path.name.isdigit()]
        written.extend(path.stat().st_size for path in files)
        await request.finish()

    overlay = await make_overlay(looking, 9)
    client = overlay.client()
    for _ in range(2):
        assert [data async for data in client.request(overlay.target, b"hi")] == []
    assert written == [16, 32]


async def test_a_disk_that_takes_nothing_stops_no_request(
    make_overlay: MakeOverlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answering(request: IncomingRequest) -> None:
        await request.write(b"hello")
        await request.finish()

    def full(taken: Remember) -> None:
        raise OSError(28, "No space left on device")

    overlay = await make_overlay(answering, 9)
    monkeypatch.setattr(overlay.server._replay, "remember", full)
    client = overlay.client()
    assert [data async for data in client.request(overlay.target, b"hi")] == [b"hello"]


def test_after_a_crash_a_model_node_serves_at_once(tmp_path: Path) -> None:
    """What a relay must not do: a request that is answered twice uses no key twice."""
    period = period_of(1_800_000_000.0)
    (tmp_path / "log").mkdir()  # without a secret: nothing is known
    for cold_periods, covered in ((-1, True), (2, False)):
        log = ReplayLog(tmp_path / "log", period, cold_periods)
        assert log.filter.covers(period - 1) == log.filter.covers(period) == covered
        (tmp_path / "log" / "secret").unlink()


async def test_a_server_that_was_never_started_closes(tmp_path: Path) -> None:
    async def nothing(request: IncomingRequest) -> None:
        raise AssertionError

    server = OverlayServer(seeded_identity(9), "127.0.0.1:0", nothing, tmp_path / "replay")
    await server.close()
    assert (tmp_path / "replay" / "clean").exists()


class Noting:
    """In place of an inbox: at which turn of the event loop it is told of the acceptance."""

    def __init__(self) -> None:
        self.turns = 0
        self.written: dict[bytes, int] = {}

    def write(self, request_id: bytes, data: bytes, now_s: float) -> list[InboxEffect]:
        self.written.setdefault(request_id, self.turns)
        return []

    def finish(self, request_id: bytes, now_s: float) -> list[InboxEffect]:
        return []

    def has_room(self, request_id: bytes) -> bool:
        return True


async def test_a_dummy_is_accepted_as_many_turns_of_the_loop_later_as_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def accepting(request: IncomingRequest) -> None:
        await request.write(b"accepted")
        request.end()

    server = OverlayServer(seeded_identity(9), "127.0.0.1:0", accepting, tmp_path / "replay")
    noting = Noting()
    monkeypatch.setattr(server, "_inbox", noting)
    server._carry_out([RequestReady(b"question", b"payload"), DummyReady(b"dummy", 0.0)])
    assert noting.written == {}
    while server.running or noting.turns < 3:
        noting.turns += 1
        await asyncio.sleep(0)
    assert noting.written[b"question"] == noting.written[b"dummy"] > 0
    await server.close()

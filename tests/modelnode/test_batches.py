"""Reading ahead: all that is there at once, nothing held back, nothing left running."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from modelnode.batches import MOST_ITEMS, Batches


class Source:
    """Gives runs of numbers, each run at once, when it is told to go on."""

    def __init__(self, runs: list[int], fails: Exception | None = None) -> None:
        self._runs = runs
        self._fails = fails
        self.go_on = asyncio.Event()
        self.given = 0
        self.closed = False

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for run in self._runs:
                for _ in range(run):
                    self.given += 1
                    yield self.given
                await self.go_on.wait()
            if self._fails is not None:
                raise self._fails
        finally:
            self.closed = True


async def test_a_batch_is_what_came_without_a_wait() -> None:
    source = Source([3, 1])
    async with Batches(source.items()) as reading:
        assert await reading.take() == [1, 2, 3]
        taking = asyncio.create_task(reading.take())
        await asyncio.sleep(0.01)
        assert not taking.done()
        source.go_on.set()
        assert await taking == [4]
        assert await reading.take() == []
    assert source.closed


async def test_no_more_is_read_ahead_than_there_is_room_for() -> None:
    source = Source([10 * MOST_ITEMS])
    async with Batches(source.items()) as reading:
        await asyncio.sleep(0.01)
        assert source.given == MOST_ITEMS
        source.go_on.set()
        taken: list[int] = []
        while batch := await reading.take():
            assert len(batch) <= MOST_ITEMS
            taken += batch
    assert taken == list(range(1, 10 * MOST_ITEMS + 1))


async def test_a_failure_comes_after_what_came_before_it() -> None:
    source = Source([2], ValueError("broken"))
    source.go_on.set()
    async with Batches(source.items()) as reading:
        assert await reading.take() == [1, 2]
        with pytest.raises(ValueError, match="broken"):
            await reading.take()


@pytest.mark.parametrize("stops", [True, False])
async def test_who_stops_or_leaves_closes_the_source_where_it_waits(stops: bool) -> None:
    source = Source([1])
    async with Batches(source.items()) as reading:
        assert await reading.take() == [1]
        if stops:
            taking = asyncio.create_task(reading.take())
            await asyncio.sleep(0)
            reading.stop()
            assert await taking == []
    assert source.closed

"""A relay whose disk is full, or whose clock is set, keeps its paths."""

from __future__ import annotations

from overlay.core.client_path import OPEN, Broken
from overlay.core.reasons import Reason, Report
from overlay.core.relay import RelayLimits
from overlay.core.wire import HEADER_BYTES, read_chunk
from tests.overlay.world import World


def test_a_full_table_gives_up_no_path_for_a_set_up_that_cannot_be_written_down() -> None:
    world = World(limits=RelayLimits(max_paths=4))
    kept = [world.build(owner=b"big") for _ in range(4)]
    world.line[0].disk_is_full = True
    for number in range(3):
        assert world.begin(owner=b"small %d" % number).receive() == []
    assert world.open_paths() == [4, 4, 4]
    world.line[0].disk_is_full = False
    assert world.build(owner=b"small").path.phase == OPEN
    assert world.open_paths() == [4, 4, 4]
    assert [owned.receive() for owned in kept].count([Broken(Report(Reason.SHED), 0)]) == 1


def test_a_clock_that_is_set_ends_no_path() -> None:
    """Periods go by the clock, the times of paths do not."""
    world = World()
    owned = world.build()
    for seconds in (130.0, -4000.0, 8000.0):
        for member in world.line:
            member.clock_ahead_s = seconds
        world.tick(11.0)
    assert world.open_paths() == [1, 1, 1]
    owned.ask(b"question")
    assert [read_chunk(c.frame[HEADER_BYTES:]) for c in world.at_target()] == [b"question"]
    late = world.begin().receive()
    assert isinstance(late[0], Broken)
    assert late[0].report.reason == Reason.PERIOD

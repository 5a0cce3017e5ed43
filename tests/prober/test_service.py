"""What a prober sends when the world changes between its commitment and its reveal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planetserve.errors import TransactionRejected
from planetserve.records import RouteSet
from prober import epoch_round
from prober.epoch_round import Clock, Commit, EpochRound, Probe, Reveal, Score
from prober.service import Event, Prober, ProberSettings
from tests.abci_app.world import participant

PROBER = participant(1)
NODE = bytes(range(20))
SCORE = Score(NODE, 900_000, 1, bytes(32), bytes(32))
CLOCK = Clock(height=16, epoch=3, start=1, commit_end=16, reveal_end=25, end=26)


@dataclass
class Ledger:
    """Takes transactions, or refuses the first with `refusal`."""

    refusal: TransactionRejected | None = None
    sent: list[str] = field(default_factory=list)
    network: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(chain_id="chain"))

    async def send(self, identity: object, kind: str, data: Mapping[str, Any]) -> None:
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal
        self.sent.append(kind)


class Scene:
    """A prober in epoch 3 that has committed to a score of a node no longer in the route set."""

    def __init__(self, folder: Path, refusal: TransactionRejected | None = None) -> None:
        self.ledger = Ledger(refusal)
        self.events: list[Event] = []
        settings = ProberSettings(
            samples=1,
            epochs=None,
            endorse_open=False,
            transcripts=folder / "transcripts.jsonl",
            pending=folder / "pending.json",
        )
        ledger: Any = self.ledger
        self.prober = Prober(PROBER, ledger, settings, self.events.append)
        self.prober._routes = RouteSet(height=16, nodes=(), hash=bytes(32))
        self.prober._round = epoch_round.resume(CLOCK, [SCORE])

    @property
    def round(self) -> EpochRound:
        assert self.prober._round is not None
        return self.prober._round

    def step(self) -> None:
        self.prober._round, steps = epoch_round.next_steps(self.round, CLOCK)
        for step in steps:
            asyncio.run(self.prober._carry_out(step, 3))


def test_a_node_that_left_has_its_score_revealed_all_the_same(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.step()
    assert scene.ledger.sent == ["reveal"]
    assert scene.round.stages == {NODE: epoch_round.DONE}
    assert [event.what for event in scene.events] == ["reveal"]
    assert scene.events[0].node_id == NODE.hex()


def test_a_reveal_refused_before_any_block_is_sent_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, TransactionRejected(69, "too many wait", proven=False))
    scene.step()
    assert scene.round.stages == {NODE: epoch_round.COMMITTED}
    scene.step()
    assert scene.ledger.sent == ["reveal"]
    assert [event.what for event in scene.events] == ["refused", "reveal"]


def test_a_reveal_refused_in_a_block_is_given_up(tmp_path: Path) -> None:
    scene = Scene(tmp_path, TransactionRejected(33, "no commitment"))
    scene.step()
    scene.step()
    assert scene.ledger.sent == []
    assert scene.round.finished


@pytest.mark.parametrize("step", [Probe(NODE), Commit(SCORE), Reveal(SCORE)])
def test_only_a_probe_needs_the_node(tmp_path: Path, step: Probe | Commit | Reveal) -> None:
    scene = Scene(tmp_path)
    asyncio.run(scene.prober._carry_out(step, 3))
    assert (not scene.ledger.sent) == isinstance(step, Probe)


@pytest.mark.parametrize(("may_commit", "epoch"), [(True, 3), (False, 3), (True, 2)])
def test_a_probe_that_has_no_time_left_is_not_made(
    tmp_path: Path, may_commit: bool, epoch: int
) -> None:
    """Its node has left, so that the one with time ends with that for its reason."""
    scene = Scene(tmp_path)
    scene.prober._may_commit = may_commit
    asyncio.run(scene.prober._carry_out(Probe(NODE), epoch))
    (event,) = scene.events
    has_time = may_commit and epoch == 3
    assert (event.what, event.reason) == (
        "abstain",
        "the node has left the route set" if has_time else "no time is left for it",
    )

"""What a prober does in one epoch, decided from values.

    per node:  waiting ──probe──▶ probing ──score──▶ scored ──commit──▶ committed ──reveal──▶ done
                                     └──no verdict──▶ abstained

A probe begins at the block that its offset names, so that probes are spread over the window; a
commit is sent in the commit window, a reveal in the reveal window, and what missed its window is
not sent at all. A reveal that fails is tried again while its window is open: the ledger counts a
commitment that stays closed against its prober.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

PROBE_SHARE_PERCENT = 35
"""Probes begin in this share of the commit window; the rest is for slow answers and the commit."""


MAX_NEWCOMERS = 16


@dataclass(frozen=True, slots=True)
class Clock:
    """Where the chain stands: `height` is committed, windows as in `abci_app.core.context`."""

    height: int
    epoch: int
    start: int
    commit_end: int
    reveal_end: int
    end: int

    @property
    def may_commit(self) -> bool:
        return self.start <= self.height + 1 < self.commit_end

    @property
    def may_begin(self) -> bool:
        """Whether enough of the commit window is left to ask every node and commit in time."""
        return self.may_commit and 2 * (self.commit_end - self.height) > (
            self.commit_end - self.start
        )

    @property
    def may_reveal(self) -> bool:
        return self.commit_end <= self.height + 1 < self.reveal_end


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one node: C in millionths, and what opens the commitment."""

    node: bytes
    score_ppm: int
    samples: int
    digest: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class Probe:
    node: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    score: Score


@dataclass(frozen=True, slots=True)
class Reveal:
    score: Score


Step: TypeAlias = Probe | Commit | Reveal

WAITING = "waiting"
PROBING = "probing"
SCORED = "scored"
COMMITTING = "committing"
COMMITTED = "committed"
REVEALING = "revealing"
DONE = "done"
ABSTAINED = "abstained"


@dataclass(frozen=True, slots=True)
class EpochRound:
    """One epoch's work: each node's stage, its verdict once there is one, and when to begin."""

    epoch: int
    begins: Mapping[bytes, int]
    stages: Mapping[bytes, str]
    scores: Mapping[bytes, Score] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def short_of_time(self) -> bool:
        """Whether, at its end, probes were not over or scores came too late to commit."""
        return any(
            stage == PROBING or (stage != DONE and node in self.scores)
            for node, stage in self.stages.items()
        )

    @property
    def finished(self) -> bool:
        return all(stage in (DONE, ABSTAINED) for stage in self.stages.values())

    def at(self, node: bytes, stage: str) -> EpochRound:
        return replace(self, stages=MappingProxyType({**self.stages, node: stage}))

    def scored(self, score: Score) -> EpochRound:
        scores = MappingProxyType({**self.scores, score.node: score})
        return replace(self.at(score.node, SCORED), scores=scores)


def begin(clock: Clock, nodes: Collection[bytes], fractions: Mapping[bytes, float]) -> EpochRound:
    """A round for `nodes`; `fractions` in [0, 1) place each probe in what is left of the window."""
    first = max(clock.start, clock.height + 1)
    room = max((clock.commit_end - first) * PROBE_SHARE_PERCENT // 100, 0)
    begins = {node: first + int(fractions[node] * room) for node in nodes}
    return EpochRound(
        clock.epoch, MappingProxyType(begins), MappingProxyType(dict.fromkeys(nodes, WAITING))
    )


def by_seed(seed: bytes, nodes: Iterable[bytes]) -> list[bytes]:
    """An order that is the same for every prober, and another one in every epoch. Probers that
    have no time for all of their nodes go by it: a quorum then scores the first of them, where at
    random each would score others and nothing would settle. Who has time does not, for the order
    tells a node when to expect its probes."""
    return sorted(nodes, key=lambda node: hashlib.sha256(seed + node).digest())


def drawn_newcomers(seed: bytes, newcomers: Iterable[bytes]) -> list[bytes]:
    """Which of the nodes that wait for admission are probed in the epoch with `seed`."""
    return by_seed(seed, newcomers)[:MAX_NEWCOMERS]


def resume(clock: Clock, scores: Collection[Score]) -> EpochRound:
    """A round that a former process had begun: what it committed to is still to be revealed."""
    return EpochRound(
        clock.epoch,
        MappingProxyType({}),
        MappingProxyType({score.node: COMMITTED for score in scores}),
        MappingProxyType({score.node: score for score in scores}),
    )


def after_refusal(step: Step, *, proven: bool) -> str:
    """The stage of a node after the ledger refused what was sent of it. Before any block a refusal
    may be of the moment, a full mempool or a server that lags: a reveal is then tried again."""
    if isinstance(step, Reveal) and not proven:
        return COMMITTED
    return ABSTAINED


def next_steps(current: EpochRound, clock: Clock) -> tuple[EpochRound, list[Step]]:
    """What to start now, and the round with those stages entered."""
    steps: list[Step] = []
    for node, stage in current.stages.items():
        if stage == WAITING and clock.may_commit and clock.height + 1 >= current.begins[node]:
            current = current.at(node, PROBING)
            steps.append(Probe(node))
        elif stage == SCORED and clock.may_commit:
            current = current.at(node, COMMITTING)
            steps.append(Commit(current.scores[node]))
        elif stage == COMMITTED and clock.may_reveal:
            current = current.at(node, REVEALING)
            steps.append(Reveal(current.scores[node]))
        elif (stage in (WAITING, SCORED) and not clock.may_commit) or (
            stage == COMMITTED and clock.height + 1 >= clock.reveal_end
        ):
            current = current.at(node, ABSTAINED)
    return current, steps

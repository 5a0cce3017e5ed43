"""A node's settled epochs, recomputed from the evidence that the ledger keeps with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planetserve.assignment import ONE_PPM, chance_ppm
from planetserve.ledger_cli.display import decimal
from planetserve.ledger_cli.rule import (
    ADMITTED,
    Outcome,
    Parameters,
    Score,
    Standing,
    convicted,
    credit_of,
    rotated,
    settle,
)
from planetserve.records import CANDIDATE, TRUSTED, UNTRUSTED


@dataclass(frozen=True, slots=True)
class Settled:
    """One result as the ledger recorded it, with its epoch's parameters, the share of the probers
    that judged nodes in good standing, and the heights of the epoch."""

    node: bytes
    epoch: int
    height: int
    scores: tuple[Score, ...]
    total_power: int
    chance_ppm: int
    credit_ppm: int | None
    before_ppm: int
    after_ppm: int
    cusum_before_ppm: int
    cusum_after_ppm: int
    abnormal: int
    streak: int
    status: str
    reason: str
    verdict: str
    previous: tuple[bytes, int] | None
    parameters: Parameters
    sample_ppm: int
    epoch_power: int
    start: int


@dataclass(frozen=True, slots=True)
class Conviction:
    """Evidence that took a node's reputation at `height`."""

    height: int
    breach: str
    reporter: bytes


@dataclass(frozen=True, slots=True)
class Explained:
    """A result beside what the rule makes of its evidence. `differences` say where they part;
    `since_before` are convictions since the epoch before. `complete` is false for the oldest
    result that is known: what it built on is not there, so its standing is as recorded."""

    settled: Settled
    before: Standing
    outcome: Outcome
    since_before: tuple[Conviction, ...]
    complete: bool
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Results in ascending order of epochs; `now` is the standing after them and
    `since_last` the convictions that came after the last."""

    epochs: tuple[Explained, ...]
    now: Standing | None
    since_last: tuple[Conviction, ...]
    differences: tuple[str, ...]

    @property
    def all_differences(self) -> tuple[str, ...]:
        return (*(line for item in self.epochs for line in item.differences), *self.differences)


def settled_from(record: Mapping[str, Any], summary: Mapping[str, Any]) -> Settled:
    """Of a `results/` record and its epoch's `epochs/` record. Raises `KeyError`, `TypeError` or
    `ValueError` for records of another form."""
    previous = record["previous"]
    return Settled(
        **{name: record[name] for name in RESULT_FIELDS},
        scores=tuple(Score(*score) for score in record["scores"]),
        previous=None if previous is None else (bytes(previous[0]), int(previous[1])),
        parameters=summary["params"],
        sample_ppm=summary["sample_ppm"],
        epoch_power=summary["total_power"],
        start=summary["start"],
    )


RESULT_FIELDS = (
    "node",
    "epoch",
    "height",
    "total_power",
    "chance_ppm",
    "credit_ppm",
    "before_ppm",
    "after_ppm",
    "cusum_before_ppm",
    "cusum_after_ppm",
    "abnormal",
    "streak",
    "status",
    "reason",
    "verdict",
)


def explain(
    results: Sequence[Settled],
    convictions: Iterable[Conviction],
    node: bytes,
    reputation: Mapping[str, Any],
    height: int,
) -> Explanation:
    """Replay `results`, in ascending order of epochs, up to the `reputation/` record that `node`
    has at `height`.

    What the first result built on is not recorded. Of the standings that it may have come from,
    the one that explains most is taken.
    """
    known = [conviction for conviction in convictions if conviction.height <= height]
    if not results:
        return Explanation((), None, tuple(known), ())
    attempts = [
        _replay(start, results, known, node, reputation) for start in _beginnings(results[0])
    ]
    return min(attempts, key=lambda attempt: len(attempt.all_differences))


def _beginnings(first: Settled) -> list[Standing]:
    founder = first.status != CANDIDATE and first.verdict != ADMITTED
    start = Standing(
        ppm=first.before_ppm,
        window_ppm=(),
        whole=first.previous is None,
        cusum_ppm=first.cusum_before_ppm,
        admitted=founder,
        trusted=True,
        streak=0,
        alarm=0 if first.previous is None else None,
    )
    # A node that rotates its key before its first result begins under alarm; and a candidate's
    # status does not say whether evidence has already put it on probation.
    other = replace(start, alarm=None) if start.whole else replace(start, trusted=False)
    return [start, replace(start, admitted=not founder), other]


def _replay(
    start: Standing,
    results: Sequence[Settled],
    convictions: Sequence[Conviction],
    node: bytes,
    reputation: Mapping[str, Any],
) -> Explanation:
    standing, reached = start, 0
    explained = []
    for index, settled in enumerate(results):
        complete = index > 0 or start.whole
        since = _between(convictions, reached, settled.height)
        if since and complete:
            standing = convicted(standing)
        if index and settled.node != results[index - 1].node:
            standing = rotated(standing, results[index - 1].parameters)
        item = _explained(settled, standing, since, complete)
        explained.append(item)
        standing, reached = _as_recorded(item), settled.height
    since = tuple(conviction for conviction in convictions if conviction.height > reached)
    now = convicted(standing) if since else standing
    if results[-1].node != node:
        now = rotated(now, results[-1].parameters)
    return Explanation(tuple(explained), now, since, _differs_now(now, reputation))


def _between(convictions: Sequence[Conviction], after: int, upto: int) -> tuple[Conviction, ...]:
    return tuple(item for item in convictions if after < item.height <= upto)


def _explained(
    settled: Settled, before: Standing, since: tuple[Conviction, ...], complete: bool
) -> Explained:
    parameters = settled.parameters
    differences = _Differences(settled.epoch)
    differences.ppm("R before", before.ppm, settled.before_ppm)
    differences.ppm("CUSUM before", before.cusum_ppm, settled.cusum_before_ppm)
    before = replace(before, ppm=settled.before_ppm, cusum_ppm=settled.cusum_before_ppm)
    probers = [score.prober for score in settled.scores]
    if len(set(probers)) != len(probers):
        differences.add("one prober's score counts twice")
    differences.value("all power", settled.epoch_power, settled.total_power)
    chance = settled.chance_ppm
    if before.alarm is None and chance < ONE_PPM:
        before = replace(before, alarm=0)
    if complete and before.alarm is not None:
        differences.ppm("the share of probers", _chance(before, settled), chance)
    credit = credit_of(settled.scores, settled.total_power, chance, before.ppm, parameters)
    differences.ppm("C", credit, settled.credit_ppm)
    outcome = settle(before, settled.scores, credit, chance, parameters, settled.abnormal)
    after = outcome.after
    differences.ppm("R", after.ppm, settled.after_ppm)
    differences.text("the reason", outcome.reason, settled.reason)
    if outcome.abnormal is not None:
        differences.value("abnormal epochs", outcome.abnormal, settled.abnormal)
    if complete:
        differences.ppm("CUSUM", after.cusum_ppm, settled.cusum_after_ppm)
        differences.value("good epochs in a row", after.streak, settled.streak)
        differences.text("the status", after.status, settled.status)
        differences.text("the verdict", outcome.verdict, settled.verdict)
    return Explained(settled, before, outcome, since, complete, differences.lines)


def _chance(before: Standing, settled: Settled) -> int:
    standing = {name: getattr(before, name) for name in ("ppm", "admitted", "trusted", "alarm")}
    return chance_ppm(standing, settled.parameters["full_below_ppm"], settled.sample_ppm)


def _as_recorded(item: Explained) -> Standing:
    """Where the next epoch goes on: with what the ledger recorded, so that one difference is not
    told again for every epoch after it."""
    settled, after = item.settled, item.outcome.after
    standing = replace(
        after,
        ppm=settled.after_ppm,
        cusum_ppm=settled.cusum_after_ppm,
        streak=settled.streak,
        admitted=settled.status != CANDIDATE,
    )
    if settled.status in (TRUSTED, UNTRUSTED):
        standing = replace(standing, trusted=settled.status == TRUSTED)
    return standing


def _differs_now(now: Standing, reputation: Mapping[str, Any]) -> tuple[str, ...]:
    differences = _Differences(None)
    differences.ppm("R", now.ppm, reputation["ppm"])
    differences.ppm("CUSUM", now.cusum_ppm, reputation["cusum_ppm"])
    differences.value("good epochs in a row", now.streak, reputation["streak"])
    differences.value("admitted", now.admitted, reputation["admitted"])
    differences.value("trusted", now.trusted, reputation["trusted"])
    if now.alarm is not None:
        differences.value("epochs under alarm", now.alarm, reputation["alarm"])
    if now.whole:
        window = " ".join(decimal(credit) for credit in now.window_ppm)
        recorded = " ".join(decimal(credit) for credit in reputation["window_ppm"])
        differences.text("the window", window, recorded)
    return differences.lines


class _Differences:
    """Collects where rule and record part, in words."""

    def __init__(self, epoch: int | None) -> None:
        self._place = "now" if epoch is None else f"epoch {epoch}"
        self.lines: tuple[str, ...] = ()

    def add(self, line: str) -> None:
        self.lines = (*self.lines, f"{self._place}: {line}")

    def text(self, what: str, computed: str, recorded: str) -> None:
        if computed != recorded:
            self.add(f"{what} comes to {computed!r} by the rule, and the ledger has {recorded!r}")

    def value(self, what: str, computed: int, recorded: int) -> None:
        self.text(what, str(computed), str(recorded))

    def ppm(self, what: str, computed: int | None, recorded: int | None) -> None:
        words = ["none" if ppm is None else decimal(ppm) for ppm in (computed, recorded)]
        self.text(what, *words)

"""A node's settled epochs, recomputed from the evidence that the ledger keeps with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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
    with_another_model,
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
    `since_before` are convictions since the epoch before, and `other_model` is whether the node
    has changed what it serves since then. `complete` is false for the oldest result that is
    known: what it built on is not there, so its standing is as recorded."""

    settled: Settled
    before: Standing
    outcome: Outcome
    since_before: tuple[Conviction, ...]
    other_model: bool
    complete: bool
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Results in ascending order of epochs; `now` is the standing after them, `since_last` and
    `other_model` as in `Explained`."""

    epochs: tuple[Explained, ...]
    now: Standing | None
    since_last: tuple[Conviction, ...]
    other_model: bool
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
    parameters: Parameters,
    height: int,
) -> Explanation:
    """Replay `results`, in ascending order of epochs, up to the `reputation/` record that `node`
    has at `height` under the `parameters` of that time. `convictions` are those of its ids.

    What the first result built on is not recorded. Of the standings that it may have come from,
    the one that explains most is taken.
    """
    known = sorted(
        (conviction for conviction in convictions if conviction.height <= height),
        key=lambda conviction: conviction.height,
    )
    # A node that was forgotten and came back begins anew; evidence of its past is still kept.
    known = known[max(0, len(known) - reputation["convictions"]) :]
    if not results:
        return Explanation((), None, tuple(known), other_model=False, differences=())
    history = _History(results, known, node, reputation, parameters)
    attempts = [_replay(start, history) for start in _beginnings(results[0])]
    return min(attempts, key=lambda attempt: len(attempt.all_differences))


@dataclass(frozen=True, slots=True)
class _History:
    """The arguments of `explain`, in order; `convictions` are those of the node's present life."""

    results: Sequence[Settled]
    convictions: Sequence[Conviction]
    node: bytes
    reputation: Mapping[str, Any]
    parameters: Parameters

    def convictions_in(self, after: int, upto: int | None = None) -> tuple[Conviction, ...]:
        return tuple(
            item
            for item in self.convictions
            if item.height > after and (upto is None or item.height <= upto)
        )


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


def _replay(start: Standing, history: _History) -> Explanation:
    first, last = history.results[0], history.results[-1]
    reached = 0 if start.whole else first.height
    convictions = history.reputation["convictions"] - len(history.convictions_in(reached))
    standing = replace(start, convictions=convictions)
    explained = [_first(first, standing, history)]
    for former, settled in pairwise(history.results):
        since = history.convictions_in(former.height, settled.height)
        rotates = former.node != settled.node
        agreed = _agreed(former.parameters, settled.parameters)
        ways = [
            _explained(settled, moved, since, other_model=other_model, complete=True)
            for moved, other_model in _ways(
                _as_recorded(explained[-1]),
                [agreed if item.height < settled.start else settled.parameters for item in since],
                settled.cusum_before_ppm,
                agreed,
                rotates=rotates,
            )
        ]
        explained.append(min(ways, key=lambda way: len(way.differences)))
    since = history.convictions_in(last.height)
    agreed = _agreed(last.parameters, history.parameters)
    endings = [
        (moved, other_model, _differs_now(moved, history.reputation))
        for moved, other_model in _ways(
            _as_recorded(explained[-1]),
            [agreed] * len(since),
            history.reputation["cusum_ppm"],
            agreed,
            rotates=last.node != history.node,
        )
    ]
    now, other_model, differences = min(endings, key=lambda ending: len(ending[2]))
    return Explanation(tuple(explained), now, since, other_model, differences)


def _first(first: Settled, start: Standing, history: _History) -> Explained:
    if not start.whole:
        since = history.convictions_in(first.start - 1, first.height)
        return _explained(first, start, since, other_model=False, complete=False)
    since = history.convictions_in(0, first.height)
    known = [None if item.height < first.start else first.parameters for item in since]
    ways = [
        _explained(first, moved, since, other_model=other_model, complete=True)
        for moved, other_model in _ways(start, known, first.cusum_before_ppm, None, rotates=False)
    ]
    return min(ways, key=lambda way: len(way.differences))


def _ways(
    before: Standing,
    convictions: Sequence[Parameters | None],
    recorded_cusum_ppm: int,
    agreed: Parameters | None,
    *,
    rotates: bool,
) -> list[tuple[Standing, bool]]:
    """What may have become of a standing between two results, and whether the node then serves
    another model, which no record of an epoch says. `convictions` are given by the parameters of
    their epochs, and `agreed` are those of both results."""

    def moved(standing: Standing) -> Standing:
        for parameters in convictions:
            standing = convicted(standing, parameters, recorded_cusum_ppm)
        return rotated(standing, agreed) if rotates else standing

    ways = [(moved(before), False), (with_another_model(moved(before)), True)]
    if convictions:
        ways.append((moved(with_another_model(before)), True))
    return ways


def _agreed(first: Parameters, second: Parameters) -> Parameters | None:
    """The parameters of a time between two epochs, None where a vote may have changed them."""
    same = all(first[name] == second[name] for name in ("alarm_epochs", "cusum_limit_ppm"))
    return first if same else None


def _explained(
    settled: Settled,
    before: Standing,
    since: tuple[Conviction, ...],
    *,
    other_model: bool,
    complete: bool,
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
    return Explained(settled, before, outcome, since, other_model, complete, differences.lines)


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
    differences.value("convictions", now.convictions, reputation["convictions"])
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

"""A node's settled epochs, each held against the rule and against the one before it.

A result holds the reputation before it, the scores and the reputation after it, so that the rule
(`planetserve.scoring`) gives the last from the others. Between two results only evidence, a
rotation of the key and another model change a reputation. The ledger records the first two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from planetserve.ledger_cli.differences import Differences
from planetserve.ledger_cli.display import short
from planetserve.ledger_cli.life import ROTATION, SETTLEMENT, Conviction, Event, Life, Moment
from planetserve.scoring.credit import Score
from planetserve.scoring.judgement import judge_epoch
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation, reputation_from, with_another_model


@dataclass(frozen=True, slots=True)
class Settled:
    """One result as the ledger recorded it, with its epoch's parameters, the share of the probers
    that judged nodes in good standing, all power of that epoch and its first height."""

    node: bytes
    epoch: int
    height: int
    scores: tuple[Score, ...]
    total_power: int
    chance_ppm: int
    credit_ppm: int | None
    before: Reputation
    after: Reputation
    abnormal: int
    reason: str
    verdict: str
    parameters: Parameters
    sample_ppm: int
    epoch_power: int
    start: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a node came from one result to the beginning of the next, or to where it is now:
    `convictions` on the way, and whether it serves another model since. `known` is false where
    what it came from, or the rules of that time, are dropped; nothing is compared then."""

    convictions: tuple[Conviction, ...]
    other_model: bool
    known: bool
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """A result beside the reputation `after` it that the rule makes of its evidence; `differences`
    say where they part, those of its `arrival` first."""

    settled: Settled
    arrival: Arrival
    after: Reputation
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Results in ascending order of epochs, and how the node came from the last to where it is
    `now`."""

    epochs: tuple[Explained, ...]
    now: Arrival

    @property
    def differences(self) -> tuple[str, ...]:
        return (*(line for item in self.epochs for line in item.differences), *self.now.differences)


def settled_from(record: Mapping[str, Any], summary: Mapping[str, Any]) -> Settled:
    """Of a `results/` record and its epoch's `epochs/` record. Raises `KeyError`, `TypeError` or
    `ValueError` for records of another form."""
    return Settled(
        node=record["node"],
        epoch=record["epoch"],
        height=record["height"],
        scores=tuple(Score(*score) for score in record["scores"]),
        total_power=record["total_power"],
        chance_ppm=record["chance_ppm"],
        credit_ppm=record["credit_ppm"],
        before=reputation_from(record["before"]),
        after=reputation_from(record["after"]),
        abnormal=record["abnormal"],
        reason=record["reason"],
        verdict=record["verdict"],
        parameters=parameters_in(summary["params"]),
        sample_ppm=summary["sample_ppm"],
        epoch_power=summary["total_power"],
        start=summary["start"],
    )


def parameters_in(record: Mapping[str, Any]) -> Parameters:
    """Those that this program knows; newer rules may have more."""
    return Parameters(**{item.name: int(record[item.name]) for item in fields(Parameters)})


def explain(
    results: Sequence[Settled], life: Life, reputation: Reputation | None, *, judge: bool = True
) -> Explanation:
    """Follow `results`, linked and in ascending order of epochs, to the `reputation` that the node
    has now. Without `judge` nothing is compared: the chain follows other rules than this program.
    """
    explained = []
    former: Settled | None = None
    for settled in results:
        arrival = _arrival(former, settled.before, (settled.epoch, SETTLEMENT), life)
        explained.append(_explained(settled, arrival, life))
        former = settled
    now = Arrival((), other_model=False, known=False, differences=())
    if reputation is not None:
        now = _arrival(former, reputation, None, life)
    if not judge:
        explained = [replace(item, differences=()) for item in explained]
        now = replace(now, differences=())
    return Explanation(tuple(explained), now)


def _arrival(
    former: Settled | None, target: Reputation, moment: Moment | None, life: Life
) -> Arrival:
    """From `former` to `target`, which the node had at `moment`, None for now."""
    lacking = former is None and target.last is not None
    left = None if former is None else (former.epoch, SETTLEMENT)
    if lacking and moment is not None:
        left = (moment[0] - 1, ROTATION)
    events = life.between(left, moment)
    convictions = tuple(event for event in events if isinstance(event, Conviction))
    if lacking or any(event.epoch not in life.parameters for event in events):
        return Arrival(convictions, other_model=False, known=False, differences=())
    starts = _beginnings(target, events) if former is None else [(former.after, events)]
    ways = [way for start, passed in starts for way in _ways(start, passed, life)]
    found = []
    for came_to, other_model in ways:
        differences = Differences(None if moment is None else moment[0])
        differences.reputation(came_to, target, "" if moment is None else " before")
        found.append((differences.lines, other_model))
    lines, other_model = min(found, key=lambda item: len(item[0]))
    return Arrival(convictions, other_model, known=True, differences=lines)


def _beginnings(
    target: Reputation, events: Sequence[Event]
) -> Iterator[tuple[Reputation, Sequence[Event]]]:
    """What a reputation may have begun with, and what has happened since. The ledger does not
    record with which R, whether genesis vouched for the node, nor whether it rotated its key
    before anyone scored it."""
    for admitted in (False, True):
        start = Reputation(target.ppm, admitted=admitted)
        for place, event in enumerate(events):
            yield start, events[place:]
            if isinstance(event, Conviction):
                break
        else:
            yield start, ()


def _ways(
    start: Reputation, events: Sequence[Event], life: Life
) -> Iterator[tuple[Reputation, bool]]:
    """What `events` make of a reputation, and whether the node serves another model since, which
    no record of an epoch says. Evidence after that hides half of it."""

    def passed(reputation: Reputation) -> Reputation:
        for event in events:
            reputation = event.applied(reputation, life.parameters[event.epoch])
        return reputation

    yield passed(start), False
    yield with_another_model(passed(start)), True
    yield passed(with_another_model(start)), True


def _explained(settled: Settled, arrival: Arrival, life: Life) -> Explained:
    differences = Differences(settled.epoch)
    differences.text("the node", short(life.id_in(settled.epoch)), short(settled.node))
    probers = [score.prober for score in settled.scores]
    if len(set(probers)) != len(probers):
        differences.add("one prober's score counts twice")
    differences.value("all power", settled.epoch_power, settled.total_power)
    judgement = judge_epoch(
        settled.before,
        settled.scores,
        settled.total_power,
        settled.sample_ppm,
        settled.parameters,
    )
    update = judgement.update
    after = replace(update.reputation, last=(settled.node, settled.epoch))
    differences.ppm("the share of probers", judgement.chance_ppm, settled.chance_ppm)
    differences.ppm("C", judgement.credit_ppm, settled.credit_ppm)
    differences.value("abnormal epochs", update.abnormal, settled.abnormal)
    differences.text("the reason", update.reason, settled.reason)
    differences.text("the verdict", update.verdict, settled.verdict)
    differences.reputation(after, settled.after)
    return Explained(settled, arrival, after, (*arrival.differences, *differences.lines))

"""What the ledger records of a node beside its results: when evidence convicted it, and when it
rotated its key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation, convicted, rotated

Moment = tuple[int, int]
"""An epoch and what happens in it: first evidence, then the settlement, then rotations."""
EVIDENCE, SETTLEMENT, ROTATION = range(3)


@dataclass(frozen=True, slots=True)
class Conviction:
    """Evidence that took a node's reputation at `height` of `epoch`."""

    epoch: int
    height: int
    breach: str
    reporter: bytes

    @property
    def moment(self) -> Moment:
        return self.epoch, EVIDENCE

    def applied(self, before: Reputation, parameters: Parameters) -> Reputation:
        return convicted(before, parameters)


@dataclass(frozen=True, slots=True)
class Rotation:
    """The node's key under which it had the id `former`, up to the end of `epoch`."""

    epoch: int
    former: bytes

    @property
    def moment(self) -> Moment:
        return self.epoch, ROTATION

    def applied(self, before: Reputation, parameters: Parameters) -> Reputation:
        return rotated(before, parameters)


Event = Conviction | Rotation


@dataclass(frozen=True, slots=True)
class Life:
    """What the ledger records of a node beside its results, in order: `events`, and `parameters`
    by the epochs that they fall into, where these are kept. `node` is its present id."""

    node: bytes
    events: tuple[Event, ...]
    parameters: Mapping[int, Parameters]

    def between(self, after: Moment | None, before: Moment | None) -> tuple[Event, ...]:
        return tuple(
            event
            for event in self.events
            if (after is None or event.moment > after) and (before is None or event.moment < before)
        )

    def id_in(self, epoch: int) -> bytes:
        """Under which id the node was judged in an epoch."""
        for event in self.events:
            if isinstance(event, Rotation) and event.epoch >= epoch:
                return event.former
        return self.node


def events_of(
    convictions: Iterable[Conviction], rotations: Iterable[Rotation], counted: int
) -> tuple[Event, ...]:
    """In order, of all `convictions` that any id of the node has ever had. A node that was
    forgotten and came back began anew: only so many as its reputation has `counted` are of its
    present life."""
    known = sorted(convictions, key=lambda item: item.height)
    present = known[max(0, len(known) - counted) :]
    return tuple(sorted([*present, *rotations], key=lambda event: event.moment))

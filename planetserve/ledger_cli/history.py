"""What the ledger has recorded of a node, each record proven: its results, followed from the
newest by the links between them, and what happened to it between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planetserve.ledger_cli.conversation import answers_of_expected_form, read_from
from planetserve.ledger_cli.explain import Settled, parameters_in, settled_from
from planetserve.ledger_cli.life import SETTLEMENT, Conviction, Life, Rotation, events_of
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation, reputation_from
from planetserve.statekeys import (
    CHAIN_KEY,
    EPOCH_KEY,
    epoch_key,
    node_key,
    reputation_key,
    result_key,
    route_key,
    waiting_key,
)

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient
    from planetserve.records import NodeRecord

BATCH_EPOCHS = 100
"""Most nodes are scored in every epoch, so one read takes this many in a row."""
KEYS_A_READ = 500

FIRST, ASKED, DROPPED = "first", "asked", "dropped"


@dataclass(frozen=True, slots=True)
class Present:
    """A node at `height`, while `epoch` runs under `parameters` and `version` of the rules.
    `reputation` is None for one that nobody scores."""

    node: NodeRecord
    reputation: Reputation | None
    convictions: tuple[Conviction, ...]
    rotations: tuple[Rotation, ...]
    version: int
    parameters: Parameters
    epoch: int
    sample_ppm: int
    height: int


@dataclass(frozen=True, slots=True)
class History:
    """Results in ascending order of epochs. `end` says why there is none before them: it is the
    node's first (`FIRST`), no more were asked for (`ASKED`), or the ledger has dropped them
    (`DROPPED`)."""

    results: tuple[Settled, ...]
    end: str


async def read_present(ledger: LedgerClient, height: int, node: bytes) -> Present:
    """All of one state, no older than that of `height`. Evidence is read, as a whole, for those
    whom some has convicted. Raises `UsageError` when the node has just left its id."""
    from planetserve.errors import UsageError
    from planetserve.records import NodeRecord

    own = [node_key(node), route_key(node), waiting_key(node), reputation_key(node)]
    keys = [CHAIN_KEY, EPOCH_KEY, *own]
    proven = await read_from(ledger, height, keys)
    evidence: Mapping[bytes, Any] = {}
    if _is_convicted(proven.records[reputation_key(node)]):
        proven = await read_from(ledger, proven.height, keys, ["evidence"])
        evidence = proven.stores["evidence"]
    announced, route, waiting, reputation = (proven.records[key] for key in own)
    if announced is None:
        raise UsageError("the node was forgotten, or changed its key, a moment ago; ask again")
    main, running = proven.records[CHAIN_KEY], proven.records[EPOCH_KEY]
    with answers_of_expected_form():
        rotations = tuple(
            Rotation(int(epoch), bytes(former)) for former, epoch in announced["former"]
        )
        identifiers = (node, *(item.former for item in rotations))
        return Present(
            node=NodeRecord.from_wire(route or waiting),
            reputation=None if reputation is None else reputation_from(reputation),
            convictions=convictions_of(evidence.values(), identifiers),
            rotations=rotations,
            version=int(main["version"]),
            parameters=parameters_in(main["params"]),
            epoch=int(running["epoch"]),
            sample_ppm=int(running["sample_ppm"]),
            height=proven.height,
        )


def _is_convicted(reputation: Mapping[str, Any] | None) -> bool:
    with answers_of_expected_form():
        return reputation is not None and reputation["convictions"] > 0


def convictions_of(
    records: Iterable[Mapping[str, Any]], identifiers: Iterable[bytes]
) -> tuple[Conviction, ...]:
    """What evidence was judged against any of `identifiers`, in order of heights."""
    wanted = set(identifiers)
    found = [
        Conviction(
            epoch=int(record["epoch"]),
            height=int(record["height"]),
            breach=str(record["breach"]),
            reporter=bytes(record["reporter"]),
        )
        for record in records
        if record["accused"] in wanted
    ]
    return tuple(sorted(found, key=lambda item: item.height))


async def read_history(
    ledger: LedgerClient, last: tuple[bytes, int] | None, height: int, epochs: int
) -> History:
    """The newest `epochs` results and the one that these build on; `last` names the newest at
    `height`.

    Raises `ProofRefused` when what the chain has agreed on contradicts itself.
    """
    from planetserve.errors import ProofRefused

    found: list[Settled] = []
    while last is not None and len(found) <= epochs:
        node, epoch = last
        numbers = range(epoch, max(-1, epoch - min(epochs + 1, BATCH_EPOCHS)), -1)
        keys = [key for number in numbers for key in (result_key(number, node), epoch_key(number))]
        proven = await read_from(ledger, height, keys)
        while last is not None and last[0] == node and last[1] in numbers and len(found) <= epochs:
            number = last[1]
            record = proven.records[result_key(number, node)]
            summary = proven.records[epoch_key(number)]
            if record is None and summary is None:
                return History(tuple(found[::-1]), DROPPED)
            if record is None or summary is None:
                raise ProofRefused(
                    f"the ledger lacks one of the two records of epoch {number} that belong to "
                    "this history: its rules were broken"
                )
            with answers_of_expected_form():
                settled = settled_from(record, summary)
            last = settled.before.last
            if (settled.node, settled.epoch) != (node, number) or (
                last is not None and last[1] >= number
            ):
                raise ProofRefused(f"the result of epoch {number} is linked to the wrong one")
            found.append(settled)
    return History(tuple(found[::-1]), FIRST if last is None else ASKED)


async def read_life(ledger: LedgerClient, present: Present, results: Sequence[Settled]) -> Life:
    """What happened to a node that is scored, with the parameters of each time from the first of
    `results` on."""
    counted = 0 if present.reputation is None else present.reputation.convictions
    events = events_of(present.convictions, present.rotations, counted)
    known = {settled.epoch: settled.parameters for settled in results}
    known[present.epoch] = present.parameters
    begins = (-1, 0)
    if results and results[0].before.last is not None:
        begins = (results[0].epoch, SETTLEMENT)
    passed = {event.epoch for event in events if event.moment > begins}
    wanted = sorted(passed - known.keys())
    for start in range(0, len(wanted), KEYS_A_READ):
        keys = {number: epoch_key(number) for number in wanted[start : start + KEYS_A_READ]}
        proven = await read_from(ledger, present.height, list(keys.values()))
        summaries = {number: proven.records[key] for number, key in keys.items()}
        with answers_of_expected_form():
            for number, summary in summaries.items():
                if summary is not None:
                    known[number] = parameters_in(summary["params"])
    return Life(present.node.id, events, known)

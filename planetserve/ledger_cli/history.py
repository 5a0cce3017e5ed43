"""A node's results, followed from the newest by the links between them, each of them proven."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planetserve.ledger_cli.conversation import answers_of_expected_form, read_from
from planetserve.ledger_cli.explain import Conviction, Settled, settled_from
from planetserve.statekeys import epoch_key, node_key, result_key

if TYPE_CHECKING:
    from planetserve.ledger import LedgerClient

BATCH_EPOCHS = 100
"""Most nodes are scored in every epoch, so one read takes this many in a row."""

FIRST, ASKED, DROPPED = "first", "asked", "dropped"


@dataclass(frozen=True, slots=True)
class History:
    """Results in ascending order of epochs. `end` says why there is none before them: it is the
    node's first (`FIRST`), no more were asked for (`ASKED`), or the ledger has dropped them
    (`DROPPED`)."""

    results: tuple[Settled, ...]
    end: str


async def read_history(
    ledger: LedgerClient,
    last: tuple[bytes, int] | None,
    height: int,
    epochs: int,
    window_epochs: int,
) -> History:
    """The newest `epochs` results and the ones that their windows reach back to; `last` names the
    newest at `height`.

    Raises `ProofRefused` when what the chain has agreed on contradicts itself.
    """
    from planetserve.errors import ProofRefused

    found: list[Settled] = []
    while last is not None and not _enough(found, epochs, window_epochs):
        node, epoch = last
        numbers = range(epoch, max(-1, epoch - BATCH_EPOCHS), -1)
        keys = [key for number in numbers for key in (result_key(number, node), epoch_key(number))]
        proven = await read_from(ledger, height, keys)
        while last is not None and last[0] == node and last[1] in numbers:
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
            if (settled.node, settled.epoch) != (node, number) or (
                settled.previous is not None and settled.previous[1] >= number
            ):
                raise ProofRefused(f"the result of epoch {number} is linked to the wrong one")
            found.append(settled)
            last = settled.previous
            if _enough(found, epochs, window_epochs):
                break
    end = FIRST if last is None else ASKED
    return History(tuple(found[::-1]), end)


def _enough(newest_first: list[Settled], epochs: int, window_epochs: int) -> bool:
    """Whether the oldest result asked for has a whole window before it."""
    before = newest_first[epochs:]
    if len(before) > 4 * window_epochs:
        return True
    return sum(settled.credit_ppm is not None for settled in before) > window_epochs


async def read_convictions(
    ledger: LedgerClient, height: int, node: bytes
) -> tuple[Conviction, ...]:
    """What evidence was judged against a node under any of its ids up to `height` at least, in
    order of heights."""
    proven = await read_from(ledger, height, [node_key(node)], ["evidence"])
    with answers_of_expected_form():
        record = proven.records[node_key(node)]
        former = () if record is None else (bytes(item[0]) for item in record["former"])
        return convictions_of(proven.stores["evidence"].values(), (node, *former))


def convictions_of(
    records: Iterable[Mapping[str, Any]], identifiers: Iterable[bytes]
) -> tuple[Conviction, ...]:
    wanted = set(identifiers)
    found = [
        Conviction(int(record["height"]), str(record["breach"]), bytes(record["reporter"]))
        for record in records
        if record["accused"] in wanted
    ]
    return tuple(sorted(found, key=lambda item: item.height))

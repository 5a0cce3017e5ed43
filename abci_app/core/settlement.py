"""Settlement: at the end of an epoch's last block its reveals become reputations.

The credit C of a node is the power-weighted median of its revealed scores, taken only when the
probers that revealed hold the quorum of all power. Everything that led to a reputation is kept
in the epoch's result for the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from abci_app.core.context import epoch_of, window_of
from abci_app.core.epochs import Reveal
from abci_app.core.fixedpoint import ONE_PPM
from abci_app.core.nodes import drop_stale_candidates
from abci_app.core.parameters import Parameters
from abci_app.core.quotas import Quota
from abci_app.core.reputation import (
    KEPT,
    Reputation,
    Update,
    is_trusted,
    load_reputation,
    save_reputation,
    updated,
)
from abci_app.core.state import (
    Reader,
    View,
    commits_prefix,
    epoch_key,
    quotas_prefix,
    records,
    result_key,
    reveals_prefix,
)
from abci_app.core.verifiers import all_verifiers
from planetserve.keys import NODE_ID_BYTES
from planetserve.records import TRUSTED, UNTRUSTED


@dataclass(frozen=True, slots=True)
class Score:
    """One prober's reveal, with the power that weighs it."""

    prober: bytes
    weight: int
    score_ppm: int
    samples: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What an epoch did to a node and from which evidence; `credit_ppm` is None without
    quorum."""

    node: bytes
    epoch: int
    height: int
    scores: tuple[Score, ...]
    total_power: int
    credit_ppm: int | None
    before_ppm: int
    after_ppm: int
    abnormal: int
    window_epochs: int
    status: str
    reason: str

    def to_wire(self) -> dict[str, Any]:
        return asdict(self)


def weighted_median(scores: Iterable[tuple[int, int]]) -> int:
    """The lowest score at which half of the weight is reached, of (score, weight) pairs."""
    ordered = sorted(scores)
    half = sum(weight for _, weight in ordered)
    reached = 0
    for score, weight in ordered:
        reached += weight
        if 2 * reached >= half:
            return score
    raise ValueError("a median needs at least one score")


def agreed_credit(scores: Sequence[Score], total_power: int, parameters: Parameters) -> int | None:
    """The median of `scores`, or None when too little power has revealed."""
    revealed_power = sum(score.weight for score in scores)
    if revealed_power * ONE_PPM < parameters.quorum_ppm * total_power:
        return None
    return weighted_median((score.score_ppm, score.weight) for score in scores)


def is_settled_by(height: int, parameters: Parameters) -> bool:
    """Whether the block at `height` is the last of its epoch."""
    return height % parameters.epoch_blocks == 0


def settle(view: View, height: int, parameters: Parameters) -> list[Result]:
    """Settle the epoch that `height` ends; results in ascending order of node ids."""
    epoch = epoch_of(height, parameters)
    powers = {verifier.id: verifier.power for verifier in all_verifiers(view)}
    total_power = sum(powers.values())
    results = []
    for node, scores in _revealed(view, epoch, powers):
        reputation = load_reputation(view, node)
        if reputation is None:
            continue
        result, after = _judge(node, epoch, height, scores, total_power, reputation, parameters)
        save_reputation(view, node, after)
        view.save(result_key(node, epoch), result.to_wire())
        results.append(result)
    _close(view, epoch, height, len(results), total_power, parameters)
    drop_stale_candidates(view, height, parameters.candidate_blocks)
    return results


def _judge(
    node: bytes,
    epoch: int,
    height: int,
    scores: tuple[Score, ...],
    total_power: int,
    before: Reputation,
    parameters: Parameters,
) -> tuple[Result, Reputation]:
    credit_ppm = agreed_credit(scores, total_power, parameters)
    if credit_ppm is None:
        abnormal = sum(c < parameters.abnormal_below_ppm for c in before.window_ppm)
        update = Update(before, abnormal, KEPT)
    else:
        update = updated(before, credit_ppm, parameters)
    result = Result(
        node=node,
        epoch=epoch,
        height=height,
        scores=scores,
        total_power=total_power,
        credit_ppm=credit_ppm,
        before_ppm=before.ppm,
        after_ppm=update.reputation.ppm,
        abnormal=update.abnormal,
        window_epochs=parameters.window_epochs,
        status=TRUSTED if is_trusted(update.reputation, parameters) else UNTRUSTED,
        reason=update.reason,
    )
    return result, update.reputation


def _revealed(
    reader: Reader, epoch: int, powers: Mapping[Any, int]
) -> list[tuple[bytes, tuple[Score, ...]]]:
    """Each node's scores, both in ascending order of ids. A prober without power counts 0."""
    rows = list(records(reader, reveals_prefix(epoch)))
    return [
        (
            node,
            tuple(
                Score(key[NODE_ID_BYTES:], powers.get(key[NODE_ID_BYTES:], 0), **record)
                for key, record in group
            ),
        )
        for node, group in groupby(rows, key=lambda row: row[0][:NODE_ID_BYTES])
    ]


def _close(
    view: View, epoch: int, height: int, nodes: int, total_power: int, parameters: Parameters
) -> None:
    """Write the epoch's record and drop its commits, reveals and quotas: results hold the
    evidence."""
    window = window_of(epoch, parameters)
    quotas = [(key, Quota(**record)) for key, record in records(view, quotas_prefix(epoch))]
    view.save(
        epoch_key(epoch),
        {
            "epoch": epoch,
            "start": window.start,
            "end": window.end,
            "settled": height,
            "nodes": nodes,
            "total_power": total_power,
            "commits": sum(quota.commits for _, quota in quotas),
            "reveals": sum(quota.reveals for _, quota in quotas),
            "probers": [
                {"id": verifier, "commits": quota.commits, "reveals": quota.reveals}
                for verifier, quota in quotas
            ],
        },
    )
    for prefix in (commits_prefix(epoch), reveals_prefix(epoch), quotas_prefix(epoch)):
        for key, _ in list(view.scan(prefix)):
            view.delete(key)


def current_reveals(reader: Reader, epoch: int) -> list[tuple[bytes, bytes, Reveal]]:
    """Node, prober and reveal of an epoch that is not settled yet."""
    return [
        (key[:NODE_ID_BYTES], key[NODE_ID_BYTES:], Reveal(**record))
        for key, record in records(reader, reveals_prefix(epoch))
    ]

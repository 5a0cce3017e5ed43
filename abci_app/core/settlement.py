"""Settlement: in an epoch's last block its reveals become reputations.

The credit C of a node is the power-weighted median of its revealed scores, taken only when the
probers that revealed hold the quorum of the power that was to judge it: with less than a third of
all power lying, the median lies among honest scores. Everything that led to a reputation is kept
in the epoch's result for the node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from abci_app.core import reputation as rules
from abci_app.core.context import window_of
from abci_app.core.fixedpoint import ONE_PPM
from abci_app.core.parameters import Chain, Parameters
from abci_app.core.penalties import Conduct, conduct_of, penalised
from abci_app.core.quotas import Quota
from abci_app.core.reputation import Reputation, Update, load_reputation, save_reputation
from abci_app.core.routes import reputation_changed, standing
from abci_app.core.state import View, records, unpack
from abci_app.core.verifiers import Verifier, all_verifiers, save_verifier
from planetserve import vrf
from planetserve.assignment import chance_ppm
from planetserve.keys import NODE_ID_BYTES
from planetserve.statekeys import epoch_key, result_key, results_prefix

CLEARED = ("commits", "quotas", "reveals")
"""Stores that hold the running epoch alone and are emptied with it: results hold the evidence."""


@dataclass(frozen=True, slots=True)
class Score:
    """One prober's reveal, with the power that weighs it."""

    prober: bytes
    power: int
    score_ppm: int
    samples: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What an epoch did to a node and from which evidence; `credit_ppm` is None without quorum.

    `chance_ppm` is the share of the probers that was to judge the node; `previous` names the
    node id and epoch of the result before, so that the history can be followed.
    """

    node: bytes
    epoch: int
    height: int
    scores: tuple[Score, ...]
    total_power: int
    chance_ppm: int
    credit_ppm: int | None
    before: Reputation
    update: Update
    status: str

    def to_wire(self) -> dict[str, Any]:
        """Keys in ascending order; a score is [prober, power, score, samples, digest]."""
        before, after = self.before, self.update.reputation
        return {
            "abnormal": self.update.abnormal,
            "after_ppm": after.ppm,
            "before_ppm": before.ppm,
            "chance_ppm": self.chance_ppm,
            "credit_ppm": self.credit_ppm,
            "cusum_after_ppm": after.cusum_ppm,
            "cusum_before_ppm": before.cusum_ppm,
            "epoch": self.epoch,
            "height": self.height,
            "node": self.node,
            "previous": None if before.last is None else list(before.last),
            "reason": self.update.reason,
            "scores": [[s.prober, s.power, s.score_ppm, s.samples, s.digest] for s in self.scores],
            "status": self.status,
            "streak": after.streak,
            "total_power": self.total_power,
            "verdict": self.update.verdict,
        }


@dataclass(frozen=True, slots=True)
class Settlement:
    """Results in ascending order of node ids, verifiers whose record changed, and by prober its
    conduct and, when it revealed, its VRF output."""

    epoch: int
    results: tuple[Result, ...]
    changed: tuple[Verifier, ...]
    conducts: Mapping[bytes, Conduct]
    outputs: Mapping[bytes, bytes]


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


def agreed_credit(
    scores: Sequence[Score], total_power: int, chance: int, parameters: Parameters
) -> int | None:
    """The median of `scores`, or None when less than the quorum of the power that was to judge
    has revealed. A sample is held to its expected size, whatever the draw made of it."""
    revealed = sum(score.power for score in scores)
    if revealed * ONE_PPM * ONE_PPM < parameters.quorum_ppm * total_power * chance:
        return None
    if not revealed:
        return None
    return weighted_median((score.score_ppm, score.power) for score in scores)


def is_settled_by(height: int, chain: Chain) -> bool:
    """Whether the block at `height` is the last of the running epoch."""
    return height == window_of(chain.epoch, chain.parameters).end - 1


def settle(view: View, height: int, chain: Chain) -> Settlement:
    """Settle the running epoch, which `height` ends."""
    epoch, parameters = chain.epoch.number, chain.parameters
    verifiers = all_verifiers(view)
    powers = {bytes(verifier.id): verifier.power for verifier in verifiers}
    total_power = sum(powers.values())
    compared: defaultdict[bytes, int] = defaultdict(int)
    far: defaultdict[bytes, int] = defaultdict(int)
    results = []
    for node, scores in _revealed(view, powers):
        before = load_reputation(view, node)
        if before is None:
            continue
        result = _judge(node, scores, height, total_power, before, chain)
        after = replace(result.update.reputation, last=(node, epoch))
        save_reputation(view, node, after)
        reputation_changed(view, node, before, after, height)
        view.save_ordered(result_key(epoch, node), result.to_wire())
        results.append(result)
        if result.credit_ppm is not None:
            for score in scores:
                compared[score.prober] += 1
                distance = abs(score.score_ppm - result.credit_ppm)
                far[score.prober] += distance > parameters.distance_ppm
    quotas = {prober: Quota(**record) for prober, record in records(view, b"quotas/")}
    conducts = {
        prober: conduct_of(quota, compared[prober], far[prober]) for prober, quota in quotas.items()
    }
    outputs = {prober: vrf.output(quota.proof) for prober, quota in quotas.items() if quota.proof}
    changed = penalised(verifiers, conducts, epoch, parameters)
    for verifier in changed:
        save_verifier(view, verifier)
    _close(view, height, chain, len(results), total_power, conducts)
    return Settlement(epoch, tuple(results), tuple(changed), conducts, outputs)


def _judge(
    node: bytes,
    scores: tuple[Score, ...],
    height: int,
    total_power: int,
    before: Reputation,
    chain: Chain,
) -> Result:
    parameters = chain.parameters
    chance = chance_ppm(before.to_wire(), parameters.full_below_ppm, chain.epoch.sample_ppm)
    credit = agreed_credit(scores, total_power, chance, parameters)
    if credit is None:
        update = rules.kept(before, parameters)
    elif chance < ONE_PPM and credit < parameters.abnormal_below_ppm:
        update = rules.alarmed(before, parameters)
    else:
        update = rules.updated(before, credit, parameters)
    return Result(
        node=node,
        epoch=chain.epoch.number,
        height=height,
        scores=scores,
        total_power=total_power,
        chance_ppm=chance,
        credit_ppm=credit,
        before=before,
        update=update,
        status=standing(update.reputation),
    )


def _revealed(view: View, powers: Mapping[bytes, int]) -> Iterable[tuple[bytes, tuple[Score, ...]]]:
    """Each node's scores, both in ascending order of ids. One who is no verifier any more
    weighs nothing."""
    by_node: dict[bytes, list[Score]] = {}
    start = len(b"reveals/")
    middle = start + NODE_ID_BYTES
    for key, value in view.scan(b"reveals/"):
        prober = key[middle:]
        score_ppm, samples, digest = unpack(value)
        score = Score(prober, powers.get(prober, 0), score_ppm, samples, digest)
        by_node.setdefault(key[start:middle], []).append(score)
    return [(node, tuple(scores)) for node, scores in by_node.items()]


def _close(
    view: View,
    height: int,
    chain: Chain,
    nodes: int,
    total_power: int,
    conducts: Mapping[bytes, Conduct],
) -> None:
    """Write the epoch's record, empty what was its own and drop what is too old to keep."""
    epoch = chain.epoch
    view.save(
        epoch_key(epoch.number),
        {
            "epoch": epoch.number,
            "start": epoch.start,
            "settled": height,
            "seed": epoch.seed,
            "sample_ppm": epoch.sample_ppm,
            "nodes": nodes,
            "total_power": total_power,
            "commits": sum(conduct.commits for conduct in conducts.values()),
            "reveals": sum(conduct.reveals for conduct in conducts.values()),
            "probers": [conducts[prober].to_wire(prober) for prober in sorted(conducts)],
            "params": chain.parameters.to_wire(),
        },
    )
    for store in CLEARED:
        for key, _ in list(view.scan(store.encode() + b"/")):
            view.delete(key)
    old = epoch.number - chain.parameters.history_epochs
    if old >= 0:
        view.delete(epoch_key(old))
        for key, _ in list(view.scan(results_prefix(old))):
            view.delete(key)

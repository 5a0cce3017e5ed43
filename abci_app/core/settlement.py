"""Settlement: in an epoch's last block its reveals become reputations.

The credit C of a node is the power-weighted median of its revealed scores, when the probers that
revealed hold the quorum of the power that was to judge it: with less than a third of all power
lying, the median lies among honest scores. With less than the quorum, it takes more than half of
all that power on one side of R to move R; otherwise liars who stay silent could keep a cheat in
trust wherever an honest prober is missing. Everything that led to a reputation is kept in the
epoch's result for the node.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
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
from planetserve.assignment import chance_ppm, contributor_of, next_seed
from planetserve.keys import NODE_ID_BYTES
from planetserve.statekeys import epoch_key, result_key

SAMPLE_QUORUM_PPM = ONE_PPM // 2
MAX_DROPPED_EPOCHS = 4
"""Of history, in one block."""
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
    """Results in ascending order of node ids, verifiers whose record changed, by prober its
    conduct, and the seed of the next epoch."""

    epoch: int
    results: tuple[Result, ...]
    changed: tuple[Verifier, ...]
    conducts: Mapping[bytes, Conduct]
    next_seed: bytes


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
    scores: Sequence[Score], total_power: int, chance: int, held_ppm: int, parameters: Parameters
) -> int | None:
    """The credit of a node whose reputation is `held_ppm`, None when its scores decide nothing.

    With the quorum of the power that was to judge it is their median. Without, it is what the
    median would be if all of the missing spoke for `held_ppm`, or None where they would decide.
    A sample is held to its expected size, of which half is enough: the draw varies, and a sample
    can only speak for a node.
    """
    due = total_power * chance
    quorum_ppm = parameters.quorum_ppm if chance == ONE_PPM else SAMPLE_QUORUM_PPM
    revealed = sum(score.power for score in scores)
    if not revealed:
        return None
    if revealed * ONE_PPM * ONE_PPM >= quorum_ppm * due:
        return weighted_median((score.score_ppm, score.power) for score in scores)
    ordered = sorted((score.score_ppm, score.power) for score in scores)
    highest = _at_half(ordered, due)
    if highest is not None and highest < held_ppm:
        return highest
    lowest = _at_half(ordered[::-1], due)
    return lowest if lowest is not None and lowest > held_ppm else None


def is_alarming(scores: Iterable[Score], parameters: Parameters) -> bool:
    """Whether the median of a sample calls for everyone's judgement. However small the sample:
    an alarm costs a good node nothing."""
    credit = weighted_median((score.score_ppm, score.power) for score in scores)
    return credit < rules.alarm_below_ppm(parameters)


def _at_half(ordered: Iterable[tuple[int, int]], due: int) -> int | None:
    """The score with which more than half of `due`, in millionths of power, is reached."""
    reached = 0
    for score, power in ordered:
        reached += power
        if 2 * reached * ONE_PPM > due:
            return score
    return None


def is_settled_by(height: int, chain: Chain) -> bool:
    """Whether the block at `height` is the last of the running epoch."""
    return height >= window_of(chain.epoch, chain.parameters).end - 1


def settle(view: View, height: int, chain: Chain, *, may_move_power: bool = True) -> Settlement:
    """Settle the running epoch, which `height` ends; `may_move_power` as in
    `abci_app.core.penalties.penalised`."""
    epoch, parameters = chain.epoch.number, chain.parameters
    powers = dict(chain.epoch.powers)
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
        for score, is_far in _compared(result, parameters):
            compared[score.prober] += 1
            far[score.prober] += is_far
    quotas = {prober: Quota(**record) for prober, record in records(view, b"quotas/")}
    conducts = {
        prober: conduct_of(quota, compared[prober], far[prober]) for prober, quota in quotas.items()
    }
    changed = penalised(
        all_verifiers(view), conducts, epoch, parameters, may_move_power=may_move_power
    )
    for verifier in changed:
        save_verifier(view, verifier)
    revealed = {prober for prober, quota in quotas.items() if quota.proof}
    contributor = contributor_of(chain.epoch.seed, chain.epoch.powers, revealed)
    output = b"" if contributor is None else vrf.output(quotas[contributor].proof)
    _close(view, height, chain, len(results), total_power, conducts, contributor)
    seed = next_seed(chain.epoch.seed, output)
    return Settlement(epoch, tuple(results), tuple(changed), conducts, seed)


def _compared(result: Result, parameters: Parameters) -> list[tuple[Score, bool]]:
    """Each score that can be held against its prober, and whether it lies far from the credit.

    None of a sample: most of it may be liars, who then made the honest look far off. None of a
    node that is not in good standing, or that most probers did not find alike: it may answer some
    of them badly on purpose.
    """
    before, credit = result.before, result.credit_ppm
    if credit is None or result.chance_ppm < ONE_PPM or not (before.admitted and before.trusted):
        return []
    judged = [
        (score, abs(score.score_ppm - credit) > parameters.distance_ppm) for score in result.scores
    ]
    total = sum(score.power for score, _ in judged)
    near = sum(score.power for score, far in judged if not far)
    return judged if 3 * near >= 2 * total else []


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
    credit = agreed_credit(scores, total_power, chance, before.ppm, parameters)
    if chance < ONE_PPM and is_alarming(scores, parameters):
        update = rules.alarmed(before, parameters)
    elif credit is None:
        update = rules.kept(before, parameters)
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
    """Each node's scores, both in ascending order of ids. Who was no verifier when the epoch began
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
    contributor: bytes | None,
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
            "contributor": contributor,
            "probers": [conducts[prober].to_wire(prober) for prober in sorted(conducts)],
            "params": chain.parameters.to_wire(),
        },
    )
    for store in CLEARED:
        for key, _ in list(view.scan(store.encode() + b"/")):
            view.delete(key)
    _drop_history(view, epoch.number - chain.parameters.history_epochs)


def _drop_history(view: View, last: int) -> None:
    """Delete the oldest epochs up to `last`, a few in each block."""
    kept = (rest for rest, _ in view.scan(b"epochs/"))
    old = [key for key in islice(kept, MAX_DROPPED_EPOCHS) if key <= epoch_key(max(last, 0))]
    for key in old if last >= 0 else ():
        view.delete(key)
        for result, _ in list(view.scan(b"results/" + key.removeprefix(b"epochs/"))):
            view.delete(result)

"""Settlement: in an epoch's last block its reveals become reputations, by `planetserve.scoring`.

Everything that led to a reputation is kept in the epoch's result for the node, so that a reader
can apply the rule again: the reputation before, the scores, and the reputation after.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from abci_app.core.chain import Chain
from abci_app.core.context import window_of
from abci_app.core.penalties import Conduct, conduct_of, penalised
from abci_app.core.quotas import Quota
from abci_app.core.reputation import load_reputation, save_reputation
from abci_app.core.routes import reputation_changed
from abci_app.core.state import View, records, unpack
from abci_app.core.verifiers import Verifier, all_verifiers, save_verifier
from planetserve import vrf
from planetserve.assignment import contributor_of, next_seed
from planetserve.fixedpoint import ONE_PPM
from planetserve.keys import NODE_ID_BYTES
from planetserve.scoring.credit import Score
from planetserve.scoring.judgement import Judgement, judge_epoch
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation
from planetserve.statekeys import epoch_key, result_key

MAX_DROPPED_EPOCHS = 4
"""Of history, in one block."""
CLEARED = ("commits", "quotas", "reveals")
"""Stores that hold the running epoch alone and are emptied with it: results hold the evidence."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an epoch did to a node and from which evidence. `before` and `after` are its
    reputations as they are kept: `after.last` names this result and `before.last` the one before
    it, so that the history can be followed."""

    node: bytes
    epoch: int
    height: int
    scores: tuple[Score, ...]
    total_power: int
    before: Reputation
    judgement: Judgement
    after: Reputation

    def to_wire(self) -> dict[str, Any]:
        """Keys in ascending order; a score is [prober, power, score, samples, digest]."""
        judgement = self.judgement
        return {
            "abnormal": judgement.update.abnormal,
            "after": self.after.to_wire(),
            "before": self.before.to_wire(),
            "chance_ppm": judgement.chance_ppm,
            "credit_ppm": judgement.credit_ppm,
            "epoch": self.epoch,
            "height": self.height,
            "node": self.node,
            "reason": judgement.update.reason,
            "scores": [[s.prober, s.power, s.score_ppm, s.samples, s.digest] for s in self.scores],
            "total_power": self.total_power,
            "verdict": judgement.update.verdict,
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


def is_settled_by(height: int, chain: Chain) -> bool:
    """Whether the block at `height` is the last of the running epoch."""
    return height >= window_of(chain.epoch, chain.parameters).end - 1


def settle(view: View, height: int, chain: Chain, *, may_move_power: bool = True) -> Settlement:
    """Settle the running epoch, which `height` ends; `may_move_power` as in
    `abci_app.core.penalties.penalised`."""
    epoch, sample_ppm, parameters = chain.epoch.number, chain.epoch.sample_ppm, chain.parameters
    powers = dict(chain.epoch.powers)
    total_power = sum(powers.values())
    compared: defaultdict[bytes, int] = defaultdict(int)
    far: defaultdict[bytes, int] = defaultdict(int)
    results = []
    for node, scores in _revealed(view, powers):
        before = load_reputation(view, node)
        if before is None:
            continue
        judgement = judge_epoch(before, scores, total_power, sample_ppm, parameters)
        after = replace(judgement.update.reputation, last=(node, epoch))
        result = Result(node, epoch, height, scores, total_power, before, judgement, after)
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
    before, credit = result.before, result.judgement.credit_ppm
    sampled = result.judgement.chance_ppm < ONE_PPM
    if credit is None or sampled or not (before.admitted and before.trusted):
        return []
    judged = [
        (score, abs(score.score_ppm - credit) > parameters.distance_ppm) for score in result.scores
    ]
    total = sum(score.power for score, _ in judged)
    near = sum(score.power for score, far in judged if not far)
    return judged if 3 * near >= 2 * total else []


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

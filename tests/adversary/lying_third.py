"""A network of verifiers of which just under a third lies together, knowing everything.

The epochs go through the ledger's own settlement. What the simulation leaves out are signatures
and VRF proofs: commitments and reveals are entered as the records that transactions would have
made, and each prober's ticket is 64 random bytes.

The liars see the honest scores before they choose, node by node, what hurts most: they shift
scores, report a rival as bad and a friend as good, stay silent, or commit and withhold, which is
all that a copied commitment comes to. The nodes in `HONEST` are to lose their trust, those in
`HOPEFUL` never to get it, those in `CHEATS` to keep it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from random import Random

from abci_app.core.chain import Chain, Epoch, save_chain
from abci_app.core.quotas import Quota, save_quota
from abci_app.core.reputation import load_reputation, save_reputation
from abci_app.core.settlement import settle
from abci_app.core.state import MapReader, View
from abci_app.core.verifiers import Verifier, all_verifiers, save_verifier
from planetserve.assignment import is_assigned, sample_ppm
from planetserve.fixedpoint import ONE_PPM
from planetserve.scoring.credit import Score, agreed_credit, is_alarming
from planetserve.scoring.judgement import chance_ppm
from planetserve.scoring.parameters import Parameters
from planetserve.scoring.reputation import Reputation, updated
from planetserve.statekeys import commit_key, reveal_key

SIZES = (4, 7, 10, 16, 25, 40, 64, 100)


class Silence(Enum):
    ABSTAIN = "makes no commitment"
    WITHHOLD = "leaves its commitment unopened"


Node = bytes
Prober = bytes
Act = int | Silence
"""A score to reveal, or why none is."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A node and how it serves: the mean of what an honest look at it finds, and what it does in
    epochs in which it knows that everyone looks."""

    mean: float
    watched_mean: float
    reputation: Reputation
    honest: bool


ESTABLISHED = Reputation(800_000, (800_000,) * 5, admitted=True)
FRESH = Reputation(500_000, admitted=True)
CANDIDATE = Reputation(500_000)
FALLEN = Reputation(200_000, (800_000, *(200_000,) * 4), trusted=False, admitted=True)
HONEST = {
    "established": Kind(0.8, 0.8, ESTABLISHED, honest=True),
    "fresh": Kind(0.8, 0.8, FRESH, honest=True),
}
HOPEFUL = {
    "newcomer": Kind(0.8, 0.8, CANDIDATE, honest=True),
    "fallen": Kind(0.8, 0.8, FALLEN, honest=True),
}
CHEATS = {
    "turned": Kind(0.15, 0.15, replace(ESTABLISHED, ppm=950_000), honest=False),
    "fresh cheat": Kind(0.15, 0.15, FRESH, honest=False),
    "sly": Kind(0.15, 0.8, ESTABLISHED, honest=False),
    "applicant": Kind(0.15, 0.15, CANDIDATE, honest=False),
}
KINDS = {**HONEST, **HOPEFUL, **CHEATS}


@dataclass(frozen=True, slots=True)
class Weather:
    """How well honest probers do: the deviation of their scores, and how often one misses an
    epoch or crashes between its commitments and its reveals."""

    deviation: float
    absent: float
    crash: float


FAIR = Weather(deviation=0.08, absent=0.05, crash=0.01)
ROUGH = Weather(deviation=0.12, absent=0.1, crash=0.02)


@dataclass
class Fate:
    """What became of a node: in how many epochs it was trusted, in how many of these it cheated,
    and when the first was (-1: never). `lost` says whether it was ever not trusted after that."""

    trusted: int = 0
    cheated: int = 0
    since: int = -1
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """`watched` is in how many epochs everyone judged, by node; the others are shares of the
    power that each side began with."""

    fates: Mapping[str, Fate]
    watched: Mapping[str, int]
    honest_power_lost: float
    liars_power_lost: float


class Simulation:
    """One network, from one seed of the generator."""

    def __init__(self, seed: int, weather: Weather = FAIR) -> None:
        self.random = Random(seed)
        self.weather = weather
        self.parameters = Parameters(history_epochs=1)
        self.nodes = {hashlib.sha256(name.encode()).digest()[:20]: name for name in KINDS}
        powers = draw_powers(self.random)
        lying = draw_liars(self.random, powers)
        view = View(MapReader({}))
        for key, power in powers.items():
            save_verifier(view, Verifier(key, "", key, power, voted_power=power))
        for node, name in self.nodes.items():
            save_reputation(view, node, KINDS[name].reputation)
        verifiers = all_verifiers(view)
        self.powers = {_id(verifier): verifier.power for verifier in verifiers}
        self.liars = {_id(verifier) for verifier in verifiers if verifier.key in lying}
        self.items = {key: value for key, value in view.writes.items() if value is not None}
        self.fates = {name: Fate() for name in KINDS}
        self.watched = dict.fromkeys(KINDS, 0)
        self.epoch = 0

    def run(self, epochs: int) -> Outcome:
        for _ in range(epochs):
            self.step()
        honest = self.powers.keys() - self.liars
        return Outcome(self.fates, self.watched, self._lost(honest), self._lost(self.liars))

    def _lost(self, group: set[Prober]) -> float:
        before = sum(self.powers[prober] for prober in group)
        verifiers = all_verifiers(MapReader(self.items))
        after = sum(verifier.power for verifier in verifiers if _id(verifier) in group)
        return 1 - after / before if before else 0.0

    def step(self) -> None:
        """One epoch, from its draw to its settlement."""
        view = View(MapReader(self.items))
        verifiers = all_verifiers(view)
        start = 1 + self.epoch * self.parameters.epoch_blocks
        share = sample_ppm(self.parameters.probers_per_node, len(verifiers))
        powers = tuple((_id(verifier), verifier.power) for verifier in verifiers)
        epoch = Epoch(self.epoch, start, self.random.randbytes(32), share, powers)
        chain = Chain("simulation", 1, self.parameters, epoch)
        save_chain(view, chain)
        total = sum(verifier.power for verifier in verifiers)
        tickets = {_id(verifier): self.random.randbytes(64) for verifier in verifiers}
        present = [verifier for verifier in verifiers if self._takes_part(verifier)]
        crashed = {_id(verifier) for verifier in present if self._crashes(verifier)}
        acts: dict[Prober, list[tuple[Node, Act]]] = {prober: [] for prober in tickets}
        for node, name in self.nodes.items():
            before = load_reputation(view, node)
            assert before is not None
            chance = chance_ppm(before, self.parameters.full_below_ppm, share)
            mean = KINDS[name].watched_mean if chance == ONE_PPM else KINDS[name].mean
            self._note(name, before, watched=chance == ONE_PPM, cheats=mean < 0.5)
            drawn = [v for v in present if is_assigned(tickets[_id(v)], node, chance)]
            seen, lying = [], []
            for verifier in drawn:
                if _id(verifier) in self.liars:
                    lying.append(verifier)
                elif _id(verifier) in crashed:
                    acts[_id(verifier)].append((node, Silence.WITHHOLD))
                else:
                    seen.append(_score(verifier, self._look(mean)))
                    acts[_id(verifier)].append((node, seen[-1].score_ppm))
            judged = _Judged(before, total, chance, KINDS[name].honest, self.parameters)
            for verifier, act in zip(lying, judged.worst(seen, lying), strict=True):
                if act is not Silence.ABSTAIN:
                    acts[_id(verifier)].append((node, act))
        _enter(view, acts, start)
        settle(view, start + self.parameters.epoch_blocks - 1, chain)
        for key, value in view.writes.items():
            if value is None:
                self.items.pop(key, None)
            else:
                self.items[key] = value
        self.epoch += 1

    def _note(self, name: str, before: Reputation, *, watched: bool, cheats: bool) -> None:
        fate, good = self.fates[name], before.trusted and before.admitted
        self.watched[name] += watched
        if good and fate.since < 0:
            fate.since = self.epoch
        fate.lost |= fate.since >= 0 and not good
        fate.trusted += good
        fate.cheated += good and cheats

    def _takes_part(self, verifier: Verifier) -> bool:
        if verifier.benched >= self.epoch:
            return False
        return _id(verifier) in self.liars or self.random.random() >= self.weather.absent

    def _crashes(self, verifier: Verifier) -> bool:
        return _id(verifier) not in self.liars and self.random.random() < self.weather.crash

    def _look(self, mean: float) -> int:
        drawn = self.random.gauss(mean, self.weather.deviation)
        return min(max(int(drawn * ONE_PPM), 0), ONE_PPM)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A node in one epoch, as the liars see it."""

    before: Reputation
    total_power: int
    chance: int
    honest: bool
    parameters: Parameters

    def worst(self, seen: Sequence[Score], lying: Sequence[Verifier]) -> list[Act]:
        """What each liar does, of all that they could do together: some of them shift the score
        or are silent, the rest go with the honest."""
        truth = sorted(score.score_ppm for score in seen) or [ONE_PPM // 2]
        tau, reference = self.parameters.abnormal_below_ppm, self.parameters.cusum_reference_ppm
        shifts = 0, tau - 1, tau, reference, truth[0], truth[-1], ONE_PPM
        plans = [
            [act if at < count else truth[len(truth) // 2] for at in range(len(lying))]
            for act in (Silence.ABSTAIN, Silence.WITHHOLD, *shifts)
            for count in sorted({len(lying), len(lying) // 2, 1})
        ]

        def harm(plan: list[Act]) -> tuple[int, ...]:
            pairs = zip(lying, plan, strict=True)
            lies = [_score(verifier, act) for verifier, act in pairs if isinstance(act, int)]
            return self._harm([*seen, *lies])

        return max(plans, key=harm)

    def _harm(self, scores: Sequence[Score]) -> tuple[int, ...]:
        before, parameters = self.before, self.parameters
        credit = agreed_credit(scores, self.total_power, self.chance, before.ppm, parameters)
        alarm = self.chance < ONE_PPM and is_alarming(scores, parameters)
        after = before
        if credit is not None and not alarm:
            after = updated(before, credit, parameters).reputation
        good = after.trusted and after.admitted
        if self.honest:
            return (not good, after.cusum_ppm, -after.streak, -after.ppm, alarm)
        return (good, not alarm, -after.cusum_ppm, after.streak, after.ppm)


def _enter(view: View, acts: Mapping[Prober, list[tuple[Node, Act]]], height: int) -> None:
    """Write the records of commitments, reveals and what each prober has done."""
    for prober, scored in acts.items():
        for node, act in scored:
            record = {"commitment": bytes(32), "height": height}
            view.save_ordered(commit_key(prober, node), record)
            if isinstance(act, int):
                view.save_ordered(reveal_key(node, prober), [act, 1, bytes(32)])
        revealed = sum(isinstance(act, int) for _, act in scored)
        if scored:
            save_quota(view, prober, Quota(len(scored), revealed))


def _id(verifier: Verifier) -> Prober:
    return bytes(verifier.id)


def _score(verifier: Verifier, score_ppm: int) -> Score:
    return Score(_id(verifier), verifier.power, score_ppm, 1, bytes(32))


def draw_powers(random: Random) -> dict[bytes, int]:
    """Verifiers' powers by key: equal, spread, or few large and many small. None has a third:
    who does can stop the chain alone, and no vote gives anybody so much. (Sampling serves no
    chain on which one verifier decides alone: in most samples it is missing.)"""
    count, shape = random.choice(SIZES), random.choice(("equal", "uniform", "pareto"))
    powers = {}
    for _ in range(count):
        uniform, pareto = random.uniform(1, 100), 10 * random.paretovariate(1.2)
        power = {"equal": 100.0, "uniform": uniform, "pareto": pareto}[shape]
        powers[random.randbytes(32)] = int(power) + 1
    largest = max(powers, key=lambda key: powers[key])
    others = sum(powers.values()) - powers[largest]
    powers[largest] = min(powers[largest], (others - 1) // 2)
    return powers


def draw_liars(random: Random, powers: Mapping[bytes, int]) -> set[bytes]:
    """Keys, as many as fit below a third of all power."""
    total, held = sum(powers.values()), 0
    liars = set()
    for key in random.sample(sorted(powers), len(powers)):
        if 3 * (held + powers[key]) < total:
            liars.add(key)
            held += powers[key]
    return liars

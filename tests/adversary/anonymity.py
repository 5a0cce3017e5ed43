"""What relays that collude learn of who asked, from what they wrote down.

    python -m tests.adversary.anonymity [NODES [REQUESTS]]

Users relay for each other, as in the paper's evaluation: each of the nodes may be who asks. Users
choose guards and path sets by the client's own rules, and the relays' own cores build the paths
and pass the questions on. A share f of the nodes collude. They pool what their relays know of each
path: the neighbour on either side, the ids on both links, and at its last relay the model node.
Timing is granted to them: they know which paths belong to one question and which of their places
are on one path.

Two adversaries read the same logs:

- the paper's, who takes each of the c neighbours that its relays were spoken to by for the asker
  with probability p = 1 / (n L - t), t of the n L relays being its own, and anybody else else;
- one who knows the protocol: paths have three relays, the last knows that it is the last, no
  relay is twice in a set, nobody relays for itself. Two of its relays on a path, one of them not
  the last, see the asker. One alone, not the last, does not know whether it is the first or the
  middle one: the neighbour that speaks to it is the asker or the first relay, with equal chances;
  with c' paths of this kind each neighbour is the asker with 1 / (c' + 1). Nodes that were seen
  as relays are not the asker.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, log2
from random import Random

from overlay.core.choice import Rules, SetUse, choose_set_hops
from overlay.core.guards import GuardList, GuardRules, maintained
from planetserve.records import NodeRecord
from tests.overlay.relays import relay
from tests.overlay.world import TARGET, World

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.3)
HEIGHT = 1_000_000
DAY = 20_000
USER = b"user"


@dataclass(frozen=True, slots=True)
class Place:
    """What one relay knows of one path: node ids of its neighbours, the link ids on either side,
    and whether it speaks to the model node."""

    relay: bytes
    previous: bytes
    in_id: bytes
    following: bytes | None
    out_id: bytes
    is_last: bool


@dataclass(frozen=True, slots=True)
class Question:
    """Who asked, and for each path of its set what each relay on it wrote down, nearest first."""

    asker: bytes
    paths: tuple[tuple[Place, ...], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the questions, for a share `f` of colluders; entropies over log2 of the nodes."""

    f: float
    anonymity_paper: float
    anonymity_paper_logs: float
    anonymity: float
    exposed: float
    confidentiality_paper: float
    confidentiality_paper_logs: float
    cloves_below_k: float
    cloves_below_k_formula: float


def ask_questions(nodes: int, questions: int, seed: int) -> list[Question]:
    """Path sets of users drawn at random, built by the relays' cores."""
    rng = Random(seed)
    records = [
        relay(number, host=f"{20 + number % 200}.{number // 200 % 250}.1.1")
        for number in range(1, nodes + 1)
    ]
    world = World(relays=0, seed=seed)
    world.known.update(record.id for record in records)
    return [_ask(world, records, rng.choice(records), rng) for _ in range(questions)]


def _ask(world: World, records: Sequence[NodeRecord], user: NodeRecord, rng: Random) -> Question:
    others = [record for record in records if record.id != user.id]
    guards = maintained(GuardList(), others, HEIGHT, DAY, 0.0, GuardRules(), rng.randrange)
    used: list[NodeRecord] = []
    paths = []
    for slot in range(Rules().n):
        use = SetUse(slot, tuple(used), user.id)
        hops = choose_set_hops(others, HEIGHT, guards, use, Rules(), rng.randrange, 0.0)
        assert hops is not None
        used += hops.relays
        for node in hops.ids:
            if node not in world.members:
                world.add(node)
        owned = world.build(hops.ids, owner=USER + user.id)
        owned.ask(b"clove")
        paths.append(tuple(_written_down(world, node) for node in hops.ids))
        owned.send(owned.path.close())
        world.arrived.clear()
        world.carried.clear()
        world.now_s += 0.01
    return Question(user.id, tuple(paths))


def _written_down(world: World, node: bytes) -> Place:
    (path,) = world.members[node].core._paths
    return Place(
        node,
        path.previous.name.removeprefix(USER),
        path.in_id,
        path.following.name if path.following is not None else None,
        path.out_id,
        path.exit is not None and any(s.target.name == TARGET for s in path.exit.streams.values()),
    )


def measure(questions: Sequence[Question], nodes: int, f: float, seed: int) -> Row:
    """Draw the colluders among all nodes and let both adversaries read their logs. Questions of
    colluders themselves are left out, as in the formula."""
    rng = Random(seed)
    colluders = {
        number.to_bytes(20, "big") for number in rng.sample(range(1, nodes + 1), round(f * nodes))
    }
    rules = Rules()
    honest = nodes - len(colluders)
    asked = [question for question in questions if question.asker not in colluders]
    paper, own, exposed, touched, below = 0.0, 0.0, 0, 0, 0
    for question in asked:
        seen = [[p for p in path if p.relay in colluders] for path in question.paths]
        counts = [len(places) for places in seen]
        paper += paper_entropy(sum(map(bool, counts)), sum(counts), honest)
        chances = chances_of_askers(seen)
        own += entropy(chances, honest - len(chances) - len(relays_seen(seen) - colluders))
        exposed += chances == {question.asker: 1.0}
        touched += sum(map(bool, counts)) < rules.k
        below += sum(any(p.is_last for p in places) for places in seen) < rules.k
    size, total = log2(nodes), len(asked)
    return Row(
        f,
        paper_anonymity(f, nodes),
        paper / total / size,
        own / total / size,
        exposed / total,
        confidentiality(1 - (1 - f) ** rules.hops),
        touched / total,
        below / total,
        confidentiality(f),
    )


def chances_of_askers(seen: Sequence[Sequence[Place]]) -> dict[bytes, float]:
    """Who may have asked, as the second adversary concludes; what is missing to 1 is anybody."""
    suspects: list[bytes] = []
    for places in seen:
        if not places or places[0].is_last:
            continue  # its neighbour is a middle relay, or nobody is
        if len(places) > 1 and not (len(places) == 2 and _are_second_and_last(places)):
            return {places[0].previous: 1.0}
        if len(places) == 1:
            suspects.append(places[0].previous)
    for suspect in suspects:
        if suspects.count(suspect) > 1:
            return {suspect: 1.0}
    return dict.fromkeys(suspects, 1 / (len(suspects) + 1))


def _are_second_and_last(places: Sequence[Place]) -> bool:
    """Whether two neighbouring relays are the last two: then the first one is honest."""
    first, second = places
    return second.is_last and first.out_id == second.in_id and first.following == second.relay


def relays_seen(seen: Sequence[Sequence[Place]]) -> set[bytes]:
    """Nodes that are relays of the question for sure, so that they did not ask it."""
    found: set[bytes] = set()
    for places in seen:
        found.update(p.following for p in places if p.following is not None)
        found.update(p.previous for p in places if p.is_last)
        if len(places) == 2 and _are_second_and_last(places):
            found.add(places[0].previous)
    return found


def entropy(chances: dict[bytes, float], others: int) -> float:
    """In bits; what `chances` leave is spread over `others` nodes."""
    left = 1 - sum(chances.values())
    bits = -sum(chance * log2(chance) for chance in chances.values())
    if left > 1e-9 and others > 0:
        bits -= left * log2(left / others)
    return bits


def paper_entropy(c: int, t: int, honest: int) -> float:
    """In bits, from c paths with colluders and t colluders on all of them."""
    rules = Rules()
    unknown = rules.n * rules.hops - t
    if c == 0:
        return log2(honest)
    if unknown == 0:
        return 0.0
    return entropy({bytes((path,)): 1 / unknown for path in range(c)}, honest - c)


def paper_anonymity(f: float, nodes: int, paths: int = 4, hops: int = 3) -> float:
    """The paper's normalised entropy of independent draws, with H = log2 N where c = 0."""
    chances = {(0, 0): 1.0}
    for _ in range(paths):
        longer: dict[tuple[int, int], float] = {}
        for (c, t), chance in chances.items():
            for own in range(hops + 1):
                key = (c + (own > 0), t + own)
                factor = comb(hops, own) * f**own * (1 - f) ** (hops - own)
                longer[key] = longer.get(key, 0.0) + chance * factor
        chances = longer
    bits = 0.0
    for (c, t), chance in chances.items():
        unknown = paths * hops - t
        if c == 0:
            bits += chance * log2(nodes)
        elif unknown:
            p = 1 / unknown
            suspects = {bytes((path,)): p for path in range(c)}
            bits += chance * entropy(suspects, round((1 - f) * nodes) - c)
    return bits / log2(nodes)


def confidentiality(q: float) -> float:
    """The chance that fewer than k of n cloves are in wrong hands, each with chance q."""
    n, k = Rules().n, Rules().k
    return sum(comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k))


def table(rows: Sequence[Row]) -> str:
    lines = [
        "         anonymity: entropy / log2 N             confidentiality: below k",
        "    f    paper's  on these  knows the  asker     paper's  paths    clove at  last relay",
        "         formula  logs      protocol   exposed   formula  touched  last      formula",
    ]
    lines += [
        f"  {r.f:.2f}   {r.anonymity_paper:.3f}    {r.anonymity_paper_logs:.3f}     "
        f"{r.anonymity:.3f}      {r.exposed:.3f}     {r.confidentiality_paper:.3f}    "
        f"{r.confidentiality_paper_logs:.3f}    {r.cloves_below_k:.3f}     "
        f"{r.cloves_below_k_formula:.3f}"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    node_count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    question_count = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    logs = ask_questions(node_count, question_count, seed=1)
    print(f"{question_count} questions, {node_count} nodes, 4 paths of 3 relays, seed 1")
    print(table([measure(logs, node_count, f, seed=2) for f in FRACTIONS]))

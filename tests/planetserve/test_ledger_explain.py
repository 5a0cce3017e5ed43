"""Every number of a reputation, recomputed from a ledger's own records."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.core.state import load, records
from planetserve import transactions
from planetserve.keys import Identity
from planetserve.ledger_cli.explain import (
    Explanation,
    Settled,
    explain,
    parameters_in,
    settled_from,
)
from planetserve.ledger_cli.explanation import (
    difference_lines,
    epoch_lines,
)
from planetserve.ledger_cli.history import convictions_of
from planetserve.ledger_cli.life import Conviction, Life, Rotation, events_of
from planetserve.scoring.reputation import Reputation, reputation_from
from planetserve.statekeys import (
    NEXT_PROPOSAL_KEY,
    epoch_key,
    node_key,
    reputation_key,
    result_key,
)
from planetserve.transactions import EVIDENCE, PROPOSE, REGISTER, ROTATE, UPDATE, VOTE
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    MODEL,
    VERIFIERS,
    World,
    conflict,
    participant,
    registration,
)

SHORT = {"epoch_blocks": 5, "commit_blocks": 2}
SUCCESSOR = participant(70)
NAMES = {bytes(v.id): f"verifier-{index}" for index, v in enumerate(VERIFIERS)}


def founded(params: dict[str, int] | None = None, powers: tuple[int, ...] = ()) -> World:
    world = World({**SHORT, **(params or {})}, powers)
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == 0
    return world


def history_of(world: World, node: bytes) -> list[Settled]:
    found: list[Settled] = []
    last = load(world.state, reputation_key(node))["last"]
    while last is not None:
        identifier, epoch = last
        record = load(world.state, result_key(epoch, identifier))
        if record is None:
            break
        found.append(settled_from(record, load(world.state, epoch_key(epoch))))
        last = record["before"]["last"]
    return found[::-1]


def reputation_of(world: World, node: bytes) -> Reputation:
    return reputation_from(load(world.state, reputation_key(node)))


def life_in(world: World, node: bytes) -> Life:
    former = load(world.state, node_key(node))["former"]
    rotations = [Rotation(epoch, identifier) for identifier, epoch in former]
    evidence = [record for _, record in records(world.state, b"evidence/")]
    convictions = convictions_of(evidence, [node, *(item.former for item in rotations)])
    counted = reputation_of(world, node).convictions
    parameters = {
        summary["epoch"]: parameters_in(summary["params"])
        for _, summary in records(world.state, b"epochs/")
    }
    parameters[world.chain.epoch.number] = world.chain.parameters
    return Life(node, events_of(convictions, rotations, counted), parameters)


def explained(world: World, identity: Identity, last: int = 0) -> Explanation:
    """Of the last epochs only, or of all."""
    node = identity.id
    history = history_of(world, node)[-last:]
    return explain(history, life_in(world, node), reputation_of(world, node))


def score(world: World, node: bytes, *scores_ppm: int) -> None:
    world.score(node, dict(enumerate(scores_ppm)))


def test_a_fall_is_explained_to_the_last_digit() -> None:
    world = founded()
    score(world, FOUNDER.id, 800_000, 800_000, 700_000, 900_000)
    score(world, FOUNDER.id, 300_000, 200_000, 300_000)
    score(world, FOUNDER.id, 100_000, 100_000, 0)
    explanation = explained(world, FOUNDER)
    assert explanation.differences == ()
    assert [item.settled.credit_ppm for item in explanation.epochs] == [800_000, 300_000, 100_000]
    first, second, third = ("\n".join(epoch_lines(item, NAMES)) for item in explanation.epochs)
    assert "R          .4 x .500 + .6 x .800 = .680" in first
    assert "  .700  by verifier-2  power 10  3 samples  transcripts 000000000000" in first
    assert "power 40 of 40 revealed, 26.66668 needed (.666667 x 40): reached" in first
    assert ".800, the median by power: power 30 of 40 scored no higher" in first
    assert "CUSUM      max(0, .000 + max(.500 - .800, -.050)) = .000" in first
    assert ".4 x .680 + .6 x .300 = .452" in second
    assert "max(0, .000 + max(.500 - .300, -.050)) = .200" in second
    assert ".4 x .452 + .100 x (5 + 1) / (5 + 2 / .2 + 2) = .216094" in third
    assert ".800 .300 .100; 2 below .400, more than 1 of 5 are punished" in third
    assert "untrusted: lost trust: reputation below the threshold" in third
    assert "streak     1 epoch in a row with C >= .400" in first
    assert "streak     counted anew from here, for the status has changed" in third


def test_an_epoch_without_quorum_says_so() -> None:
    world = founded()
    score(world, FOUNDER.id, 900_000)
    (item,) = explained(world, FOUNDER).epochs
    text = "\n".join(epoch_lines(item, NAMES))
    assert item.differences == ()
    assert "power 10 of 40 revealed, 26.66668 needed (.666667 x 40): missed" in text
    assert "none: no half of all power lies on one side of R = .500" in text
    assert "R          .500 as before: no quorum: reputation kept" in text


def test_half_of_all_power_decides_without_a_quorum() -> None:
    world = founded({"quorum_ppm": 900_000})
    score(world, FOUNDER.id, 100_000, 200_000, 100_000)
    (item,) = explained(world, FOUNDER).epochs
    assert item.differences == ()
    text = "\n".join(epoch_lines(item, NAMES))
    assert "C          .200: more than half of all power lies below R" in text


def test_a_sample_s_alarm_is_explained() -> None:
    world = founded({"probers_per_node": 1, "full_below_ppm": 100_000})
    for _ in range(12):
        drawn = [index for index, v in enumerate(VERIFIERS) if world.assigned(v, FOUNDER.id)]
        if drawn:
            world.score(FOUNDER.id, {index: 450_000 for index in drawn})
        else:
            world.advance_to(world.window.end)
    explanation = explained(world, FOUNDER)
    assert explanation.differences == ()
    alarmed = next(item for item in explanation.epochs if item.settled.chance_ppm < 1_000_000)
    text = "\n".join(epoch_lines(alarmed, NAMES))
    assert "a sample only raises the alarm" in text
    assert "x chance .250" in text


def test_evidence_explains_what_no_epoch_does() -> None:
    world = founded()
    score(world, FOUNDER.id, *[900_000] * 4)
    assert world.code_of(VERIFIERS[2], EVIDENCE, conflict(FOUNDER, "one", "two")) == 0
    now = explained(world, FOUNDER)
    assert now.differences == ()
    assert [item.reporter for item in now.now.convictions] == [VERIFIERS[2].id]
    forgotten = dataclasses.replace(life_in(world, FOUNDER.id), events=())
    unexplained = explain(
        history_of(world, FOUNDER.id), forgotten, reputation_of(world, FOUNDER.id)
    )
    assert [line.partition(" comes")[0] for line in unexplained.differences] == [
        "now: R",
        "now: CUSUM",
        "now: trusted",
        "now: good epochs in a row",
        "now: epochs under alarm",
        "now: convictions",
    ]

    world.advance_to(world.window.end)
    score(world, FOUNDER.id, *[900_000] * 4)
    later = explained(world, FOUNDER)
    assert (later.differences, later.now.convictions) == ((), ())
    text = "\n".join(epoch_lines(later.epochs[-1], NAMES))
    assert "by verifier-2: a deterministic model gave two answers to one request" in text
    assert ".4 x .000 + .6 x .900 = .540" in text


def test_history_goes_on_through_a_rotation() -> None:
    world = founded({"probers_per_node": 1, "full_below_ppm": 100_000})
    world.advance_to(world.window.end)
    data = transactions.rotate(CHAIN_ID, FOUNDER.public_key, SUCCESSOR)
    assert world.code_of(FOUNDER, ROTATE, data) == 0
    world.advance_to(world.window.end)
    score(world, SUCCESSOR.id, *[900_000] * 4)
    data = transactions.rotate(CHAIN_ID, SUCCESSOR.public_key, participant(71))
    assert world.code_of(SUCCESSOR, ROTATE, data) == 0
    world.advance_to(world.window.end)
    assert explained(world, participant(71)).differences == ()
    score(world, participant(71).id, *[800_000] * 4)
    explanation = explained(world, participant(71))
    assert explanation.differences == ()
    assert [item.settled.node for item in explanation.epochs] == [
        SUCCESSOR.id,
        participant(71).id,
    ]


OTHER: dict[str, Any] = {
    "name": "other",
    "weights_digest": bytes(32),
    "quantization": "F16",
    "context_tokens": 2048,
    "deterministic": False,
}


def pass_vote(world: World, change: dict[str, Any]) -> None:
    number = load(world.state, NEXT_PROPOSAL_KEY) or 1
    assert world.code_of(VERIFIERS[0], PROPOSE, transactions.propose(change=change)) == 0
    for verifier in VERIFIERS[1:3]:
        world.send(verifier, VOTE, transactions.vote(proposal=number, approve=True))
    assert {int(result.code) for result in world.block().results} == {0}


def test_another_model_and_evidence_before_the_first_result_are_explained() -> None:
    world = World(SHORT)
    world.admit(MODEL, role="model")
    pass_vote(world, {**transactions.model(**OTHER), "kind": "model"})
    assert world.code_of(VERIFIERS[0], EVIDENCE, conflict(MODEL, "one", "two")) == 0
    world.advance_to(world.window.end)
    for _ in range(2):
        score(world, MODEL.id, *[900_000] * 4)
    (first, _) = explained(world, MODEL).epochs
    assert (first.settled.before.convictions, len(first.arrival.convictions)) == (1, 1)
    data = {**registration(MODEL, role="model"), "model": "other"}
    assert world.code_of(MODEL, UPDATE, data) == 0
    now = explained(world, MODEL)
    assert now.differences == ()
    world.advance_to(world.window.end)
    score(world, MODEL.id, *[900_000] * 4)
    later = explained(world, MODEL)
    assert later.differences == ()
    assert [item.arrival.other_model for item in later.epochs] == [False, False, True]
    text = "\n".join(epoch_lines(later.epochs[-1], NAMES))
    assert "update     serves another model since the epoch before" in text
    assert later.epochs[-1].settled.after.streak == 0


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(
                st.sampled_from([0, 200_000, 450_000, 550_000, 900_000]), min_size=1, max_size=4
            ),
            st.sampled_from(["evidence", "pause", "update", "rotate", "vote"]),
        ),
        min_size=1,
        max_size=14,
    ),
    st.booleans(),
    st.integers(0, 5),
    st.sampled_from([3, 5]),
)
def test_whatever_happened_is_explained(
    steps: list[Any], founder: bool, last: int, window_epochs: int
) -> None:
    """Also from the last few results alone, as when the ledger has dropped the others."""
    world = World(
        {
            **SHORT,
            "window_epochs": window_epochs,
            "probation_epochs": 2,
            "alarm_epochs": 2,
            "probers_per_node": 2,
        }
    )
    node = FOUNDER if founder else MODEL
    world.admit(node, role="model")
    other = {**transactions.model(**OTHER), "kind": "model"}
    pass_vote(world, other)
    world.advance_to(world.window.end)
    for number, step in enumerate(steps):
        if step == "evidence":
            request = b'{"model": "tiny", "temperature": 0, "n": %d}' % number
            world.code_of(VERIFIERS[0], EVIDENCE, conflict(node, "a", "b", request=request))
        if step == "update":
            data = {**registration(node, role="model"), "model": ["tiny", "other"][number % 2]}
            assert world.code_of(node, UPDATE, data) == 0
        if step == "rotate":
            data = transactions.rotate(CHAIN_ID, node.public_key, participant(100 + number))
            assert world.code_of(node, ROTATE, data) == 0
            world.advance_to(world.window.end)
            node = participant(100 + number)
        if step == "vote":
            name = ["alarm_epochs", "cusum_limit_ppm"][number % 2]
            value = [number + 1, 500_000 + 100_000 * number][number % 2]
            pass_vote(world, {"kind": "parameter", "name": name, "value": value})
        if step in ("evidence", "pause", "vote"):
            world.advance_to(world.window.end)
        if isinstance(step, str):
            continue
        if world.height + 1 >= world.window.commit_end:
            world.advance_to(world.window.end)
        drawn = [i for i, v in enumerate(VERIFIERS) if world.assigned(v, node.id)][: len(step)]
        world.score(node.id, {index: step[place] for place, index in enumerate(drawn)})
    explanation = explained(world, node, last)
    assert explanation.differences == ()
    assert all(item.arrival.known for item in explanation.epochs[1:])
    for item in explanation.epochs:
        assert list(epoch_lines(item, {}))


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"credit_ppm": 900_000}, "epoch 1: C comes to '.800'"),
    ({"abnormal": 2}, "epoch 1: abnormal epochs comes to '0'"),
    ({"verdict": "as I say"}, "epoch 1: the verdict comes to ''"),
    ({"reason": "as I say"}, "epoch 1: the reason comes to"),
    ({"chance_ppm": 900_000}, "epoch 1: the share of probers comes to '1.000'"),
    ({"total_power": 44}, "epoch 1: all power comes to '40'"),
    ({"node": bytes(20)}, f"epoch 1: the node comes to '{FOUNDER.id.hex()[:12]}'"),
]
AFTER: list[tuple[dict[str, Any], str]] = [
    ({"ppm": 700_000}, "R comes to '.752' by the rule, and the ledger has '.700'"),
    ({"cusum_ppm": 1}, "CUSUM comes to '.000' by the rule, and the ledger has '.000001'"),
    ({"window_ppm": (800_000,)}, "the window comes to '.800 .800'"),
    ({"admitted": False}, "admitted comes to 'True'"),
    ({"trusted": False}, "trusted comes to 'True'"),
    ({"streak": 9}, "good epochs in a row comes to '2'"),
    ({"alarm": 3}, "epochs under alarm comes to '0'"),
    ({"convictions": 1}, "convictions comes to '0'"),
    ({"last": None}, f"the newest result comes to 'that of {FOUNDER.id.hex()[:12]} in epoch 1'"),
]
BEFORE: list[tuple[dict[str, Any], str]] = [
    ({"ppm": 700_000}, "R before comes to '.680'"),
    ({"cusum_ppm": 1}, "CUSUM before comes to '.000'"),
    ({"window_ppm": ()}, "the window before comes to '.800'"),
    ({"trusted": False}, "trusted before comes to 'True'"),
    ({"streak": 3}, "good epochs in a row before comes to '1'"),
    ({"alarm": 1}, "epochs under alarm before comes to '0'"),
    ({"convictions": 1}, "convictions before comes to '0'"),
    ({"admitted": False}, "admitted before comes to 'True'"),
]


def twice_judged() -> World:
    world = founded()
    for _ in range(2):
        score(world, FOUNDER.id, *[800_000] * 4)
    return world


def with_forged_second(world: World, **forged: Any) -> Explanation:
    first, second = history_of(world, FOUNDER.id)
    results = [first, dataclasses.replace(second, **forged)]
    return explain(results, life_in(world, FOUNDER.id), reputation_of(world, FOUNDER.id))


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda value: str(value)[:24])
def test_what_does_not_follow_is_told(change: dict[str, Any], message: str) -> None:
    found = with_forged_second(twice_judged(), **change).differences
    assert any(line.startswith(message) for line in found), found
    assert difference_lines(found)[1].startswith("!! The ledger's record")


@pytest.mark.parametrize(("change", "message"), AFTER, ids=lambda value: str(value)[:24])
def test_a_reputation_that_the_scores_do_not_give_is_told_once(
    change: dict[str, Any], message: str
) -> None:
    world = twice_judged()
    (_, second) = history_of(world, FOUNDER.id)
    after = dataclasses.replace(second.after, **change)
    life = life_in(world, FOUNDER.id)
    results = [*history_of(world, FOUNDER.id)[:1], dataclasses.replace(second, after=after)]
    (line,) = explain(results, life, after).differences
    assert line.startswith(f"epoch 1: {message}")


@pytest.mark.parametrize(("change", "message"), BEFORE, ids=lambda value: str(value)[:24])
def test_a_reputation_that_changed_by_itself_is_told(change: dict[str, Any], message: str) -> None:
    world = twice_judged()
    (_, second) = history_of(world, FOUNDER.id)
    found = with_forged_second(world, before=dataclasses.replace(second.before, **change))
    (line,) = found.epochs[1].arrival.differences
    assert line.startswith(f"epoch 1: {message}")


def test_a_beginning_that_nothing_explains_is_told() -> None:
    world = founded()
    score(world, FOUNDER.id, *[800_000] * 4)
    (first,) = history_of(world, FOUNDER.id)
    life, now = life_in(world, FOUNDER.id), reputation_of(world, FOUNDER.id)
    for change in ({"window_ppm": (900_000,)}, {"trusted": False}, {"cusum_ppm": 1}):
        before = dataclasses.replace(first.before, **change)
        found = explain([dataclasses.replace(first, before=before)], life, now)
        assert len(found.epochs[0].arrival.differences) == 1
    # Which parameters it began with is not recorded.
    other = dataclasses.replace(first.before, ppm=400_000)
    found = explain([dataclasses.replace(first, before=other)], life, now)
    assert found.epochs[0].arrival.differences == ()


def test_a_prober_counted_twice_and_a_forged_standing_are_told() -> None:
    world = founded()
    score(world, FOUNDER.id, *[800_000] * 4)
    (settled,) = history_of(world, FOUNDER.id)
    life, now = life_in(world, FOUNDER.id), reputation_of(world, FOUNDER.id)
    doubled = (settled.scores[0], *settled.scores[1:3], settled.scores[0])
    found = explain([dataclasses.replace(settled, scores=doubled)], life, now)
    assert "epoch 0: one prober's score counts twice" in found.differences
    forged = dataclasses.replace(now, ppm=900_000, window_ppm=(900_000,))
    assert [
        line.partition(" comes")[0] for line in explain([settled], life, forged).differences
    ] == ["now: R", "now: the window"]


def test_what_is_dropped_is_not_compared() -> None:
    world = twice_judged()
    life, now = life_in(world, FOUNDER.id), reputation_of(world, FOUNDER.id)
    assert explain([], life, now).now.known is False
    (item,) = explained(world, FOUNDER, 1).epochs
    assert (item.arrival.known, item.differences) == (False, ())
    assert list(epoch_lines(item, {}))[-1].strip() == (
        "(began as recorded: what came before this epoch is dropped)"
    )
    # Its own epoch is judged all the same.
    forged = dataclasses.replace(item.settled, credit_ppm=900_000)
    assert len(explain([forged], life, now).differences) == 1


def test_evidence_and_a_rotation_cost_what_the_parameters_of_their_time_say() -> None:
    world = founded({"alarm_epochs": 8})
    score(world, FOUNDER.id, *[900_000] * 4)
    pass_vote(world, {"kind": "parameter", "name": "alarm_epochs", "value": 3})
    world.advance_to(world.window.end)
    assert world.code_of(VERIFIERS[2], EVIDENCE, conflict(FOUNDER, "one", "two")) == 0
    pass_vote(world, {"kind": "parameter", "name": "alarm_epochs", "value": 8})
    data = transactions.rotate(CHAIN_ID, FOUNDER.public_key, SUCCESSOR)
    world.advance_to(world.window.end)
    assert reputation_of(world, FOUNDER.id).alarm == 3
    assert world.code_of(FOUNDER, ROTATE, data) == 0
    world.advance_to(world.window.end)
    assert reputation_of(world, SUCCESSOR.id).alarm == 8
    assert explained(world, SUCCESSOR).differences == ()
    life = life_in(world, SUCCESSOR.id)
    assert [type(event) for event in life.events] == [Conviction, Rotation]
    kept = {number: item for number, item in life.parameters.items() if number == 0}
    dropped = dataclasses.replace(life, parameters=kept)
    results, now = history_of(world, SUCCESSOR.id), reputation_of(world, SUCCESSOR.id)
    assert explain(results, dropped, now).now.known is False
    turned = dataclasses.replace(life, events=life.events[::-1])
    assert explain(results, turned, now).differences == (
        "now: epochs under alarm comes to '3' by the rule, and the ledger has '8'",
    )


def test_other_rules_than_ours_are_not_applied() -> None:
    world = twice_judged()
    (first, second) = history_of(world, FOUNDER.id)
    forged = dataclasses.replace(second, credit_ppm=1, before=first.before)
    life, now = life_in(world, FOUNDER.id), reputation_of(world, FOUNDER.id)
    assert len(explain([first, forged], life, now).differences) > 1
    found = explain([first, forged], life, now, judge=False)
    assert found.differences == ()
    assert not [line for item in found.epochs for line in epoch_lines(item, {}) if "DIFF" in line]

"""What becomes of probers that withhold, or score far from the others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abci_app.core.penalties import (
    BENCHED_EPOCHS,
    TRUST_AFTER_PENALTY_PPM,
    Conduct,
    penalised,
)
from abci_app.core.verifiers import NEVER_BENCHED, Verifier, load_verifier
from planetserve.scoring.parameters import Parameters
from planetserve.transactions import REGISTER
from tests.abci_app.world import (
    FOUNDER,
    VERIFIERS,
    World,
    consensus_key,
    participant,
    registration,
)

MILLION = 1_000_000
PARAMETERS = Parameters()
CLEAN = Conduct(commits=3, reveals=3, compared=3)
WITHHELD = Conduct(commits=3, reveals=2, compared=2)
FAR = Conduct(commits=3, reveals=3, compared=3, far=2)


def verifier(
    number: int, power: int = 10, trust_ppm: int = MILLION, voted_power: int | None = None
) -> Verifier:
    voted = power if voted_power is None else voted_power
    signing_key = bytes([100 + number]) * 32
    return Verifier(bytes([number]) * 32, f"v{number}", signing_key, power, voted, trust_ppm)


def judged(before: Verifier, conduct: Conduct, others: int = 9) -> Verifier:
    """The verifier after an epoch, beside as many clean ones."""
    verifiers = [before, *(verifier(50 + number) for number in range(others))]
    changed = penalised(verifiers, {before.id: conduct}, 7, PARAMETERS)
    return changed[0] if changed else before


def test_a_clean_epoch_changes_nothing_for_one_in_good_standing() -> None:
    assert judged(verifier(1), CLEAN) == verifier(1)


def test_a_clean_epoch_earns_a_little_back() -> None:
    assert judged(verifier(1, trust_ppm=500_000), CLEAN).trust_ppm == 550_000
    assert judged(verifier(1, trust_ppm=970_000), CLEAN).trust_ppm == MILLION


def test_withholding_costs_trust_and_the_next_epoch() -> None:
    after = judged(verifier(1), WITHHELD)
    assert (after.trust_ppm, after.benched, after.power) == (800_000, 8, 10)


def test_distance_costs_trust_alone() -> None:
    after = judged(verifier(1), FAR)
    assert (after.trust_ppm, after.benched) == (800_000, NEVER_BENCHED)


@pytest.mark.parametrize(
    ("compared", "far", "faulty"),
    [(0, 0, False), (2, 2, False), (3, 1, False), (3, 2, True), (10, 5, False), (10, 6, True)],
)
def test_more_than_half_of_enough_must_be_far(compared: int, far: int, faulty: bool) -> None:
    assert Conduct(10, 10, compared, far).far_off is faulty


def test_idling_is_no_fault_and_earns_nothing() -> None:
    before = verifier(1, trust_ppm=500_000)
    assert judged(before, Conduct(0, 0)) == before


def test_withholding_with_the_last_of_its_trust_costs_half_of_the_power() -> None:
    after = judged(verifier(1, power=11, trust_ppm=200_000), WITHHELD)
    assert (after.power, after.voted_power, after.trust_ppm) == (5, 11, TRUST_AFTER_PENALTY_PPM)


def test_distance_never_costs_power() -> None:
    after = judged(verifier(1, power=11, trust_ppm=200_000), FAR)
    assert (after.power, after.trust_ppm) == (11, TRUST_AFTER_PENALTY_PPM)
    assert after.benched == 7 + BENCHED_EPOCHS


def test_no_more_than_half_is_ever_cut() -> None:
    current, powers = verifier(1, power=64), []
    for _ in range(12):
        current = judged(current, WITHHELD)
        powers.append(current.power)
    assert powers == [64] * 4 + [32] * 8
    assert judged(verifier(1, power=1, trust_ppm=0), WITHHELD).power == 1


def test_full_trust_gives_the_power_back() -> None:
    current = verifier(1, power=32, trust_ppm=850_000, voted_power=64)
    powers = []
    for _ in range(4):
        current = judged(current, CLEAN)
        powers.append(current.power)
    assert powers == [32, 32, 64, 64]


def test_power_waits_when_a_vote_has_moved_some() -> None:
    before = verifier(1, power=10, trust_ppm=0)
    conducts = {bytes(before.id): WITHHELD}
    (after,) = penalised([before], conducts, 7, PARAMETERS, may_move_power=False)
    assert (after.power, after.trust_ppm) == (10, 0)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1_000),
            st.integers(0, MILLION),
            st.sampled_from([CLEAN, WITHHELD, FAR, Conduct(0, 0)]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_an_epoch_cuts_one_prober_or_a_tenth_of_all_power(
    played: list[tuple[int, int, Conduct]],
) -> None:
    """Light clients follow changes of less than a third of the power."""
    verifiers = [
        verifier(number, power, trust_ppm=trust) for number, (power, trust, _) in enumerate(played)
    ]
    conducts = {
        bytes(each.id): conduct for each, (_, _, conduct) in zip(verifiers, played, strict=True)
    }
    changed = penalised(verifiers, conducts, 7, PARAMETERS)
    before = {each.id: each for each in verifiers}
    total = sum(each.power for each in verifiers)
    moved = [abs(before[each.id].power - each.power) for each in changed]
    cuts = [amount for amount in moved if amount]
    assert len(cuts) <= 1 or 10 * sum(cuts) <= total
    for each in changed:
        assert 0 <= each.trust_ppm <= MILLION
        assert each.power >= 1
        assert each != before[each.id]
        assert replace(each, power=0, trust_ppm=0, benched=0) == replace(
            before[each.id], power=0, trust_ppm=0, benched=0
        )


ANSWERS = st.integers(0, 12).flatmap(
    lambda compared: st.builds(
        lambda far: Conduct(commits=12, reveals=12, compared=compared, far=far),
        st.integers(0, compared),
    )
)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(1, 100), st.data())
def test_who_opens_all_keeps_its_share_whatever_nodes_answer(
    honest: list[int], liar: int, data: st.DataObject
) -> None:
    """Nodes choose how far honest scores lie from each other; liars choose what they do."""
    verifiers = [verifier(number, power) for number, power in enumerate((liar, *honest))]
    keepers = [each.id for each in verifiers[1:]]
    lies = ANSWERS | st.sampled_from([WITHHELD, Conduct(0, 0)])
    for epoch in range(data.draw(st.integers(1, 12))):
        conducts = {bytes(each): data.draw(ANSWERS) for each in keepers}
        conducts[bytes(verifiers[0].id)] = data.draw(lies)
        changed = penalised(
            verifiers, conducts, epoch, PARAMETERS, may_move_power=data.draw(st.booleans())
        )
        by_id = {each.id: each for each in (*verifiers, *changed)}
        verifiers = [by_id[each.id] for each in verifiers]
        assert [each.power for each in verifiers[1:]] == honest
        assert verifiers[0].power <= liar


def test_whoever_must_wait_for_its_cut_is_cut_in_a_later_epoch() -> None:
    verifiers = [verifier(number, 10, trust_ppm=0) for number in range(4)]
    epochs = 0
    while any(each.power == 10 for each in verifiers):
        conducts = {bytes(each.id): WITHHELD for each in verifiers if each.power == 10}
        changed = {each.id: each for each in penalised(verifiers, conducts, epochs, PARAMETERS)}
        verifiers = [changed.get(each.id, each) for each in verifiers]
        epochs += 1
    assert epochs == 4


def network(nodes: int) -> tuple[World, list[bytes]]:
    """Verifiers and as many trusted model nodes, of which genesis vouches for the first."""
    world = World({"full_below_ppm": MILLION})
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == 0
    others = [participant(150 + number) for number in range(nodes - 1)]
    for other in others:
        world.admit(other, role="model")
    return world, [FOUNDER.id, *(other.id for other in others)]


def trust(world: World, index: int) -> int:
    found = load_verifier(world.state, VERIFIERS[index].id)
    assert found is not None
    return found.trust_ppm


def test_a_node_that_answers_one_prober_badly_frames_nobody() -> None:
    world, nodes = network(3)
    honest = dict.fromkeys(range(4), 900_000)
    scores = {nodes[0]: {**honest, 3: 0}, nodes[1]: honest, nodes[2]: honest}
    for _ in range(6):
        world.score_all(scores)
    assert [trust(world, index) for index in range(4)] == [MILLION] * 4


def test_a_prober_that_lies_about_most_is_found_out() -> None:
    world, nodes = network(3)
    honest = dict.fromkeys(range(4), 900_000)
    scores = {nodes[0]: {**honest, 3: 0}, nodes[1]: {**honest, 3: 0}, nodes[2]: honest}
    world.score_all(dict.fromkeys(nodes, honest))  # newcomers are held against nobody
    for _ in range(5):
        world.score_all(scores)
    liar = load_verifier(world.state, VERIFIERS[3].id)
    assert liar is not None
    assert (liar.power, liar.trust_ppm) == (10, TRUST_AFTER_PENALTY_PPM)
    assert liar.benched >= world.chain.epoch.number
    assert [trust(world, index) for index in range(3)] == [MILLION] * 3


def test_nodes_that_answer_at_random_make_no_liars() -> None:
    """Less than two thirds of the probers found such a node alike."""
    world, nodes = network(3)
    honest = dict.fromkeys(range(4), 900_000)
    world.score_all(dict.fromkeys(nodes, honest))
    scattered = {0: 900_000, 1: 900_000, 2: 0, 3: 200_000}
    world.score_all(dict.fromkeys(nodes, scattered))
    assert [trust(world, index) for index in range(4)] == [MILLION] * 4


def test_a_cut_reaches_cometbft() -> None:
    world, nodes = network(1)
    updates: tuple[tuple[bytes, int], ...] = ()
    for _ in range(9):
        # One that left something unopened may commit in every other epoch only.
        found = load_verifier(world.state, VERIFIERS[3].id)
        assert found is not None
        benched = found.benched == world.chain.epoch.number
        probers = {index: 900_000 for index in range(4) if index < 3 or not benched}
        result = world.score_all({nodes[0]: probers}, withheld=frozenset({3}))
        updates += result.validator_updates
    assert updates == ((consensus_key(3), 5),)

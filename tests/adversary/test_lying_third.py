"""Just under a third of the power lies: honest nodes keep their trust and cheats lose it."""

from __future__ import annotations

import pytest

from planetserve.transactions import COMMIT, REGISTER, decode_transaction
from tests.abci_app.world import FOUNDER, VERIFIERS, World, registration
from tests.adversary.lying_third import (
    CHEATS,
    FAIR,
    HONEST,
    HOPEFUL,
    ROUGH,
    Outcome,
    Simulation,
    draw_liars,
    draw_powers,
)

PATIENCE_EPOCHS, LONGEST_EPOCHS = 15, 30
"""Mostly a cheat is out within two to five epochs. It stays longest where an honest verifier
holds much of the power: the liars are most of many a sample for which that one is not drawn."""


def check(outcome: Outcome, epochs: int) -> None:
    fates = outcome.fates
    for name in HONEST:
        assert (fates[name].since, fates[name].lost) == (0, False), name
    for name in HOPEFUL:
        assert 0 < fates[name].since <= 20, name
        assert not fates[name].lost, name
    for name in CHEATS.keys() - {"sly"}:
        assert fates[name].cheated <= LONGEST_EPOCHS, name
    # Once in five hundred networks the one honest score that decides is far too good.
    assert fates["applicant"].trusted <= 3
    # It behaves whenever it is watched, so it keeps its trust and pays with honest work.
    assert fates["sly"].cheated <= epochs // 2
    assert outcome.honest_power_lost <= 0.05


@pytest.mark.parametrize("seed", range(100))
def test_a_lying_third_moves_nobody_across_the_threshold(seed: int) -> None:
    check(Simulation(seed, ROUGH if seed % 2 else FAIR).run(20), 20)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_a_lying_third_over_a_thousand_networks() -> None:
    stays, sly = [], []
    for seed in range(1_000):
        outcome = Simulation(seed, ROUGH if seed % 2 else FAIR).run(60)
        check(outcome, 60)
        stays.append(max(outcome.fates[name].cheated for name in CHEATS.keys() - {"sly"}))
        sly.append(outcome.fates["sly"].cheated)
    print(f"longest stays {sorted(stays)[-5:]}, most cheating of the sly {sorted(sly)[-5:]} of 60")
    assert sum(share > 20 for share in sly) <= 10, sorted(sly)[-20:]
    assert sum(stay > PATIENCE_EPOCHS for stay in stays) <= 10, sorted(stays)[-20:]


@pytest.mark.parametrize("seed", range(20))
def test_the_liars_hold_just_under_a_third(seed: int) -> None:
    simulation = Simulation(seed)
    lying = sum(simulation.powers[prober] for prober in simulation.liars)
    total = sum(simulation.powers.values())
    assert 3 * lying < total
    left = [simulation.powers[prober] for prober in simulation.powers.keys() - simulation.liars]
    assert 3 * (lying + min(left)) >= total
    powers = draw_powers(simulation.random)
    assert draw_liars(simulation.random, powers) < powers.keys()


TRICKS = ("shift", "extreme", "withhold", "copy", "abstain")


@pytest.mark.parametrize("seed", range(24))
def test_a_lying_verifier_through_real_transactions(seed: int) -> None:
    """The last of four verifiers, with 32 of 100 of the power, plays one trick after another
    against an honest node and for a cheat; commitments, proofs and reveals are real."""
    powers = [(34, 17, 17, 32), (23, 23, 22, 32)][seed % 2]
    world = World({"epoch_blocks": 6, "commit_blocks": 3}, powers)
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == 0
    liar, honest = 3, (0, 1, 2)
    for epoch in range(8):
        trick = TRICKS[(seed // 2 + epoch) % len(TRICKS)]
        scores = {prober: 750_000 + 10_000 * ((seed + prober * epoch) % 11) for prober in honest}
        for prober, score in scores.items():
            world.commit(VERIFIERS[prober], FOUNDER.id, score)
        lie = {"shift": min(scores.values()) - 100_000, "extreme": 0}.get(trick, 500_000)
        if trick == "copy":
            data = decode_transaction(world.queued[0]).data
            world.send(VERIFIERS[liar], COMMIT, data)
        elif trick != "abstain":
            world.commit(VERIFIERS[liar], FOUNDER.id, lie)
        codes = [int(result.code) for result in world.block().results]
        benched = codes[3:] == [38]
        assert codes[:3] == [0, 0, 0]
        world.advance_to(world.window.commit_end)
        for prober, score in scores.items():
            world.reveal(VERIFIERS[prober], FOUNDER.id, score)
        if trick in ("shift", "extreme") and not benched:
            world.reveal(VERIFIERS[liar], FOUNDER.id, lie)
        assert {int(result.code) for result in world.block().results} == {0}
        if trick == "copy" and not benched:
            world.reveal(VERIFIERS[liar], FOUNDER.id, scores[0])
            assert [int(result.code) for result in world.block().results] == [34]
        world.advance_to(world.window.end - 1)
        settlement = world.block().settlement
        assert settlement is not None
        (result,) = settlement.results
        credit = result.judgement.credit_ppm
        assert result.after.status == "trusted"
        assert credit is not None
        assert min(scores.values()) <= credit <= max(scores.values())

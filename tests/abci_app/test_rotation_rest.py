"""A key chosen for how it draws is of no use while the seeds are still known that chose it."""

from __future__ import annotations

from abci_app.core.codes import Code
from abci_app.core.state import load
from abci_app.core.verifiers import REST_EPOCHS, load_verifier
from planetserve.statekeys import reputation_key
from planetserve.transactions import COMMIT, REGISTER, ROTATE, commit, rotate
from tests.abci_app.world import CHAIN_ID, FOUNDER, VERIFIERS, World, participant, registration

SUCCESSOR = participant(94)


def test_a_prober_rests_under_its_new_key() -> None:
    world = World({"epoch_blocks": 4, "commit_blocks": 2})
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == Code.OK
    old = VERIFIERS[0]
    assert world.code_of(old, ROTATE, rotate(CHAIN_ID, old.public_key, SUCCESSOR)) == Code.OK
    rotated_in = world.chain.epoch.number
    world.advance_to(world.window.end)
    verifier = load_verifier(world.state, SUCCESSOR.id)
    assert verifier is not None
    assert verifier.benched == rotated_in + REST_EPOCHS

    def attempt() -> int:
        epoch = world.chain.epoch.number
        data = commit(epoch=epoch, node=FOUNDER.id, commitment=bytes(32))
        return world.code_of(SUCCESSOR, COMMIT, data)

    while world.chain.epoch.number < rotated_in + REST_EPOCHS:
        assert attempt() == Code.BENCHED
        world.advance_to(world.window.end)
    assert attempt() == Code.BENCHED
    world.advance_to(world.window.end)
    world.block()
    assert attempt() == Code.OK


def test_everyone_judges_a_model_node_under_its_new_id() -> None:
    world = World()
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, role="model")) == Code.OK
    data = rotate(CHAIN_ID, FOUNDER.public_key, SUCCESSOR)
    assert world.code_of(FOUNDER, ROTATE, data) == Code.OK
    world.advance_to(world.window.end)
    world.block()
    reputation = load(world.state, reputation_key(SUCCESSOR.id))
    assert reputation["alarm"] == world.chain.parameters.alarm_epochs

"""A node that answers honest probers badly takes no power from them."""

from __future__ import annotations

import random

import pytest

from abci_app.core.verifiers import all_verifiers
from planetserve.transactions import ENDORSE, REGISTER, endorse
from tests.abci_app import world
from tests.abci_app.world import FOUNDER, MODEL, World, participant, registration

HONEST, LIARS, EPOCHS = 9, 3, 30


@pytest.mark.parametrize("admitted", [False, True])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("bad_share", [0.3, 0.5])
def test_a_coin_tossing_node_moves_no_power(
    bad_share: float, silent: bool, admitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a rule that took power for distance, the liars' share went from a quarter to three
    quarters and more in these epochs (docs/adr/0007)."""
    verifiers = tuple(participant(number) for number in range(1, 1 + HONEST + LIARS))
    monkeypatch.setattr(world, "VERIFIERS", verifiers)
    network = World({"epoch_blocks": 4, "commit_blocks": 1}, (1_000,) * len(verifiers))
    node = FOUNDER if admitted else MODEL
    network.block()
    assert network.code_of(node, REGISTER, registration(node, role="model")) == 0
    data = endorse(node=node.id, role="model", expires=1_000_000)
    assert network.code_of(verifiers[-1], ENDORSE, data) == 0
    toss = random.Random(1)
    for _ in range(EPOCHS):
        network.advance_to(network.window.end)
        drawn = [i for i, prober in enumerate(verifiers) if network.assigned(prober, node.id)]
        honest = {i: 10**6 * (toss.random() >= bad_share) for i in drawn if i < HONEST}
        lies = {} if silent else {i: 0 for i in drawn if i >= HONEST}
        network.score(node.id, honest | lies)
    powers = {verifier.id: verifier.power for verifier in all_verifiers(network.state)}
    assert powers == {prober.id: 1_000 for prober in verifiers}

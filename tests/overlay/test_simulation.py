"""Thousands of paths on a network with a clock of its own; a failure names its seed."""

from __future__ import annotations

from functools import partial

import pytest

from overlay.core.client_path import OPEN
from tests.overlay.simulation import Asked, Simulation
from tests.overlay.world import node_id

RELAYS = 40
SETTLED_S = 60.0
FORGOTTEN_S = 200.0
"""Longer than a relay keeps a path of which it hears nothing."""
SIZES = (0, 1, 1_950, 1_951, 6_000, 30_000)


def ask_many(simulation: Simulation, paths: int, over_s: float) -> None:
    draw = simulation.random
    for number in range(paths):
        hops = [node_id(hop) for hop in draw.sample(range(1, RELAYS + 1), draw.randint(2, 4))]
        data = draw.randbytes(draw.choice(SIZES))
        simulation.at(over_s * number / paths, partial(simulation.ask, hops, data))


def break_many(simulation: Simulation, links: int, over_s: float) -> None:
    draw = simulation.random
    for _ in range(links):
        one, other = draw.sample(range(1, RELAYS + 1), 2)
        simulation.at(
            draw.uniform(0, over_s), partial(simulation.break_link, node_id(one), node_id(other))
        )


def is_whole(asked: Asked) -> bool:
    return asked.back == asked.sent and asked.owned.path.phase == OPEN


def end_all(simulation: Simulation) -> None:
    for asked in simulation.asked:
        asked.owned.send(asked.owned.path.close())
    simulation.run(FORGOTTEN_S)
    assert simulation.open_paths() == [0] * RELAYS, simulation.seed
    for member in simulation.line:
        assert not member.core._links, simulation.seed
        assert len(member.core._shares) == 0, simulation.seed


@pytest.mark.parametrize("seed", [1, 2])
def test_on_honest_links_every_path_carries_everything(seed: int) -> None:
    simulation = Simulation(seed, RELAYS)
    ask_many(simulation, 1_000, 60.0)
    simulation.run(60.0 + SETTLED_S)
    assert len(simulation.asked) == 1_000
    assert all(is_whole(asked) for asked in simulation.asked), seed
    end_all(simulation)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_broken_link_is_heard_of_and_costs_its_paths_only(seed: int) -> None:
    simulation = Simulation(seed, RELAYS)
    ask_many(simulation, 1_000, 30.0)
    break_many(simulation, 300, 60.0)
    simulation.run(60.0 + SETTLED_S)
    for asked in simulation.asked:
        assert is_whole(asked) or (asked.broken and asked.sent.startswith(asked.back)), seed
    lost = [asked for asked in simulation.asked if asked.broken]
    assert 20 < len(lost) < 600, seed
    end_all(simulation)


@pytest.mark.parametrize("seed", [5, 6])
def test_hostile_relays_bring_no_wrong_byte_and_harm_their_own_paths_only(seed: int) -> None:
    hostile = 8
    simulation = Simulation(seed, RELAYS, hostile)
    ask_many(simulation, 1_000, 60.0)
    simulation.run(60.0 + SETTLED_S)
    assert len(simulation.done_to) == 5, seed  # each deed was done
    for asked in simulation.asked:
        assert asked.sent.startswith(asked.back), seed
        if not any(node_id(number) in asked.owned.path.hops for number in range(1, hostile + 1)):
            assert is_whole(asked), seed
    harmed = [asked for asked in simulation.asked if not is_whole(asked)]
    assert 10 < len(harmed) < 500, seed
    end_all(simulation)

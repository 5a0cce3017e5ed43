"""Epochs from commits to reputations."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.context import epoch_of, window_of
from abci_app.core.parameters import Parameters
from abci_app.core.queries import Committed, answer
from abci_app.core.reputation import KEPT, PUNISHED, SMOOTHED
from abci_app.core.routes import route
from abci_app.core.settlement import weighted_median
from planetserve.encoding import decode
from planetserve.records import TRUSTED, UNTRUSTED
from tests.abci_app.world import MODEL, VERIFIERS, World


def ask(world: World, path: str) -> object:
    value = answer(Committed(world.state, world.height, bytes(32)), path).value
    return decode(value) if value else None


def last_result(world: World) -> dict[str, object]:
    found = ask(world, f"/reputation/{MODEL.id.hex()}")
    assert isinstance(found, dict)
    result = found["history"][-1]
    assert isinstance(result, dict)
    return result


def test_windows_tile_the_heights() -> None:
    parameters = Parameters()
    assert [epoch_of(height, parameters) for height in (1, 25, 26, 50, 51)] == [0, 0, 1, 1, 2]
    window = window_of(1, parameters)
    assert (window.start, window.commit_end, window.reveal_end, window.end) == (26, 41, 50, 51)


@given(st.lists(st.tuples(st.integers(0, 1_000_000), st.integers(1, 50)), min_size=1, max_size=9))
def test_median_halves_the_weight(scores: list[tuple[int, int]]) -> None:
    median = weighted_median(scores)
    total = sum(weight for _, weight in scores)
    below = sum(weight for score, weight in scores if score < median)
    upto = sum(weight for score, weight in scores if score <= median)
    assert Fraction(below, total) < Fraction(1, 2) <= Fraction(upto, total)
    assert median == weighted_median(scores[::-1])


@given(st.lists(st.integers(600_000, 700_000), min_size=3, max_size=3), st.integers(0, 1_000_000))
def test_a_lying_quarter_moves_the_median_only_among_honest_scores(
    honest: list[int], lie: int
) -> None:
    median = weighted_median([(score, 10) for score in [*honest, lie]])
    assert min(honest) <= median <= max(honest)


def test_quorum_settles_and_keeps_the_evidence() -> None:
    world = World()
    world.admit(MODEL, role="model")
    world.score(0, MODEL.id, {0: 900_000, 1: 700_000, 2: 800_000})
    result = last_result(world)
    assert result["credit_ppm"] == 800_000
    assert (result["before_ppm"], result["after_ppm"]) == (500_000, 680_000)
    assert (result["abnormal"], result["window_epochs"]) == (0, 5)
    assert (result["status"], result["reason"]) == (TRUSTED, SMOOTHED)
    assert result["total_power"] == 40
    scores = result["scores"]
    assert isinstance(scores, list)
    by_prober = {item["prober"]: (item["score_ppm"], item["weight"]) for item in scores}
    assert by_prober[VERIFIERS[1].id] == (700_000, 10)
    epoch = ask(world, "/epoch/0")
    assert isinstance(epoch, dict)
    assert (epoch["commits"], epoch["reveals"], epoch["settled"]) == (3, 3, 25)
    assert epoch["results"] == [result]
    assert not [key for key in world.items if key.startswith((b"commits/", b"reveals/"))]


def test_without_quorum_reputation_stays() -> None:
    world = World()
    world.admit(MODEL, role="model")
    world.score(0, MODEL.id, {0: 0, 1: 0})
    result = last_result(world)
    assert (result["credit_ppm"], result["reason"]) == (None, KEPT)
    assert (result["before_ppm"], result["after_ppm"]) == (500_000, 500_000)


@pytest.mark.parametrize(("probers", "settles"), [((0,), False), ((0, 1), True)])
def test_power_decides_the_quorum_not_heads(probers: tuple[int, ...], settles: bool) -> None:
    world = World(powers=(50, 30, 10, 10))
    world.admit(MODEL, role="model")
    world.score(0, MODEL.id, dict.fromkeys(probers, 600_000))
    assert (last_result(world)["credit_ppm"] is not None) is settles


def test_a_cheat_loses_its_trust_and_can_earn_it_back() -> None:
    world = World()
    world.admit(MODEL, role="model")
    status = []
    for epoch, credit in enumerate([200_000, 200_000, *[700_000] * 5]):
        world.score(epoch, MODEL.id, {0: credit, 1: credit, 2: credit, 3: credit})
        found = route(world.state, MODEL.id, world.height)
        assert found is not None
        status.append(found.status)
    assert status[:2] == [TRUSTED, UNTRUSTED]
    assert status[-1] == TRUSTED
    history = ask(world, f"/reputation/{MODEL.id.hex()}")
    assert isinstance(history, dict)
    reasons = [item["reason"] for item in history["history"]]
    assert reasons[:2] == [SMOOTHED, PUNISHED]
    assert [item["epoch"] for item in history["history"]] == list(range(7))


def test_status_names_the_epoch_that_the_next_block_belongs_to() -> None:
    world = World()
    world.advance_to(26)
    status = ask(world, "/status")
    assert isinstance(status, dict)
    assert (status["height"], status["epoch"], status["epoch_start"]) == (25, 1, 26)
    assert (status["commit_end"], status["reveal_end"], status["epoch_end"]) == (41, 50, 51)
    assert [item["power"] for item in status["verifiers"]] == [10] * 4


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", 70),
        ("routes", 70),
        ("/nothing", 70),
        ("/routes/1", 71),
        ("/epoch/x", 71),
        ("/epoch/-1", 71),
        ("/epoch/" + "9" * 500, 71),
        ("/node/" + "AB" * 20, 71),
        ("/account/12", 71),
        ("/epoch/999", 0),
        ("/node/" + "ab" * 20, 0),
    ],
)
def test_queries_of_nothing(path: str, code: int) -> None:
    world = World()
    world.block()
    found = answer(Committed(world.state, world.height, bytes(32)), path)
    assert (found.code, found.value) == (code, b"")


@given(st.text(max_size=40))
def test_no_query_raises(path: str) -> None:
    world = World()
    world.block()
    answer(Committed(world.state, world.height, bytes(32)), path)
    answer(Committed(world.state, world.height, bytes(32)), "/epoch/" + path)

"""Registering models."""

from typing import Any

import pytest

from abci_app.core.codes import Code
from abci_app.core.models import Model, all_models, load_model
from planetserve.transactions import MODEL, PROPOSE, VOTE
from tests.abci_app.world import RELAY, VERIFIERS, World


def model(name: str = "small", **other: Any) -> dict[str, Any]:
    return {
        "name": name,
        "weights_digest": bytes(range(32)),
        "quantization": "Q8_0",
        "context_tokens": 2048,
        "deterministic": False,
        **other,
    }


def test_a_verifier_registers_a_model() -> None:
    world = World()
    assert world.code_of(VERIFIERS[1], MODEL, model("Org/Small-1B")) == Code.OK
    by = bytes(VERIFIERS[1].id)
    registered = Model("Org/Small-1B", bytes(range(32)), "Q8_0", 2048, False, 1, by)
    assert load_model(world.state, "Org/Small-1B") == registered
    assert load_model(world.state, "Org/Small") is None
    assert [item.name for item in all_models(world.state)] == ["Org/Small-1B", "tiny"]


def test_a_name_is_given_once() -> None:
    world = World()
    assert world.code_of(VERIFIERS[0], MODEL, model()) == Code.OK
    before = load_model(world.state, "small")
    for verifier in VERIFIERS[:2]:
        data = model(context_tokens=4096)
        assert world.code_of(verifier, MODEL, data) == Code.MODEL_EXISTS
    assert world.code_of(VERIFIERS[0], MODEL, model("tiny")) == Code.MODEL_EXISTS
    assert load_model(world.state, "small") == before


def test_a_deterministic_model_takes_a_vote() -> None:
    world = World()
    assert world.code_of(VERIFIERS[0], MODEL, model(deterministic=True)) == Code.INVALID_FIELD
    change = {"kind": "model", **model("exact", deterministic=True)}
    assert world.code_of(VERIFIERS[0], PROPOSE, {"change": change}) == Code.OK
    for verifier in VERIFIERS[1:3]:
        assert world.code_of(verifier, VOTE, {"proposal": 1, "approve": True}) == Code.OK
    found = load_model(world.state, "exact")
    assert found is not None
    assert (found.deterministic, found.by) == (True, bytes(20))


def test_others_register_nothing() -> None:
    world = World()
    world.admit(RELAY)
    assert world.code_of(RELAY, MODEL, model()) == Code.NOT_A_VERIFIER


def test_each_verifier_has_its_own_limit() -> None:
    world = World({"max_models_per_verifier": 2})
    codes = [world.code_of(VERIFIERS[0], MODEL, model(f"m{index}")) for index in range(3)]
    assert codes == [Code.OK, Code.OK, Code.MODEL_LIMIT]
    assert world.code_of(VERIFIERS[1], MODEL, model("m2")) == Code.OK


@pytest.mark.parametrize(
    "other",
    [
        {"name": ""},
        {"name": "m" * 129},
        {"name": "größe"},
        {"name": 3},
        {"weights_digest": bytes(31)},
        {"weights_digest": "00" * 32},
        {"quantization": ""},
        {"quantization": "q" * 33},
        {"context_tokens": 0},
        {"context_tokens": (1 << 30) + 1},
        {"context_tokens": True},
        {"deterministic": 1},
        {"deterministic": None},
        {"registered": 1},
    ],
)
def test_malformed_models(other: dict[str, Any]) -> None:
    world = World()
    assert world.code_of(VERIFIERS[0], MODEL, model(**other)) == Code.INVALID_FIELD
    for name in model():
        data = model()
        del data[name]
        assert world.code_of(VERIFIERS[0], MODEL, data) == Code.INVALID_FIELD

"""The first state, and the documents that cannot make one."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abci_app.core.chain import GenesisError, load_chain
from abci_app.core.genesis import genesis
from abci_app.core.state import MapReader, load
from abci_app.core.transition import Block, transition
from abci_app.core.verifiers import MAX_TOTAL_POWER
from planetserve.assignment import first_seed
from planetserve.encoding import decode
from planetserve.scoring.parameters import (
    LIMITS,
    InvalidParameters,
    Parameters,
    parameters_from,
)
from planetserve.statekeys import credential_key, model_key, node_key, route_key, verifier_key
from tests.abci_app.world import FOUNDER, VERIFIERS, app_state

DOCUMENT: dict[str, Any] = json.loads(app_state())


def state_of(document: Any) -> MapReader:
    writes = genesis("chain", json.dumps(document).encode())
    return MapReader({key: value for key, value in writes.items() if value is not None})


def changed(path: Sequence[str | int], value: Any) -> dict[str, Any]:
    """The document with `value` at a path; `...` removes what is there."""
    document = copy.deepcopy(DOCUMENT)
    at: Any = document
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return document


def test_it_makes_a_state_that_blocks_can_follow() -> None:
    state = state_of(DOCUMENT)
    chain = load_chain(state)
    assert (chain.chain_id, chain.version, chain.parameters) == ("chain", 1, Parameters())
    assert (chain.epoch.number, chain.epoch.start) == (0, 1)
    assert (chain.epoch.seed, chain.epoch.sample_ppm) == (first_seed("chain"), 1_000_000)
    for identity in VERIFIERS:
        assert load(state, verifier_key(identity.id))["power"] == 10
        assert load(state, node_key(identity.id))["roles"] == ["prober", "verifier"]
        assert load(state, route_key(identity.id))["status"] == "trusted"
    assert load(state, model_key("tiny"))["by"] == bytes(20)
    assert load(state, credential_key(FOUNDER.id, "model", bytes(20)))["issued"] == 0
    assert transition(state, Block(1, ())).validator_updates == ()


def test_every_record_is_canonical() -> None:
    for value in genesis("chain", app_state()).values():
        assert value is not None
        decode(value)


def test_models_and_credentials_may_be_left_out() -> None:
    document = {name: DOCUMENT[name] for name in ("params", "verifiers")}
    assert len(list(state_of(document).scan(b"models/"))) == 0


def test_the_order_of_entries_and_names_says_nothing() -> None:
    turned = {name: DOCUMENT[name] for name in reversed(DOCUMENT)}
    turned["verifiers"] = DOCUMENT["verifiers"][::-1]
    first = genesis("chain", json.dumps(DOCUMENT).encode())
    second = genesis("chain", json.dumps(turned).encode())
    assert sorted(first.items()) == sorted(second.items())


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"params": {}}'],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_document(text: bytes) -> None:
    with pytest.raises(GenesisError):
        genesis("chain", text)


VERIFIER_0: list[str | int] = ["verifiers", 0]
MODEL_0: list[str | int] = ["models", 0]
CREDENTIAL_0: list[str | int] = ["credentials", 0]
WRONG: list[tuple[list[str | int], Any, str]] = [
    (["params"], [], "params is an object"),
    (["params", "epoch_size"], 1, "no parameter is called"),
    (["params", "epoch_blocks"], 2, "must be an integer from 3"),
    (["params", "epoch_blocks"], 25.0, "must be an integer"),
    (["params", "epoch_blocks"], True, "must be an integer"),
    (["params", "commit_blocks"], 24, "an eighth of an epoch"),
    (["params", "trusted_from_ppm"], 1, "must not lie below"),
    (["verifiers"], [], "at least one verifier"),
    (["verifiers"], {}, "verifiers is a list"),
    ([*VERIFIER_0, "power"], ..., "a verifier holds exactly"),
    ([*VERIFIER_0, "power"], 0, "power is an integer from 1"),
    ([*VERIFIER_0, "power"], "10", "power is an integer"),
    ([*VERIFIER_0, "power"], MAX_TOTAL_POWER, "exceeds what CometBFT allows"),
    ([*VERIFIER_0, "name"], "", "name is 1 to 64"),
    ([*VERIFIER_0, "name"], "a\nb", "printable ASCII"),
    ([*VERIFIER_0, "prober_key"], "zz", "prober_key is hex"),
    ([*VERIFIER_0, "prober_key"], None, "prober_key is hex"),
    ([*VERIFIER_0, "onion_key"], "00", "onion_key is 32 bytes"),
    ([*VERIFIER_0, "consensus_key"], DOCUMENT["verifiers"][1]["consensus_key"], "share a key"),
    ([*VERIFIER_0, "transport_key"], DOCUMENT["verifiers"][1]["transport_key"], "share a key"),
    ([*VERIFIER_0, "prober_key"], "01" + "00" * 31, "no point of the main subgroup"),
    ([*VERIFIER_0, "consensus_key"], "00" * 32, "no point of the main subgroup"),
    ([*VERIFIER_0, "consensus_key"], "ec" + "ff" * 30 + "7f", "no point of the main subgroup"),
    ([*VERIFIER_0, "onion_key"], "00" * 32, "verifier-0: "),
    ([*VERIFIER_0, "transport_key"], "01" + "00" * 31, "verifier-0: "),
    ([*VERIFIER_0], 5, "a verifier holds exactly"),
    (["models"], 5, "models is a list"),
    ([*MODEL_0], [], "a model holds exactly"),
    ([*MODEL_0, "context_tokens"], 0, "context_tokens is an integer"),
    ([*MODEL_0, "weights_digest"], "07", "weights_digest is 32 bytes"),
    ([*MODEL_0, "deterministic"], 1, "deterministic is true or false"),
    (["credentials"], "x", "credentials is a list"),
    ([*CREDENTIAL_0, "more"], 1, "a credential holds exactly"),
    ([*CREDENTIAL_0, "role"], "verifier", "role is one of"),
    ([*CREDENTIAL_0, "expires"], 0, "expires is an integer from 1"),
    ([*CREDENTIAL_0, "key"], "ab", "key is 32 bytes"),
    (["extra"], [], "holds params and verifiers"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=lambda item: repr(item)[:40])
def test_a_wrong_document_is_refused_and_says_why(
    path: list[str | int], value: Any, message: str
) -> None:
    with pytest.raises(GenesisError, match=message):
        state_of(changed(path, value))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
PLACES: list[tuple[str | int, ...]] = [
    *[(name,) for name in DOCUMENT],
    *[(*VERIFIER_0, name) for name in DOCUMENT["verifiers"][0]],
    *[(*MODEL_0, name) for name in DOCUMENT["models"][0]],
    *[(*CREDENTIAL_0, name) for name in DOCUMENT["credentials"][0]],
    *[("params", name) for name in ("epoch_blocks", "quorum_ppm")],
]


@given(st.sampled_from(PLACES), JUNK)
def test_no_document_raises_anything_else(place: tuple[str | int, ...], value: Any) -> None:
    try:
        state = state_of(changed(place, value))
    except GenesisError:
        return
    assert load_chain(state).chain_id == "chain"


def test_every_parameter_has_limits_and_a_default_within() -> None:
    defaults = Parameters().to_wire()
    assert set(LIMITS) == {field.name for field in fields(Parameters)} == set(defaults)
    for name, (low, high) in LIMITS.items():
        assert low <= defaults[name] <= high, name


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_parameters_end_where_their_limits_say(name: str) -> None:
    low, high = LIMITS[name]
    for value in (low - 1, high + 1):
        with pytest.raises(InvalidParameters, match=name):
            parameters_from({name: value})

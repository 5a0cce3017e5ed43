import tomllib
from importlib.resources import files
from typing import Any

import pytest

from localnet.topology import ModelNode, load_topology, parse_topology
from planetserve.errors import ConfigurationError


def default() -> dict[str, Any]:
    return tomllib.loads(files("localnet").joinpath("default.toml").read_text())


def test_the_default_is_four_validators_three_probers_twelve_relays_and_one_cheat() -> None:
    topology = load_topology()
    assert (topology.validators, topology.probers, topology.relays) == (4, 3, 12)
    assert [node.cheat for node in topology.model_nodes] == [None, None, None, "tamper"]
    assert topology.parameters["epoch_blocks"] == 30


def test_one_node_of_the_network_for_vllm_runs_it() -> None:
    topology = load_topology(engine="vllm")
    assert topology.needs_vllm
    assert [node.engine for node in topology.model_nodes] == ["vllm", "llamacpp"]
    assert not load_topology().needs_vllm


def test_no_name_tells_the_cheat_from_the_others() -> None:
    names = [node.name for node in load_topology().model_nodes]
    assert names == [f"model-{number}" for number in range(1, 5)]


def test_what_is_left_out_is_honest_and_fixed() -> None:
    content = default()
    for name in ("allow_cheats", "restart", "parameters"):
        del content[name]
    content["model_nodes"] = [{"name": "one"}]
    topology = parse_topology(content)
    assert not topology.allow_cheats
    assert not topology.restart
    assert topology.model_nodes == (ModelNode("one"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chian_id": "x"}, "no entry chian_id"),
        ({"relays": {"count": 3, "cuont": 3}}, "no entry relays.cuont"),
        ({"relays": {}}, "relays.count is missing"),
        ({"relays": {"count": "3"}}, "relays.count must be of type int"),
        ({"relays": {"count": True}}, "relays.count must be of type int"),
        ({"base_port": 80}, "base_port must be from 1024"),
        ({"validators": {"count": 0, "power": 1, "probers": 0}}, "validators.count must be from 1"),
        ({"validators": {"count": 2, "power": 1, "probers": 3}}, "probers must be from 0 to 2"),
        ({"parameters": {"epoch_blocks": 2.5}}, "parameters.epoch_blocks must be an integer"),
        ({"model_nodes": [{"name": "a"}, {"name": "a"}]}, "two model nodes are named a"),
        ({"model_nodes": [{"name": "a/b"}]}, r"model_nodes\[0\].name must be made of"),
        ({"model_nodes": [{"name": "relay-1"}]}, "looks like another role's"),
        ({"model_nodes": [{"name": "a", "cheat": "lie"}]}, "cheat must be one of tamper"),
        ({"model_nodes": [{"name": "a", "engine": "x"}]}, "engine must be one of llamacpp, vllm"),
        ({"model_nodes": ["a"]}, r"model_nodes\[0\] must be a table"),
        ({"allow_cheats": False}, "allow_cheats is false"),
    ],
)
def test_a_wrong_entry_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_topology({**default(), **change})

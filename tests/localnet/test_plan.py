from dataclasses import replace
from pathlib import Path

import pytest

from localnet.plan import MODEL, RELAY, VALIDATOR, Layout, Plan, make_plan
from localnet.topology import load_topology
from planetserve.errors import ConfigurationError

FOLDER = Path("/net")


def plan_at(base_port: int = 26600) -> Plan:
    topology = replace(load_topology(), base_port=base_port)
    return make_plan(topology, Layout(FOLDER), Path("/bin"))


def test_every_port_is_taken_once_and_they_follow_each_other() -> None:
    ports = [port for process in plan_at().processes for port, _ in process.ports()]
    assert ports == list(range(26600, 26600 + len(ports)))


def test_a_relay_is_told_its_network_key_name_and_addresses() -> None:
    relay = plan_at().of_role(RELAY)[2]
    overlay, http = relay.addresses["overlay"], relay.addresses["http"]
    assert relay.argv == (
        *("/bin/ps-relay", "run", "--network", "/net/network.toml"),
        *("--key", "/net/keys/relay-3.key", "--name", "relay-3"),
        *("--bind", overlay, "--http", http),
    )
    assert relay.health == f"http://{http}/health"


def test_a_validator_reads_its_other_addresses_from_its_home() -> None:
    validator = plan_at().of_role(VALIDATOR)[1]
    assert set(validator.addresses) == {"p2p", "rpc", "http"}
    assert validator.argv == (
        *("/bin/ps-node", "run", "--home", "/net/nodes/validator-2"),
        *("--http", validator.addresses["http"]),
    )


def test_only_the_cheat_is_told_to_cheat() -> None:
    cheats = {node.name: "--cheat" in node.argv for node in plan_at().of_role(MODEL)}
    assert cheats == {"model-1": False, "model-2": False, "model-3": False, "model-4": True}


def test_a_node_on_vllm_is_told_its_model_and_passes_on_the_rest() -> None:
    topology = load_topology(engine="vllm")
    plan = make_plan(topology, Layout(FOLDER), Path("/bin"), Path("/models/small"))
    on_vllm, other = plan.of_role(MODEL)
    options, passed_on = on_vllm.argv[: on_vllm.argv.index("--")], on_vllm.argv[-5:]
    assert options[options.index("--engine") + 1] == "vllm"
    assert options[options.index("--model-path") + 1] == "/models/small"
    assert options[options.index("--vllm-log") + 1] == "/net/logs/model-1-vllm.log"
    assert passed_on == ("--dtype", "bfloat16", "--enforce-eager", "--block-size", "32")
    assert "--" not in other.argv
    assert "VLLM_CPU_KVCACHE_SPACE" in on_vllm.environment
    assert "VLLM_CPU_KVCACHE_SPACE" not in other.environment


def test_probers_of_the_other_validators_keep_their_keys_free() -> None:
    plan = plan_at()
    assert plan.idle_probers == ("prober-4",)
    assert "prober-4" not in {process.name for process in plan.processes}


def test_the_network_file_lists_every_rpc_server() -> None:
    plan = plan_at()
    network = plan.network("ab" * 32, "cd" * 32)
    assert network.rpc == tuple(
        f"http://{node.addresses['rpc']}" for node in plan.of_role(VALIDATOR)
    )
    assert network.allow_cheats


def test_ports_that_do_not_exist_are_refused_with_a_base_that_works() -> None:
    needed = sum(1 for process in plan_at().processes for _ in process.ports())
    highest = 65536 - needed
    assert plan_at(highest).processes
    with pytest.raises(ConfigurationError, match=f"base_port may be at most {highest}$"):
        plan_at(highest + 1)

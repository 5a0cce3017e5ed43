import os
import signal
import socket

from localnet.state import StateFile
from tests.network.localnetwork import LocalNetwork


def test_the_default_topology_is_ready(localnet: LocalNetwork) -> None:
    document = localnet.read_json("ps-localnet", "status")
    assert document["ready"]
    roles = [process["role"] for process in document["processes"]]
    counts = {role: roles.count(role) for role in roles}
    assert counts == {"validator": 4, "prober": 3, "relay": 12, "model": 4}
    assert all(process["healthy"] for process in document["processes"])


def test_a_second_up_is_refused_and_changes_nothing(localnet: LocalNetwork) -> None:
    before = localnet.status()
    for option in ([], ["--detach"]):
        done = localnet.run(*localnet.up_command(), *option)
        assert done.returncode == 2
        assert "runs in" in done.stderr
        assert "ps-localnet down" in done.stderr
    assert localnet.status() == before


def test_a_killed_process_is_seen_and_can_be_started_again(localnet: LocalNetwork) -> None:
    before = localnet.process("relay-12")
    localnet.kill("relay-12")
    dead = localnet.process("relay-12")
    assert (dead["healthy"], localnet.status()["ready"]) == (False, False)
    localnet.start("relay-12")
    after = localnet.process("relay-12")
    assert after["pid"] != before["pid"]
    assert after["addresses"] == before["addresses"]
    localnet.wait_ready()
    refused = localnet.run("ps-localnet", "start", "relay-12")
    assert refused.returncode == 2
    assert "runs already" in refused.stderr


def test_ctrl_c_leaves_nothing(small_network: LocalNetwork) -> None:
    process = small_network.popen(*small_network.up_command())
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("Ready"))
    assert "Logs are in" in line
    assert small_network.read_json("ps-localnet", "status")["ready"]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    small_network.assert_nothing_left()
    assert small_network.run("ps-localnet", "status").returncode == 3


def test_ctrl_c_while_starting_leaves_nothing(small_network: LocalNetwork) -> None:
    process = small_network.popen(*small_network.up_command(), "--detach")
    assert process.stderr is not None
    next(line for line in process.stderr if "healthy:" in line)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    small_network.assert_nothing_left()


def test_a_port_in_use_is_named_before_anything_starts(small_network: LocalNetwork) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", small_network.base_port + 1))
        other.listen()
        done = small_network.run(*small_network.up_command(), "--detach")
    assert done.returncode == 2
    assert f"port {small_network.base_port + 1} is in use; validator-1 needs it" in done.stderr
    assert not (small_network.folder / "nodes").exists()


def test_a_supervisor_that_is_killed_leaves_nothing(small_network: LocalNetwork) -> None:
    small_network.up()
    state = StateFile(small_network.folder).read()
    assert state is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    listed = [process.process for process in state.processes]
    small_network.wait(
        lambda: not any(process and process.alive() for process in listed), "the children", 30.0
    )
    small_network.assert_nothing_left()


def test_up_goes_on_where_a_killed_supervisor_left_off(small_network: LocalNetwork) -> None:
    small_network.up()
    state = StateFile(small_network.folder).read()
    assert state is not None
    chain = small_network.network_file.read_text()
    height = small_network.read_json("ps-ledger", "status")["height"]
    os.kill(state.supervisor.pid, signal.SIGKILL)
    small_network.extra.append("--keep")
    small_network.up()
    assert small_network.network_file.read_text() == chain
    assert small_network.read_json("ps-ledger", "status")["height"] >= height


def test_a_process_that_ends_at_start_is_named_with_its_log(small_network: LocalNetwork) -> None:
    topology = small_network.folder.parent / "small.toml"
    cheat = '\n[[model_nodes]]\nname = "odd"\ncheat = "swap"\n'
    topology.write_text(f"allow_cheats = true\n{topology.read_text()}{cheat}")
    done = small_network.run(*small_network.up_command(), "--detach")
    assert done.returncode == 1
    assert "odd ended with code 2" in done.stderr
    assert "--cheat-model" in done.stderr
    small_network.assert_nothing_left()

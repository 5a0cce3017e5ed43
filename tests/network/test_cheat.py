"""A model node that answers from a changed prompt loses its trust, the honest ones do not."""

from __future__ import annotations

import pytest

from tests.network.localnetwork import LocalNetwork

HONEST = ("model-1", "model-2", "model-3")
CHEAT = "model-4"
EPOCHS = 6


@pytest.mark.timeout(700)
def test_the_cheat_is_out_within_six_epochs(localnet: LocalNetwork) -> None:
    localnet.wait(
        lambda: localnet.nodes()[CHEAT]["status"] == "untrusted", "the cheat's fall", 300.0
    )
    history = localnet.read_json("ps-ledger", "reputation", CHEAT)["history"]
    judged = [entry for entry in history if entry["credit_ppm"] is not None]
    before = [entry for entry in judged if entry["status"] != "untrusted"]
    assert len(before) < EPOCHS
    localnet.wait(
        lambda: all(localnet.nodes()[name]["reputation_ppm"] > 500_000 for name in HONEST),
        "the honest nodes' rise",
        300.0,
    )
    nodes = localnet.nodes()
    assert [nodes[name]["status"] for name in HONEST] == ["trusted"] * 3
    assert nodes[CHEAT]["status"] == "untrusted"
    cheat_id = nodes[CHEAT]["id"]
    for _ in range(6):
        answer = localnet.read_json("ps-client", "ask", "What is 2 + 2?", "--max-tokens", "8")
        assert answer["node_id"] != cheat_id


def test_the_list_of_nodes_is_whole(localnet: LocalNetwork) -> None:
    nodes = localnet.nodes().values()
    roles = [role for node in nodes for role in node["roles"]]
    assert {role: roles.count(role) for role in ("verifier", "relay", "model")} == {
        "verifier": 4,
        "relay": 12,
        "model": 4,
    }
    for node in nodes:
        assert {"id", "name", "roles", "status", "reputation_ppm", "endpoints"} < set(node)
        assert "credential_expires" in node


def test_every_settled_score_can_be_seen(localnet: LocalNetwork) -> None:
    history = localnet.read_json("ps-ledger", "reputation", CHEAT)["history"]
    settled = next(entry for entry in history if entry["credit_ppm"] is not None)
    assert settled["credit_ppm"] < 400_000
    assert len(settled["scores"]) >= 3
    epoch = localnet.read_json("ps-ledger", "epoch", str(settled["epoch"]))
    assert epoch["epoch"] == settled["epoch"]

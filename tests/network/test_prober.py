"""The prober as a person runs it."""

from __future__ import annotations

import json

from tests.network.localnetwork import LocalNetwork


def test_a_prober_run_by_hand_ends_by_itself(localnet: LocalNetwork) -> None:
    key = str(localnet.folder / "keys" / "prober-4.key")
    done = localnet.run("ps-prober", "run", "--key", key, "--epochs", "1", "--json", timeout_s=280)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    probed = [event for event in events if event["what"] == "probe"]
    assert {event["node"] for event in probed} <= {"model-1", "model-2", "model-3", "model-4"}
    assert all(0 <= event["similarity_ppm"] <= 1_000_000 for event in probed)
    revealed = {event["node"] for event in events if event["what"] == "reveal"}
    assert revealed
    assert revealed <= {event["node"] for event in events if event["what"] == "commit"}
    transcripts = localnet.folder / "keys" / "prober-4.transcripts.jsonl"
    kept = [json.loads(line) for line in transcripts.read_text().splitlines()]
    assert {entry["credit_ppm"] for entry in kept} == {event["credit_ppm"] for event in probed}
    assert transcripts.stat().st_mode & 0o777 == 0o600


def test_a_key_in_use_names_its_user(localnet: LocalNetwork) -> None:
    key = str(localnet.folder / "keys" / "prober-1.key")
    done = localnet.run("ps-prober", "run", "--key", key)
    assert done.returncode == 2
    assert f"ps-prober (process {localnet.process('prober-1')['pid']})" in done.stderr


def test_a_key_that_is_no_verifiers_is_refused(localnet: LocalNetwork) -> None:
    key = str(localnet.folder / "keys" / "relay-1.key")
    localnet.kill("relay-1")
    done = localnet.run("ps-prober", "run", "--key", key)
    localnet.start("relay-1")
    assert done.returncode == 2
    assert "no verifier's prober key" in done.stderr

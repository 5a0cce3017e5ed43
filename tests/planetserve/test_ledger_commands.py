"""`ps-ledger`'s answers, from arguments to output, against servers in memory that prove or lie."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from abci_app.core.state import load
from planetserve import transactions
from planetserve.encoding import encode
from planetserve.ledger_cli.proposals import change_text
from planetserve.statekeys import CHAIN_KEY, result_key, verifier_key
from planetserve.transactions import ENDORSE, EVIDENCE, PROPOSE, REGISTER, REVOKE, ROTATE
from tests.abci_app.world import (
    CHAIN_ID,
    FOUNDER,
    MODEL,
    RELAY,
    VERIFIERS,
    World,
    conflict,
    participant,
    registration,
)
from tests.planetserve.ledger_servers import Chain
from tests.planetserve.ledger_views import (
    CHAIN,
    SHORT,
    STRANGER,
    SUCCESSOR,
    WORLD,
    Command,
    Run,
    busy_world,
    chain_of_world,
)
from tests.planetserve.light_chain import CHAIN_ID as SERVED_CHAIN


def read_json(run: Run, *arguments: str) -> Any:
    code, output, errors = run(*arguments, "--json")
    assert (code, errors) == (0, "")
    return json.loads(output)


READS = [
    ["status"],
    ["nodes"],
    ["reputation", "model-a"],
    ["reputation", "model-a", "--explain"],
    ["reputation", "relay-a", "--explain"],
    ["credential", "relay-a"],
    ["epoch", "1"],
    ["params"],
    ["verify"],
    ["models"],
    ["proposals"],
]


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_every_answer_says_at_which_height_it_is_verified(
    arguments: list[str], command: Command
) -> None:
    run, _ = command()
    code, output, errors = run(*arguments)
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1] == f"verified at height {WORLD.height}"
    content = read_json(run, *arguments)
    assert content["verified_height"] == content["height"] == WORLD.height


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_no_lie_is_shown_and_another_server_is_asked(
    arguments: list[str], command: Command
) -> None:
    def forge(answer: Any) -> Any:
        shown = json.loads(json.dumps(answer["roots"], default=bytes.hex))
        return {**answer, "roots": {name: bytes(32) for name in shown}}

    run, servers = command(state=forge)
    code, output, _ = run(*arguments)
    assert code == 0
    assert output.splitlines()[-1] == f"verified at height {WORLD.height}"
    servers.by_address["http://two"].lies["state"] = forge
    code, output, errors = run(*arguments)
    assert (code, output) == (4, "")
    assert errors.startswith("error: no server proves its answer.")
    assert errors.count("\n") == 1


def test_nobody_there_is_exit_code_3(command: Command) -> None:
    run, servers = command()
    for server in servers.by_address.values():
        server.dead = True
    code, output, errors = run("nodes")
    assert (code, output) == (3, "")
    assert "no RPC server answered" in errors


def test_the_form_of_nodes_that_programs_rely_on(command: Command) -> None:
    run, _ = command()
    content = read_json(run, "nodes")
    assert set(content) == {"height", "verified_height", "nodes"}
    by_name = {node["name"]: node for node in content["nodes"]}
    assert by_name["model-a"]["status"] == "untrusted"
    assert by_name["relay-a"]["id"] == SUCCESSOR.id.hex()
    assert set(by_name["relay-a"]) == {
        *["id", "name", "roles", "status", "reputation_ppm"],
        *["credential_expires", "endpoints"],
    }


def test_an_explanation_shows_evidence_formula_and_what_the_node_can_do(command: Command) -> None:
    run, _ = command()
    _, output, _ = run("reputation", "model-a", "--explain")
    for line in (
        f"node        model-a {FOUNDER.id.hex()}",
        "status      untrusted",
        "routed to   no: it lost trust; back with R >= .500 after 5 epochs in a row with "
        "C >= .400, so far 0",
        "epoch 1, heights 6 to 10",
        "  .800  by verifier-0  power 10  3 samples  transcripts 000000000000",
        "  R          .4 x .500 + .6 x .800 = .680",
        "  R          .4 x .452 + .100 x (5 + 1) / (5 + 2 / .2 + 2) = .216094",
        "  status     untrusted: lost trust: reputation below the threshold",
        "epoch 1 is the node's first with scores",
        "computed again from the evidence: 3 epochs",
    ):
        assert line in output.splitlines(), output
    _, output, _ = run("reputation", "model-a", "--explain", "--epochs", "1")
    assert "epoch 2" not in output
    assert "there are older epochs; --epochs N shows more" in output
    content = read_json(run, "reputation", "model-a", "--explain")
    assert content["can"]["routed_to"].startswith("no: it lost trust")
    assert content["differences"] == []
    last = content["history"][-1]
    assert last["explained"]["formula"] == ".4 x .452 + .100 x (5 + 1) / (5 + 2 / .2 + 2)"
    assert last["explained"]["after"]["window_ppm"] == [800_000, 300_000, 100_000]
    assert [score["name"] for score in last["scores"]] == [
        f"verifier-{VERIFIERS.index(verifier)}"
        for verifier in sorted(VERIFIERS[:3], key=lambda item: item.id)
    ]


def test_a_plain_reputation_is_a_table(command: Command) -> None:
    run, _ = command()
    _, output, _ = run("reputation", FOUNDER.id.hex()[:8])
    lines = output.splitlines()
    assert lines[4] == (
        "epoch  credit C  reputation R    abnormal  scores                      why"
    )
    assert lines[-3].endswith("lost trust: reputation below the threshold")
    content = read_json(run, "reputation", "model-a")
    assert [item["after"]["ppm"] for item in content["history"]] == [680_000, 452_000, 216_094]
    assert content["history_begins"] == "first"


def test_a_record_that_its_evidence_does_not_give_is_refused(command: Command) -> None:
    world = busy_world()
    epoch = max(number for number in range(9) if load(world.state, result_key(number, FOUNDER.id)))
    key = result_key(epoch, FOUNDER.id)
    result = load(world.state, key)
    world.items[key] = encode({**result, "after": {**result["after"], "ppm": 900_000}})
    run, _ = command(chain_of_world(world))
    for options in ([], ["--explain"], ["--json"]):
        code, output, errors = run("reputation", "model-a", *options)
        assert (code, errors.count("\n")) == (4, 1)
        assert errors.startswith("error: the ledger's record does not follow")
        assert output
    assert (
        "!! epoch 3: R comes to '.216094' by the rule"
        in run("reputation", "model-a", "--explain")[1]
    )


def test_newer_rules_are_not_computed_again(command: Command) -> None:
    world = busy_world()
    world.items[CHAIN_KEY] = encode({**load(world.state, CHAIN_KEY), "version": 2})
    run, _ = command(chain_of_world(world))
    code, output, _ = run("reputation", "model-a", "--explain")
    assert code == 0
    assert "numbers are proven as recorded, not computed again" in output


def test_a_history_ends_where_the_ledger_has_dropped_it(command: Command) -> None:
    world = busy_world({"history_epochs": 3})
    run, _ = command(chain_of_world(world))
    code, output, errors = run("reputation", "model-a", "--explain")
    assert (code, errors) == (0, "")
    assert "is dropped: 3 epochs are kept" in output
    assert "(began as recorded: what came before this epoch is dropped)" in output
    code, _, errors = run("epoch", "0")
    assert code == 2
    assert "epoch 0 is not kept any more" in errors


def test_a_node_without_scores_says_why(command: Command) -> None:
    world = World({**SHORT, "history_epochs": 1})
    assert world.code_of(FOUNDER, REGISTER, registration(FOUNDER, "model-a", "model")) == 0
    run, _ = command(chain_of_world(world))
    code, output, errors = run("reputation", "model-a", "--explain")
    assert (code, errors) == (0, "")
    assert "no epoch has settled a score of this node yet" in output
    assert "window      none yet" in output
    world.advance_to(world.window.end)
    world.score(FOUNDER.id, dict.fromkeys(range(4), 800_000))
    for _ in range(3):
        world.advance_to(world.window.end)
    run, _ = command(chain_of_world(world))
    assert "its scores are older than what the ledger keeps" in run("reputation", "model-a")[1]


def test_evidence_is_shown_beside_the_epochs(command: Command) -> None:
    world = busy_world()
    assert world.code_of(VERIFIERS[3], EVIDENCE, conflict(FOUNDER, "one", "two")) == 0
    run, _ = command(chain_of_world(world))
    code, output, errors = run("reputation", "model-a", "--explain")
    assert (code, errors) == (0, "")
    assert f"evidence   at height {world.height} by verifier-3" in output
    content = read_json(run, "reputation", "model-a", "--explain")
    assert content["convictions"][0]["reporter"] == VERIFIERS[3].id.hex()


def test_a_node_that_nobody_scores(command: Command) -> None:
    run, _ = command()
    _, output, _ = run("reputation", "relay-a", "--explain")
    assert "nobody scores this node: only model nodes are probed" in output
    code, _, errors = run("reputation", "nobody")
    assert code == 2
    assert errors.startswith("error: no node is called 'nobody'")
    _, output, _ = run("reputation", RELAY.id.hex())
    assert output.splitlines()[0] == f"node        relay-a {SUCCESSOR.id.hex()}"


def test_credentials_of_a_node_a_stranger_and_a_former_key(command: Command) -> None:
    run, _ = command()
    by_name = read_json(run, "credential", "relay-a")
    assert by_name["key"] == SUCCESSOR.public_key.hex()
    (entry,) = by_name["credentials"]
    assert (entry["role"], entry["endorser_name"], entry["standing"]) == (
        "relay",
        "verifier-0",
        "valid",
    )
    assert read_json(run, "credential", SUCCESSOR.public_key.hex()) == by_name
    assert read_json(run, "credential", SUCCESSOR.id.hex()[:8]) == by_name
    assert read_json(run, "credential", RELAY.id.hex()[:8])["name"] == "relay-a"

    _, output, _ = run("credential", STRANGER.public_key.hex())
    assert "registered  not yet; it may, and needs no place among the candidates" in output
    assert "user  verifier-1" in output
    by_id = read_json(run, "credential", STRANGER.id.hex())
    assert (by_id["key"], by_id["registered"]) == (None, None)

    _, output, _ = run("credential", RELAY.public_key.hex())
    assert f"no longer: rotated to {SUCCESSOR.public_key.hex()}" in output
    assert "its credentials went to the key that took over" in output
    former = read_json(run, "credential", RELAY.id.hex())
    assert (former["successor"], former["credentials"]) == (SUCCESSOR.public_key.hex(), [])

    _, output, _ = run("credential", participant(99).public_key.hex())
    assert "no verifier endorses it" in output
    _, output, _ = run("credential", "verifier-1")
    assert "a verifier needs no endorsement" in output
    code, _, errors = run("credential", participant(99).id.hex()[:9])
    assert (code, errors.count("\n")) == (2, 1)


def test_credentials_end_by_time_revocation_and_rotation(command: Command) -> None:
    world = busy_world()
    data = transactions.revoke(node=SUCCESSOR.id, role="relay")
    assert world.code_of(VERIFIERS[0], REVOKE, data) == 0
    rotation = transactions.rotate(CHAIN_ID, FOUNDER.public_key, participant(82))
    assert world.code_of(FOUNDER, ROTATE, rotation) == 0
    run, _ = command(chain_of_world(world))
    revoked_at = world.height - 1
    assert f"revoked at height {revoked_at}" in run("credential", "relay-a")[1]
    _, output, _ = run("credential", participant(82).public_key.hex())
    assert "not yet: it takes over from model-a at the end of this epoch" in output
    taker = read_json(run, "credential", participant(82).id.hex())
    assert (taker["takes_over"], taker["successor"]) == (FOUNDER.id.hex(), None)
    _, output, _ = run("credential", "model-a")
    assert f"rotates to  {participant(82).public_key.hex()} at the end of this epoch" in output
    assert "model  genesis" in output
    world.advance_to(world.height + 12)
    run, _ = command(chain_of_world(world))
    assert "no verifier endorses it" in run("credential", STRANGER.public_key.hex())[1]


def test_nodes_that_nobody_endorses_are_shown_and_found(command: Command) -> None:
    world = busy_world()
    assert world.code_of(MODEL, REGISTER, registration(MODEL, "model-b", "model")) == 0
    assert world.code_of(SUCCESSOR, transactions.RETIRE, {}) == 0
    run, _ = command(chain_of_world(world))
    listed = {node["name"]: node["status"] for node in read_json(run, "nodes")["nodes"]}
    assert (listed["model-b"], listed["relay-a"]) == ("candidate", "retired")
    assert read_json(run, "status")["nodes"] == {
        "candidate": 1,
        "retired": 1,
        "trusted": 4,
        "untrusted": 1,
    }
    assert read_json(run, "reputation", "model-b", "--explain")["can"]["dialled"].startswith("no")
    assert "no verifier endorses it" in run("credential", "model-b")[1]
    assert "its credentials ended with that" in run("credential", "relay-a")[1]


def test_verifiers_are_shown_with_what_they_were_voted_and_have_left(command: Command) -> None:
    world = busy_world()
    key = verifier_key(VERIFIERS[2].id)
    faulty = {"power": 5, "trust_ppm": 500_000, "benched": 9}
    world.items[key] = encode({**load(world.state, key), **faulty})
    run, _ = command(chain_of_world(world))
    output = run("status")[1]
    assert f"verifier-2  {VERIFIERS[2].id.hex()}  5      10     0.500  to epoch 9" in output
    shown = {v["name"]: v for v in read_json(run, "status")["verifiers"]}
    assert (shown["verifier-2"]["power"], shown["verifier-2"]["voted_power"]) == (5, 10)
    # What is voted in an epoch weighs from the next on.
    probers = read_json(run, "epoch", str(world.chain.epoch.number))["probers"]
    assert [prober["power"] for prober in probers] == [10] * 4


def test_epochs_settled_running_and_to_come(command: Command) -> None:
    run, _ = command()
    _, output, _ = run("epoch", "2")
    assert output.splitlines()[:2] == ["epoch       2", "heights     11 to 15"]
    assert "model-a  0.300     0.680 -> 0.452  trusted" in output
    settled = read_json(run, "epoch", "3")
    assert (settled["commits"], settled["reveals"], len(settled["results"])) == (3, 3, 1)
    assert settled["results"][0]["scores"][0]["power"] == 10
    running = WORLD.chain.epoch.number
    assert read_json(run, "epoch", str(running))["settled"] is None
    assert "not yet: with block" in run("epoch", str(running))[1]
    code, _, errors = run("epoch", str(running + 1))
    assert code == 2
    assert f"epoch {running + 1} has not begun: epoch {running} is running" in errors


def test_results_of_former_ids_are_found(command: Command) -> None:
    world = busy_world()
    data = transactions.rotate(CHAIN_ID, FOUNDER.public_key, participant(82))
    assert world.code_of(FOUNDER, ROTATE, data) == 0
    world.advance_to(world.window.end)
    run, _ = command(chain_of_world(world))
    assert len(read_json(run, "epoch", "2")["results"]) == 1
    assert len(read_json(run, "reputation", "model-a")["history"]) == 3


def test_parameters_models_and_proposals(command: Command) -> None:
    run, _ = command()
    assert read_json(run, "params")["params"] == WORLD.chain.parameters.to_wire()
    assert "untrusted_below_ppm         .300" in run("params")[1]
    (model,) = read_json(run, "models")["models"]
    assert (model["name"], model["trusted_nodes"]) == ("tiny", 0)
    (proposal,) = read_json(run, "proposals")["proposals"]
    assert proposal["power"] == {"total": 40, "yes": 10, "no": 0}
    assert (
        "window_epochs = 6  verifier-0  power 10 yes, 0 no, 27 of 40 needed" in run("proposals")[1]
    )


def test_changes_of_every_kind_are_put_in_words() -> None:
    names = {bytes(20): "x", bytes([1]) * 20: "node-1"}
    model = {"name": "m", "quantization": "F16", "context_tokens": 9, "weights_digest": bytes(32)}
    for change, text in (
        ({"kind": "cancel", "version": 2}, "no upgrade to version 2 of the rules"),
        ({"kind": "expel", "node": bytes([1]) * 20}, "node-1 loses its credentials"),
        (
            {"kind": "model", "deterministic": True, **model},
            "nodes may serve m (F16, 9 tokens, deterministic), weights 0000000000000000",
        ),
    ):
        assert change_text(change, names) == text


def test_pending_changes_are_shown(command: Command) -> None:
    world = busy_world()
    for verifier in VERIFIERS[1:3]:
        data = transactions.vote(proposal=1, approve=True)
        assert world.code_of(verifier, transactions.VOTE, data) == 0
    upgrade = transactions.propose(
        change={"kind": "upgrade", "version": 2, "height": world.height + 20_000}
    )
    assert world.code_of(VERIFIERS[0], PROPOSE, upgrade) == 0
    for verifier in VERIFIERS[1:3]:
        data = transactions.vote(proposal=2, approve=True)
        assert world.code_of(verifier, transactions.VOTE, data) == 0
    run, _ = command(chain_of_world(world))
    content = read_json(run, "params")
    assert content["pending"] in ({"window_epochs": 6}, {})
    assert content["upgrade"]["version"] == 2
    assert "version 2 takes over at height" in run("params")[1]
    assert "version 2 of the rules at height" in run("proposals", "--all")[1]


def test_verify_names_who_signs_and_who_does_not_agree(command: Command) -> None:
    run, servers = command()
    content = read_json(run, "verify")
    assert (content["signed_power"], content["total_power"]) == (40, 40)
    assert [server["verdict"] for server in content["servers"]] == ["agrees", "agrees"]
    assert content["header"]["height"] == WORLD.height + 1
    servers.by_address["http://two"].dead = True
    code, output, _ = run("verify")
    assert code == 0
    assert "1 of 2 servers show this header" in output

    def forge(answer: Any) -> Any:
        header = {**answer["signed_header"]["header"], "app_hash": "AA" * 32}
        return {**answer, "signed_header": {**answer["signed_header"], "header": header}}

    servers.by_address["http://two"].dead = False
    servers.by_address["http://two"].lies["commit"] = forge
    code, output, errors = run("verify")
    assert code == 4
    assert "http://two  refused" in output
    assert errors.startswith("error: take out of the network file")


def with_transactions(*raws: bytes, codes: tuple[int, ...] = ()) -> Chain:
    """The busy chain with one more block that holds them, and the one that proves it."""
    chain = CHAIN.fork(CHAIN.height)
    chain.extend(dict(WORLD.items), raws, codes or (0,) * len(raws))
    chain.extend(dict(WORLD.items))
    return chain


def test_a_transaction_and_its_code(command: Command) -> None:
    data = transactions.endorse(node=MODEL.id, role="model", expires=99)
    signed = transactions.sign_transaction(VERIFIERS[0], SERVED_CHAIN, 3, ENDORSE, data)
    chain = with_transactions(signed, b"\xc1\x1b[2J", codes=(21, 1))
    run, _ = command(chain)
    digest = hashlib.sha256(signed).hexdigest()
    code, output, errors = run("tx", digest)
    assert (code, errors) == (0, "")
    assert "code         21: the expiry height has passed or lies too far ahead" in output
    assert f"sender       verifier-0 {VERIFIERS[0].id.hex()}" in output
    assert f"  node       {MODEL.id.hex()}" in output
    assert output.splitlines()[-1] == f"verified at height {CHAIN.height + 1}"
    content = read_json(run, "tx", digest.upper())
    assert (content["kind"], content["nonce"], content["code"]) == ("endorse", 3, 21)
    assert content["data"] == {"expires": 99, "node": MODEL.id.hex(), "role": "model"}
    malformed = hashlib.sha256(b"\xc1\x1b[2J").hexdigest()
    assert "5 bytes that are no transaction of the ledger" in run("tx", malformed)[1]
    assert read_json(run, "tx", malformed)["kind"] is None
    assert run("tx", "11" * 32)[0] == 2
    assert run("tx", "xyz")[0] == 2

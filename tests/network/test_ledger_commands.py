"""`ps-ledger` on real validators: proven evidence, and what it does when a server lies."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from planetserve.keys import read_identity, write_identity
from planetserve.ledger import LedgerClient
from planetserve.transactions import REVEAL
from tests.network.test_lying_rpc import Proxy, state_lie
from tests.network.validators import (
    Chain,
    admit,
    commit_score,
    fresh_epoch,
    person,
    run,
    running_chain,
    score_of,
    until_height,
)

MODEL, RELAY = person(21), person(22)
PARAMETERS = {"epoch_blocks": 20, "commit_blocks": 10}
GOOD, BAD = 800_000, 100_000


async def settle(ledger: LedgerClient, scores_ppm: list[int]) -> int:
    """One epoch's scores of the model node, one of each prober; returns the epoch."""
    status = await fresh_epoch(ledger)
    probers = [person(number) for number in range(1, len(scores_ppm) + 1)]
    data = [
        score_of(prober, status, MODEL, score)
        for prober, score in zip(probers, scores_ppm, strict=True)
    ]
    await asyncio.gather(*(commit_score(ledger, p, d) for p, d in zip(probers, data, strict=True)))
    await until_height(ledger, status.commit_end)
    await asyncio.gather(*(ledger.send(p, REVEAL, d) for p, d in zip(probers, data, strict=True)))
    await until_height(ledger, status.epoch_end)
    return status.epoch


def shown(chain: Chain, *arguments: str) -> str:
    done = chain.ledger(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), (arguments, done)
    return done.stdout


def content(chain: Chain, *arguments: str) -> Any:
    return json.loads(shown(chain, *arguments, "--json"))


async def test_evidence_is_proven_explained_and_no_lie_believed(tmp_path: Path) -> None:
    with running_chain(tmp_path, parameters=PARAMETERS) as chain:
        async with LedgerClient(chain.network) as ledger:
            await admit(ledger, MODEL, "model-a", "model")
            await admit(ledger, RELAY, "relay-a", "relay")
            epochs = [await settle(ledger, [GOOD] * 4), await settle(ledger, [BAD, BAD, BAD, GOOD])]
        text = shown(chain, "reputation", "model-a", "--explain")
        assert "R          .4 x .500 + .6 x .800 = .680" in text
        assert "R          .4 x .680 + .6 x .100 = .332" in text
        assert "by verifier-4" in text
        assert text.splitlines()[-1].startswith("verified at height ")
        history = content(chain, "reputation", "model-a", "--explain")["history"]
        assert [item["epoch"] for item in history] == epochs
        assert [item["explained"]["differences"] for item in history] == [[], []]
        for command in (
            ["status"],
            ["nodes"],
            ["credential", "relay-a"],
            ["epoch", str(epochs[0])],
            ["params"],
            ["models"],
            ["proposals"],
            ["verify"],
        ):
            assert shown(chain, *command)
            assert content(chain, *command)["verified_height"] > 0
        _writes(chain, tmp_path)
        _lies(chain, tmp_path)


def _writes(chain: Chain, folder: Path) -> None:
    keys = []
    for number in range(1, 5):
        keys.append(folder / f"verifier-{number}.key")
        write_identity(keys[-1], person(number))
    key = ("--key", str(keys[0]))
    done = shown(chain, "revoke", "relay-a", "--role", "relay", *key)
    found = content(chain, "tx", transaction_at(chain, int(done.split()[-1])))
    assert (found["kind"], found["sender_name"], found["code"]) == ("revoke", "verifier-1", 0)
    assert found["data"] == {"node": RELAY.id.hex(), "role": "relay"}
    refused = chain.ledger("revoke", "relay-a", "--role", "relay", *key)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "code 22" in refused.stderr
    shown(chain, "endorse", "relay-a", "--role", "relay", *key)
    proposed = shown(chain, "propose", "parameter", "window_epochs", "6", *key)
    assert proposed.startswith("proposal 1 at height ")
    assert "it is open up to height" in proposed
    for other in keys[1:3]:
        voted = shown(chain, "vote", "1", "yes", "--key", str(other))
    assert "it is passed at height" in voted
    assert "window_epochs = 6" in shown(chain, "proposals")
    relay = folder / "relay.key"
    write_identity(relay, RELAY)
    new = folder / "new.key"
    assert f"made {new}" in shown(chain, "rotate", "--key", str(relay), "--new-key", str(new))
    key_after = read_identity(new).public_key
    credential = content(chain, "credential", RELAY.public_key.hex())
    # Asked again at the end of the epoch, the key is one that has been rotated away.
    assert key_after.hex() in (credential["rotates_to"], credential["successor"])
    model = ("--quantization", "Q8_0", "--context-tokens", "64", "--weights-digest", "ab" * 32)
    shown(chain, "register-model", "other", *model, *key)
    assert [item["name"] for item in content(chain, "models")["models"]] == ["other", "tiny"]


def transaction_at(chain: Chain, height: int) -> str:
    """The hash of the one transaction of a block."""
    url = f"{chain.validators[0].address}/block?height={height}"
    with urllib.request.urlopen(url, timeout=10) as response:
        (raw,) = json.load(response)["result"]["block"]["data"]["txs"]
    return hashlib.sha256(base64.b64decode(raw)).hexdigest()


def _lies(chain: Chain, folder: Path) -> None:
    """With one lying server among others the next one answers; alone it is refused."""

    def forge(answer: Any) -> None:
        for store in answer["stores"].values():
            if store:
                store[0][1] = store[0][1][:-1] + b"\0"

    proxy = Proxy(chain.validators[0].address)
    proxy.lie = state_lie(forge)
    others = [validator.address for validator in chain.validators[1:]]
    try:
        for addresses, code in ((proxy.address, *others), 0), ((proxy.address,), 4):
            file = folder / f"lying-{code}.toml"
            file.write_text(replace(chain.network, rpc=addresses).to_toml())
            for command in (["reputation", "model-a", "--explain"], ["nodes", "--json"]):
                done = run("ps-ledger", *command, "--network", str(file))
                assert done.returncode == code, done
                if code:
                    assert done.stdout == ""
                    assert done.stderr.startswith("error: no server proves its answer.")
    finally:
        proxy.close()
